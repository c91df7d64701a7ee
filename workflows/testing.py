"""The conformance kit: whether a workflow, ours or yours, keeps every promise that a deployment relies on.

    def test_mine() -> None:
        check_workflow(MyWorkflow(), {"text": "hello"})

Needs no test framework and no server: what is wrong is an AssertionError whose text says what to change.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from itertools import islice
from typing import Any, Final

from pydantic import ValidationError

from workflows.async_base import AsyncInferenceWorkflow
from workflows.base import BaseInferenceWorkflow
from workflows.conformance.claims import comes, must, raises, shown, works
from workflows.conformance.likeness import Expectations, kept, plain_form
from workflows.conformance.portable import check_answer, check_card, check_chunk, check_input
from workflows.conformance.variations import variations
from workflows.declared import read_back
from workflows.errors import InvalidInput, NotReady, Unsupported, WorkflowError
from workflows.types import fold

__all__ = ["check_workflow"]

Workflow = BaseInferenceWorkflow[Any, Any, Any]

_MOST_TRIES: Final = 8


class _NoInput:
    """What no workflow takes, unless it takes anything."""


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
        more: Further inputs, so that answers in the wrong order are noticed. Without one whose answer differs from the
            example's, others like the example are made up and tried; a warning says where that does not help.
        batch: How many inputs to run together.
        repeatable: Whether the same input gives the same answer; False for one that draws random numbers.
        rtol: How much a float in the answer may change, relatively, when its input runs in company. Unless it is 0, one of
            bfloat16 may in any case become the next one.
        atol: The same, absolutely.

    Raises:
        AssertionError: With one sentence on what to fix; the workflow's own exception is its cause.
    """
    expected = Expectations([example, *more], batch, repeatable, rtol, atol)
    must(not workflow.is_setup, "give check_workflow a workflow on which setup() was not called yet")
    _refuses_to_work(workflow, example, "before setup()")
    _life(workflow, expected)
    # A deployment sets a workflow up on a thread of its own: so does the second life.
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(_life, workflow, expected, " (second setup(), on another thread)").result()
    if isinstance(workflow, AsyncInferenceWorkflow):
        with ThreadPoolExecutor(1) as elsewhere:  # because this thread may have an event loop already
            elsewhere.submit(lambda: asyncio.run(_async_life(workflow, expected))).result()
    for note in expected.notes:
        warnings.warn(note, stacklevel=2)


# ---- one life, by the sync names -------------------------------------------------------------------------------------


def _life(workflow: Workflow, expected: Expectations, when: str = "") -> None:
    expected.answers.clear()
    expected.given.clear()
    returned = works(workflow.setup, f"setup(){when}")
    try:
        must(returned is workflow and workflow.is_setup, "setup() must return the workflow: do not override it")
        works(workflow.setup, f"setup() on a workflow that is set up{when}")
        check_card(workflow)
        check_input(workflow, expected.example)
        answer = works(lambda: workflow.inference(expected.example), f"inference(example){when}")
        expected.nothing_changed("inference()")
        check_answer(workflow, answer)
        expected.answered(0, answer, "inference(example)")
        _repeats(workflow, expected)
        if not when:
            _find_another(workflow, expected)
        _batch(workflow, expected)
        if workflow.streams:
            _streams(workflow, expected)
            if not when:
                _leaves_no_trace(workflow, expected)
        else:
            raises(Unsupported, lambda: workflow.stream(expected.example), "stream() of a workflow without do_stream")
    except BaseException:
        _teardown_quietly(workflow)
        raise
    works(workflow.teardown, f"teardown(){when}")
    works(workflow.teardown, f"a second teardown(){when}")
    _refuses_to_work(workflow, expected.example, "after teardown()")


def _refuses_to_work(workflow: Workflow, example: Any, when: str) -> None:
    must(not workflow.is_setup, f"is_setup must be False {when}")
    raises(NotReady, lambda: workflow.inference(example), f"inference() {when}")
    raises(NotReady, lambda: workflow.inference_batch([example]), f"inference_batch() {when}")
    raises(NotReady, lambda: workflow.stream(example), f"stream() {when}")


def _repeats(workflow: Workflow, expected: Expectations) -> None:
    again = works(lambda: workflow.inference(expected.example), "a second inference(example)")
    expected.answered(0, again, "a second inference(example)")
    expected.nothing_changed("a second inference(example)")


