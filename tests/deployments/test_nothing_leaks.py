"""What a caller sends is found in no log record and in no traceback, whatever refuses it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from deployments.client import Item
from deployments.local import LocalClient
from deployments.runner import Runner
from tests.contract import collect
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, CallContext, Generate, Tensors
from workflows.errors import InvalidInput, WorkflowError

CANARY = "canary-7351"


class Asked(BaseModel):
    count: int


def fails(how: str) -> None:
    """As hooks do that read with pydantic what they were sent."""
    if how == "model":
        Asked.model_validate({"count": CANARY})
    if how == "adapter":
        TypeAdapter(list[int]).validate_python([CANARY])
    try:
        Asked.model_validate({"count": CANARY})
    except ValueError as cause:
        if how == "cause":
            raise RuntimeError("the hook said so") from cause
        raise RuntimeError("the hook said so")  # noqa: B904 - the context is shown all the same


class Reads(BaseInferenceWorkflow[str, str, str]):
    """Its hooks read their input with pydantic."""

    def do_run_model(self, preprocessed_data: str) -> str:
        fails(preprocessed_data)
        return ""

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        yield self.do_run_model(preprocessed_data)


class ReadsLater(AsyncInferenceWorkflow[str, str, str]):
    """The same as coroutines."""

    async def do_run_model(self, preprocessed_data: str) -> str:
        fails(preprocessed_data)
        return ""

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        yield await self.do_run_model(preprocessed_data)


def shown(error: BaseException | None) -> str:
    assert error is not None
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (int, CANARY),
        (list[int], [CANARY]),
        (dict[str, Asked], {"a": {"count": CANARY}}),
        (Asked, {"count": CANARY}),
        (Generate, {"prompt": [CANARY]}),
        (Tensors, {"inputs": {"x": {"dtype": "uint8", "shape": [1], "data": [7351]}}}),
    ],
    ids=str,
)
def test_an_input_that_is_refused_is_not_in_the_traceback(declared: Any, value: Any) -> None:
    class Strict(BaseInferenceWorkflow[declared, Any]):
        pass

    with pytest.raises(InvalidInput) as refused:
        Strict().parse_input(value)
    assert "7351" not in shown(refused.value)
    assert refused.value.__context__ is None


def test_the_errors_of_exchange_types_do_not_show_what_was_sent() -> None:
    with pytest.raises(ValueError, match="1 validation error") as refused:
        Generate.model_validate({"prompt": [CANARY]})
    assert CANARY not in shown(refused.value)


@pytest.mark.parametrize("how", ["model", "adapter", "cause", "context"])
@pytest.mark.parametrize("kind", [Reads, ReadsLater])
async def test_a_hook_that_reads_with_pydantic_does_not_log_what_it_read(
    kind: type[BaseInferenceWorkflow[Any, Any, Any]], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    runner = Runner(kind(), "it")
    await runner.start()
    (outcome,) = await collect(LocalClient(runner), [Item(how, CallContext("one"))])
    with pytest.raises(WorkflowError) as streamed:
        await anext(runner.stream(Item(how, CallContext("two"))))
    await runner.stop()
    assert "request one failed" in caplog.text
    assert "request two failed" in caplog.text
    assert "in fails" in caplog.text  # the traceback
    assert "int_parsing" in caplog.text  # and what was wrong
    for text in (caplog.text, shown(outcome.error), shown(streamed.value)):
        assert CANARY not in text
