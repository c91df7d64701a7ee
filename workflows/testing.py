"""The conformance kit: whether a workflow, ours or yours, keeps every promise that a deployment relies on.

    def test_mine() -> None:
        check_workflow(MyWorkflow(), {"text": "hello"})

Needs no test framework and no server: what is wrong is an AssertionError whose text says what to change.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from workflows.async_base import AsyncInferenceWorkflow
from workflows.base import BaseInferenceWorkflow
from workflows.card import Card
from workflows.errors import InvalidInput, NotReady, Unsupported, WorkflowError
from workflows.plain import plain
from workflows.tensors import Array
from workflows.types import fold

__all__ = ["check_workflow"]

Workflow = BaseInferenceWorkflow[Any, Any, Any]

_JSON_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


class _NoInput:
    """What no workflow takes, unless it takes anything."""


@dataclass(frozen=True, slots=True)
class _Expectations:
    example: Any
    more: tuple[Any, ...]
    batch: int
    repeatable: bool
    rtol: float
    atol: float

    @property
    def inputs(self) -> list[Any]:
        known = (self.example, *self.more)
        return [known[index % len(known)] for index in range(self.batch)]

    def same(self, first: Any, second: Any) -> bool:
        return not self.repeatable or _alike(plain(first), plain(second), self.rtol, self.atol)


def check_workflow(
    workflow: Workflow,
    example: Any,
    *,
    more: Sequence[Any] = (),
    batch: int = 5,
    repeatable: bool = True,
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> None:
    """Drive a workflow through its whole life, twice, and compare what it does with what it must do.

    Args:
        workflow: An instance that is not set up; it is not set up afterwards either.
        example: An input that it can answer, as its input type or as plain data.
        more: Further inputs, so that answers in the wrong order are noticed.
        batch: How many inputs to run together.
        repeatable: Whether the same input gives the same answer; False for one that draws random numbers.
        rtol: How much a float in the answer may change, relatively, when its input runs in company.
        atol: The same, absolutely.

    Raises:
        AssertionError: With one sentence on what to fix; the workflow's own exception is its cause.
    """
    expected = _Expectations(example, tuple(more), batch, repeatable, rtol, atol)
    _must(not workflow.is_setup, "give check_workflow a workflow on which setup() was not called yet")
    _refuses_to_work(workflow, example, "before setup()")
    _life(workflow, expected)
    # A deployment sets a workflow up on a thread of its own: so does the second life.
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(_life, workflow, expected, " (second setup(), on another thread)").result()
    if isinstance(workflow, AsyncInferenceWorkflow):
        with ThreadPoolExecutor(1) as elsewhere:  # because this thread may have an event loop already
            elsewhere.submit(lambda: asyncio.run(_async_life(workflow, expected))).result()


# ---- one life, by the sync names -------------------------------------------------------------------------------------


def _life(workflow: Workflow, expected: _Expectations, when: str = "") -> None:
    returned = _works(workflow.setup, f"setup(){when}")
    try:
        _must(returned is workflow and workflow.is_setup, "setup() must return the workflow: do not override it")
        _works(workflow.setup, f"setup() on a workflow that is set up{when}")
        _card(workflow)
        _input(workflow, expected.example)
        answer = _works(lambda: workflow.inference(expected.example), f"inference(example){when}")
        _answer(workflow, answer)
        _repeats(workflow, expected, answer)
        _batch(workflow, expected)
        if workflow.streams:
            _streams(workflow, expected, answer)
        else:
            _raises(Unsupported, lambda: workflow.stream(expected.example), "stream() of a workflow without do_stream")
    except BaseException:
        _teardown_quietly(workflow)
        raise
    _works(workflow.teardown, f"teardown(){when}")
    _works(workflow.teardown, f"a second teardown(){when}")
    _refuses_to_work(workflow, expected.example, "after teardown()")


def _refuses_to_work(workflow: Workflow, example: Any, when: str) -> None:
    _must(not workflow.is_setup, f"is_setup must be False {when}")
    _raises(NotReady, lambda: workflow.inference(example), f"inference() {when}")
    _raises(NotReady, lambda: workflow.inference_batch([example]), f"inference_batch() {when}")
    _raises(NotReady, lambda: workflow.stream(example), f"stream() {when}")


def _card(workflow: Workflow) -> None:
    card = _works(lambda: workflow.card("example"), "card()")
    _must(isinstance(card, Card), "card() must return a Card")
    _must(bool(card.summary), f"{type(workflow).__name__} needs a docstring: its first line is the card's summary")
    _works(lambda: Card.model_validate_json(card.model_dump_json()), "the card's way through JSON")
    for place in ("input_schema", "output_schema", "chunk_schema"):
        schema = getattr(card, place)
        if schema is not None:
            _schema(schema, place)
    _must(card.streams == (card.chunk_schema is not None), "a card has a chunk_schema exactly where it streams")


def _schema(node: Any, place: str) -> None:
    """The mistakes that a hand-written `__get_pydantic_json_schema__` makes: what is not JSON, or no type of JSON Schema."""
    if isinstance(node, Mapping):
        _must(all(isinstance(key, str) for key in node), f"{place} of the card has a key that is no string")
        named = node.get("type")
        if isinstance(named, str):
            _must(named in _JSON_TYPES, f"{place} of the card has the unknown type {named!r}")
        for key, part in node.items():
            if key not in ("const", "default", "enum", "examples"):  # those hold data
                _schema(part, place)
    elif isinstance(node, list | tuple):
        for part in node:
            _schema(part, place)
    else:
        _must(node is None or isinstance(node, str | int | float | bool), f"{place} of the card is not plain JSON")


def _input(workflow: Workflow, example: Any) -> None:
    parsed = _works(lambda: workflow.parse_input(example), "validating the example as the workflow's input type")
    _survives(
        parsed, "the example", lambda value: workflow._adapters[0].dump_python(value, mode="json"), workflow.parse_input
    )
    load = _works(lambda: workflow.load_of(parsed), "cost() and bucket() of the example")
    _works(lambda: hash(load.bucket), "hashing what bucket() returned")
    _must(math.isfinite(load.cost) and load.cost >= 0, f"cost() must be a finite number, not {load.cost!r}")
    _must(load == workflow.load_of(parsed), "cost() and bucket() must give the same for the same input every time")


def _answer(workflow: Workflow, answer: Any) -> None:
    adapter = workflow._adapters[1]
    _works(
        lambda: adapter.validate_python(answer),
        "validating what inference() returned as the declared output type (the workflow's second type argument)",
    )
    _survives(answer, "the answer", lambda value: adapter.dump_python(value, mode="json"), workflow.parse_output)
    _is_plain(answer, "the answer's plain form", workflow.parse_output)


def _repeats(workflow: Workflow, expected: _Expectations, answer: Any) -> None:
    again = _works(lambda: workflow.inference(expected.example), "a second inference(example)")
    _must(
        expected.same(answer, again),
        "the same input gave two different answers: state leaks from one request to the next, or say repeatable=False",
    )


def _batch(workflow: Workflow, expected: _Expectations) -> None:
    inputs = expected.inputs
    alone = [_works(partial(workflow.inference, value), "inference() of each input") for value in inputs]
    outcomes = _works(lambda: workflow.inference_batch(inputs), "inference_batch()")
    _same_batch(outcomes, alone, expected, "inference_batch()")
    _must(_works(lambda: workflow.inference_batch([]), "inference_batch([])") == [], "an empty batch has no outcomes")
    if not _is_refused(workflow):
        return  # the input type takes anything: only the workflow could tell good from bad
    middle = len(inputs) // 2
    mixed = workflow.inference_batch([*inputs[:middle], _NoInput(), *inputs[middle:]])
    _must(
        isinstance(mixed[middle], InvalidInput),
        f"an input of a wrong type, in a batch of good ones, must become InvalidInput, not {_shown(mixed[middle])}",
    )
    _same_batch(
        mixed[:middle] + mixed[middle + 1 :], alone, expected, "the good inputs of a batch with a bad one in it"
    )


def _same_batch(outcomes: Any, alone: list[Any], expected: _Expectations, what: str) -> None:
    _must(len(outcomes) == len(alone), f"{what}: {len(alone)} inputs gave {len(outcomes)} outcomes")
    for index, (outcome, answer) in enumerate(zip(outcomes, alone, strict=True)):
        _must(not isinstance(outcome, WorkflowError), f"{what}: input {index} failed with {_shown(outcome)}", outcome)
        _must(
            expected.same(outcome, answer),
            f"{what}: input {index} got another answer than alone. Return do_run_batch's outputs in the order of its "
            "inputs, let no input see its neighbours, and widen rtol and atol only if floats differ a little",
        )


def _streams(workflow: Workflow, expected: _Expectations, answer: Any) -> None:
    chunks = _works(lambda: list(workflow.stream(expected.example)), "stream(example)")
    _chunks(workflow, expected, chunks, answer)
    early = workflow.stream(expected.example)
    _works(lambda: next(early), "the first chunk of a stream")
    _works(early.close, "closing a stream early: do_stream must not yield or raise once it is closed")
    with closing(workflow.stream(expected.example)) as abandoned:
        next(abandoned)
        _works(lambda: workflow.inference(expected.example), "inference() while a stream is open")
    again = _works(lambda: list(workflow.stream(expected.example)), "a new stream after one was closed early")
    _chunks(workflow, expected, again, answer)


def _chunks(workflow: Workflow, expected: _Expectations, chunks: list[Any], answer: Any) -> None:
    output, chunk = workflow._adapters[1:]
    _must(bool(chunks), "stream(example) gave no chunk at all")
    for part in chunks:
        _works(
            partial(chunk.validate_python, part),
            "validating a chunk as the declared chunk type (the workflow's third type argument)",
        )
        _survives(part, "a chunk", lambda value: chunk.dump_python(value, mode="json"), workflow.parse_chunk)
        _is_plain(part, "a chunk's plain form", workflow.parse_chunk)
    whole = _works(lambda: fold(workflow._types[1], chunks), "folding the chunks into one answer")
    _works(lambda: output.validate_python(whole), "validating the folded chunks as the declared output type")
    _must(
        expected.same(whole, answer),
        "the chunks of stream(), folded, are another answer than that of inference(), or say repeatable=False",
    )


def _is_refused(workflow: Workflow) -> bool:
    try:
        workflow.parse_input(_NoInput())
    except InvalidInput:
        return True
    return False


def _teardown_quietly(workflow: Workflow) -> None:
    try:
        workflow.teardown()
    except Exception:  # noqa: BLE001 - something worse is being raised already
        return


# ---- one life, by the async names ------------------------------------------------------------------------------------


async def _async_life(workflow: AsyncInferenceWorkflow[Any, Any, Any], expected: _Expectations) -> None:
    await _comes(workflow.asetup, "asetup()")
    try:
        answer = await _comes(lambda: workflow.ainference(expected.example), "ainference(example)")
        _answer(workflow, answer)
        inputs = expected.inputs
        alone = [await workflow.ainference(value) for value in inputs]
        outcomes = await _comes(lambda: workflow.ainference_batch(inputs), "ainference_batch()")
        _same_batch(outcomes, alone, expected, "ainference_batch()")
        if workflow.streams:
            chunks = [chunk async for chunk in workflow.astream(expected.example)]
            _chunks(workflow, expected, chunks, answer)
            early = workflow.astream(expected.example)
            await _comes(lambda: anext(early), "the first chunk of astream()")
            await _comes(early.aclose, "aclose() of a stream: do_stream must not yield or raise once it is closed")
            async with aclosing(workflow.astream(expected.example)) as again:
                _must(bool([chunk async for chunk in again]), "a new astream() after one was closed early gave nothing")
        else:
            _raises(
                Unsupported, lambda: workflow.astream(expected.example), "astream() of a workflow without do_stream"
            )
    finally:
        await _comes(workflow.ateardown, "ateardown()")
    _must(not workflow.is_setup, "is_setup must be False after ateardown()")


async def _comes(call: Callable[[], Any], what: str) -> Any:
    try:
        return await call()
    except Exception as error:
        raise AssertionError(f"{what} raised {_shown(error)}") from error


# ---- saying what is wrong --------------------------------------------------------------------------------------------


def _must(holds: bool, otherwise: str, cause: object = None) -> None:
    if not holds:
        raise AssertionError(otherwise) from (cause if isinstance(cause, BaseException) else None)


def _works(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"{what} raised {_shown(error)}") from error


def _raises(kind: type[WorkflowError], call: Callable[[], Any], what: str) -> None:
    try:
        got = call()
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise {kind.__name__}, not {_shown(error)}") from error
    raise AssertionError(f"{what} must raise {kind.__name__}, but returned {_shown(got)}")


def _survives(value: Any, what: str, dump: Callable[[Any], Any], parse: Callable[[Any], Any]) -> None:
    """`value` is the same after it was written as JSON and read again."""
    sent = _works(lambda: dump(value), f"turning {what} into JSON")
    sent = _works(lambda: json.loads(json.dumps(sent, allow_nan=False)), f"writing {what} as JSON")
    back = _works(lambda: parse(sent), f"reading {what} again from JSON")
    had = _works(lambda: plain(value), f"making {what}'s plain form")
    _must(_alike(had, plain(back), 0.0, 0.0), f"{what} is not the same after its way through JSON")


def _is_plain(value: Any, what: str, parse: Callable[[Any], Any]) -> None:
    """`value` is the same after a deployment has carried it, and can be written as JSON after that."""
    sent = _works(lambda: plain(value), f"making {what}")
    back = _works(lambda: parse(sent), f"reading {what}")
    _must(_alike(sent, plain(back), 0.0, 0.0), f"{what} is not the same when it is read again")
    arrays: list[Array] = []

    def unusual(part: Any) -> Any:
        if isinstance(part, bytes):
            return part.decode()
        arrays.append(part)
        return [str(item) for item in part.ravel()] if part.dtype.kind in "OS" else part.tolist()

    written = _works(lambda: json.dumps(sent, allow_nan=False, default=unusual), f"writing {what} as JSON")
    if not arrays:  # those have a JSON form of their own
        back = _works(lambda: parse(json.loads(written)), f"reading {what} from JSON")
        _must(_alike(sent, plain(back), 0.0, 0.0), f"{what} is not the same after its way through JSON")


def _shown(value: object) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= 300 else text[:300] + "..."


def _alike(first: Any, second: Any, rtol: float, atol: float) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return _alike_arrays(np.asarray(first), np.asarray(second), rtol, atol)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key], rtol, atol) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_alike, first, second, [rtol] * len(first), [atol] * len(first)))
    return (
        math.isclose(first, second, rel_tol=rtol, abs_tol=atol) if isinstance(first, float) else bool(first == second)
    )


def _alike_arrays(first: Array, second: Array, rtol: float, atol: float) -> bool:
    if first.shape != second.shape or first.dtype.kind != second.dtype.kind:
        return False
    if first.dtype.kind == "f":
        return bool(np.allclose(first, second, rtol=rtol, atol=atol, equal_nan=True))
    return bool((first == second).all())
