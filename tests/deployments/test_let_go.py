"""What a replica was sent is gone when a hook has failed on it, and does not wait for the garbage collector."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from deployments.client import Item
from deployments.runner import Runner
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, CallContext
from workflows.errors import InvalidInput

pytestmark = pytest.mark.usefixtures("no_collector")


class Large:
    """As a tensor of megabytes."""


class Fails(BaseInferenceWorkflow[Any, Any, Any]):
    """One by one."""

    def do_run_model(self, preprocessed_data: Any) -> Any:
        raise InvalidInput("what it was sent is too large")

    def do_stream(self, preprocessed_data: Any) -> Iterator[Any]:
        yield self.do_run_model(preprocessed_data)


class FailsTogether(BaseInferenceWorkflow[Any, Any]):
    """As a batch, and then one by one."""

    batching = Batching(max_size=8)

    def do_run_batch(self, batch: list[Any]) -> list[Any]:
        raise InvalidInput("what it was sent is too large")


class FailsLater(AsyncInferenceWorkflow[Any, Any, Any]):
    """As a coroutine."""

    async def do_run_model(self, preprocessed_data: Any) -> Any:
        raise InvalidInput("what it was sent is too large")

    async def do_stream(self, preprocessed_data: Any) -> AsyncIterator[Any]:
        yield await self.do_run_model(preprocessed_data)


async def started(workflow: BaseInferenceWorkflow[Any, Any, Any]) -> Runner:
    runner = Runner(workflow, "m")
    await runner.start()
    return runner


@pytest.mark.parametrize("kind", [Fails, FailsTogether, FailsLater])
async def test_items(kind: type[BaseInferenceWorkflow[Any, Any, Any]]) -> None:
    runner = await started(kind())
    seen = []
    for _ in range(3):
        large = Large()
        seen.append(weakref.ref(large))
        items = [Item(large, CallContext())]
        del large
        async for group in runner.submit(items):
            assert [type(outcome.error) for _, outcome in group] == [InvalidInput]
        del items, group
    assert [ref() for ref in seen[:-1]] == [None] * 2
    await runner.stop()
    assert seen[-1]() is None


@pytest.mark.parametrize("kind", [Fails, FailsLater])
async def test_streams(kind: type[BaseInferenceWorkflow[Any, Any, Any]]) -> None:
    runner = await started(kind())
    seen = []
    for _ in range(3):
        large = Large()
        seen.append(weakref.ref(large))
        item = Item(large, CallContext())
        del large
        with pytest.raises(InvalidInput):
            async for _ in runner.stream(item):
                pass
        del item
    assert [ref() for ref in seen[:-1]] == [None] * 2
    await runner.stop()
    assert seen[-1]() is None