def _find_another(workflow: Workflow, expected: Expectations) -> None:
    """An input with an answer of its own, unless `more` has one: with equal answers no mix-up would be noticed."""
    if not expected.repeatable:
        return  # then answers are not compared
    for place, value in enumerate(expected.known[1:], 1):
        answer = works(partial(workflow.inference, value), "inference() of each input")
        expected.answered(place, answer, "inference() of each input")
    if any(not expected.same(expected.answers[0], answer) for answer in expected.answers.values()):
        return
    for other in islice(_made_up(workflow, expected.example), _MOST_TRIES):
        try:
            form = kept(workflow.inference(other))
        except Exception:  # noqa: BLE001, S112 - nobody said that this input is one to answer
            continue
        if not expected.same(expected.answers[0], form):
            expected.known.append(other)
            expected.before.append(plain_form(other))
            return
    expected.notes.append(
        f"{type(workflow).__name__} gave one and the same answer to every input: check_workflow would not notice if a "
        "caller got another caller's. Give it an input with another answer: more=[...]"
    )


def _made_up(workflow: Workflow, example: Any) -> Iterator[Any]:
    """Other inputs like the example, so far as the input type takes them."""
    for form in islice(variations(kept(workflow.parse_input(example))), 10 * _MOST_TRIES):
        try:
            yield read_back(workflow._adapters[0], form)
        except ValidationError:
            continue


def _batch(workflow: Workflow, expected: Expectations) -> None:
    inputs = [expected.known[place] for place in expected.places]
    for place, value in zip(expected.places, inputs, strict=True):
        answer = works(partial(workflow.inference, value), "inference() of each input")
        expected.answered(place, answer, "inference() of each input")
    expected.nothing_changed("inference()")
    outcomes = works(lambda: workflow.inference_batch(inputs), "inference_batch()")
    _same_batch(outcomes, expected.places, expected, "inference_batch()")
    must(works(lambda: workflow.inference_batch([]), "inference_batch([])") == [], "an empty batch has no outcomes")
    backwards = expected.places[::-1]  # so that what is written to a buffer again is something else
    again: list[Any] = [expected.known[place] for place in backwards]
    middle = len(inputs) // 2
    refused = _is_refused(workflow)  # else the input type takes anything: only the workflow could tell good from bad
    outcomes = works(
        lambda: workflow.inference_batch([*again[:middle], *[_NoInput()] * refused, *again[middle:]]),
        "inference_batch() with a bad input among good ones",
    )
    if refused:
        bad = outcomes.pop(middle)
        must(
            isinstance(bad, InvalidInput),
            f"an input of a wrong type, in a batch of good ones, must become InvalidInput, not {shown(bad)}",
        )
    _same_batch(outcomes, backwards, expected, "the good inputs of a batch with a bad one in it")
    expected.nothing_changed("inference_batch()")


def _same_batch(outcomes: Any, places: list[int], expected: Expectations, what: str) -> None:
    must(len(outcomes) == len(places), f"{what}: {len(places)} inputs gave {len(outcomes)} outcomes")
    for index, (outcome, place) in enumerate(zip(outcomes, places, strict=True)):
        must(not isinstance(outcome, WorkflowError), f"{what}: input {index} failed with {shown(outcome)}", outcome)
        form = works(partial(expected.take, outcome), f"{what}: making the plain form of outcome {index}")
        must(
            expected.same(form, expected.answers[place]),
            f"{what}: input {index} got another answer than alone. Return do_run_batch's outputs in the order of its "
            "inputs, let no input see its neighbours, give each an array of its own, and widen rtol and atol only if "
            f"floats differ a little. The input was {shown(expected.known[place])}",
        )


def _streams(workflow: Workflow, expected: Expectations) -> None:
    chunks = works(lambda: _taken(workflow.stream(expected.example), expected), "stream(example)")
    _chunks(workflow, expected, chunks)
    for _ in range(3):
        early = workflow.stream(expected.example)
        works(partial(next, early), "the first chunk of a stream")
        works(early.close, "closing a stream early: do_stream must not yield or raise once it is closed")
    with closing(workflow.stream(expected.example)) as open_:
        first = _taken(islice(open_, 1), expected)
        place = expected.places[-1]
        other = works(lambda: workflow.inference(expected.known[place]), "inference() while a stream is open")
        expected.answered(place, other, "inference() while a stream is open")
        rest = works(lambda: _taken(open_, expected), "a stream, after another request was answered in its midst")
    _chunks(workflow, expected, first + rest)
    again = works(lambda: _taken(workflow.stream(expected.example), expected), "a new stream after others were closed")
    _chunks(workflow, expected, again)
    expected.nothing_changed("stream()")


