"""Every input is validated exactly once, whichever way it takes to the hooks: a validator may change what it sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from deployments.client import Item
from deployments.local import LocalClient
from deployments.runner import Runner
from tests.contract import collect
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, CallContext

Counted = Annotated[int, AfterValidator(lambda value: value + 1)]


class Alone(BaseInferenceWorkflow[Counted, int, int]):
    """Gives back what came through validation."""

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    def do_stream(self, preprocessed_data: int) -> Iterator[int]:
        yield preprocessed_data


class Together(Alone):
    """The same in batches."""

    batching = Batching(max_size=4)

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return batch


class Later(AsyncInferenceWorkflow[Counted, int, int]):
    """The same as coroutines."""

    async def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    async def do_stream(self, preprocessed_data: int) -> AsyncIterator[int]:
        yield preprocessed_data


EACH = pytest.mark.parametrize("kind", [Alone, Together, Later])


@EACH
def test_in_this_process(kind: type[BaseInferenceWorkflow[Any, Any, Any]]) -> None:
    workflow = kind().setup()
    assert workflow.inference(1) == 2
    assert workflow.inference_batch([1, 10]) == [2, 11]
    assert list(workflow.stream(1)) == [2]
    workflow.teardown()


async def test_on_an_event_loop() -> None:
    workflow = await Later().asetup()
    assert await workflow.ainference(1) == 2
    assert await workflow.ainference_batch([1, 10]) == [2, 11]
    assert [chunk async for chunk in workflow.astream(1)] == [2]
    await workflow.ateardown()


@EACH
async def test_behind_a_desk(kind: type[BaseInferenceWorkflow[Any, Any, Any]]) -> None:
    runner = Runner(kind(), "it")
    await runner.start()
    outcomes = await collect(LocalClient(runner), [Item(value, CallContext()) for value in (1, 10, 20)])
    assert [outcome.output for outcome in outcomes] == [2, 11, 21]
    assert await runner.inference(1) == 2
    assert [chunk async for chunk in runner.chunks(1)] == [2]
    await runner.stop()
