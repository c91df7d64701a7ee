"""A model that does not return: stopping does not wait for it, and everybody who waits hears what may have run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments.local import LocalClient
from deployments.runner import Runner
from tests.contract import DEPLOYMENTS, Place, collect
from tests.orders import SyncOrders
from workflows import BaseInferenceWorkflow
from workflows.errors import ReplicaLost

PATIENCE_S = 20


async def test_stop_gives_up_a_model_that_does_not_return(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = Runner(SyncOrders(), "it", stuck_after_s=0.01)
    await runner.start()
    client = LocalClient(runner)
    waiting_stream, idle_stream = client.stream(place.order(1, count=9)), client.stream(place.order(2, count=9))
    await anext(waiting_stream)
    await anext(idle_stream)
    running = asyncio.create_task(collect(client, [place.order(3, gate="gate")]))
    async with asyncio.timeout(PATIENCE_S), place.held("gate"):
        waiting = asyncio.create_task(collect(client, [place.order(4)]))
        next_chunk = asyncio.ensure_future(anext(waiting_stream))
        await asyncio.sleep(0)
        await runner.stop()
        (lost,), (refused,) = await running, await waiting
        assert isinstance(lost.error, ReplicaLost)
        assert lost.error.may_have_run
        assert isinstance(refused.error, ReplicaLost)
        assert not refused.error.may_have_run
        with pytest.raises(ReplicaLost):
            await next_chunk
        await idle_stream.aclose()  # at once, too
        await runner.stop()  # once more
    assert place.ran == [1, 2, 3]


class NeverLetsGo(BaseInferenceWorkflow[int, int]):
    """Its teardown waits at a gate."""

    def __init__(self, gate: Path) -> None:
        self.gate = gate

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    def do_teardown(self) -> None:
        self.gate.read_bytes()


async def test_stop_gives_up_a_teardown_that_does_not_return(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    place.order(0, gate="gate")
    runner = Runner(NeverLetsGo(tmp_path / "gate"), "it", stuck_after_s=0.01)
    await runner.start()
    stopping = asyncio.create_task(runner.stop())
    async with asyncio.timeout(PATIENCE_S), place.held("gate"):
        await stopping