def _taken(chunks: Iterator[Any], expected: Expectations) -> list[Any]:
    taken = []
    for chunk in chunks:
        expected.take(chunk)
        taken.append(chunk)
    return taken


def _chunks(workflow: Workflow, expected: Expectations, chunks: list[Any], place: int = 0) -> None:
    output = workflow._adapters[1]
    must(bool(chunks), "a stream gave no chunk at all")
    for part in chunks:
        check_chunk(workflow, part)
    whole = works(lambda: fold(workflow._types[1], chunks), "folding the chunks into one answer")
    works(lambda: output.validate_python(whole), "validating the folded chunks as the declared output type")
    must(
        expected.same(kept(whole), expected.answers[place]),
        "the chunks of stream(), folded, are another answer than that of inference(), or say repeatable=False",
    )


def _leaves_no_trace(workflow: Workflow, expected: Expectations) -> None:
    """What a whole stream leaves as it was, one that is closed early leaves as well: else it did not clean up."""
    before = _counts(workflow)
    works(lambda: list(workflow.stream(expected.example)), "stream(example)")
    whole = _counts(workflow)
    with closing(workflow.stream(expected.example)) as early:
        next(early)
    after = _counts(workflow)
    for name, count in before.items():
        if whole.get(name) == count != after.get(name):
            expected.notes.append(
                f"{type(workflow).__name__}.{name} was {count} before and after a whole stream, and {after.get(name)} "
                "after one that was closed early: do_stream must clean up in `finally`, an iterator in `close()`"
            )


def _counts(workflow: Workflow) -> dict[str, float | bool]:
    """The workflow's numbers, the sizes of its collections, and whether its locks are held."""
    counts: dict[str, float | bool] = {}
    for name, value in vars(workflow).items():
        locked = getattr(value, "locked", None)
        if isinstance(value, int | float):
            counts[name] = value
        elif isinstance(value, list | dict | set):
            counts[name] = len(value)
        elif callable(locked):
            counts[name] = bool(locked())
    return counts


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


async def _async_life(workflow: AsyncInferenceWorkflow[Any, Any, Any], expected: Expectations) -> None:
    expected.answers.clear()
    expected.given.clear()
    await comes(workflow.asetup, "asetup()")
    try:
        inputs = [expected.known[place] for place in expected.places]
        for place, value in zip(expected.places, inputs, strict=True):
            answer = await comes(partial(workflow.ainference, value), "ainference()")
            check_answer(workflow, answer)
            expected.answered(place, answer, "ainference()")
        outcomes = await comes(lambda: workflow.ainference_batch(inputs), "ainference_batch()")
        _same_batch(outcomes, expected.places, expected, "ainference_batch()")
        expected.nothing_changed("ainference_batch()")
        if workflow.streams:
            await _async_streams(workflow, expected)
        else:
            raises(Unsupported, lambda: workflow.astream(expected.example), "astream() of a workflow without do_stream")
    finally:
        await comes(workflow.ateardown, "ateardown()")
    must(not workflow.is_setup, "is_setup must be False after ateardown()")


async def _async_streams(workflow: AsyncInferenceWorkflow[Any, Any, Any], expected: Expectations) -> None:
    chunks = [chunk async for chunk in workflow.astream(expected.example)]
    _chunks(workflow, expected, chunks)
    early = workflow.astream(expected.example)
    await comes(lambda: anext(early), "the first chunk of astream()")
    await comes(early.aclose, "aclose() of a stream: do_stream must not yield or raise once it is closed")
    places = expected.places[:: len(expected.places) - 1 or 1]  # the first and the last, which are two if any are
    at_once = await asyncio.gather(*(_all(workflow.astream(expected.known[place])) for place in places))
    for place, chunks in zip(places, at_once, strict=True):
        _chunks(workflow, expected, chunks, place)


async def _all(chunks: AsyncGenerator[Any]) -> list[Any]:
    async with aclosing(chunks):
        return [chunk async for chunk in chunks]
