"""The batcher when something is wrong inside: it costs as few items as possible, and never the event loop."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from deployments.batcher import Batcher, Entrant
from deployments.client import Outcome
from tests.deployments.batcher_bench import Bench
from tests.deployments.virtual_clock import VirtualClock, quiescence
from workflows.card import Batching, Load
from workflows.context import CallContext
from workflows.errors import InvalidInput, WorkflowError


class Rude:
    """A bucket's value that breaks what it is used for, from the moment on that it says."""

    def __init__(self, how: str, after: int = 0) -> None:
        self.how = how
        self.left = after

    def _rude(self, what: str) -> None:
        if self.how == what:
            if not self.left:
                raise RuntimeError("secret")
            self.left -= 1

    def __hash__(self) -> int:
        self._rude("hash")
        return 1

    def __eq__(self, other: object) -> bool:
        self._rude("eq")
        return isinstance(other, Rude)


@pytest.mark.parametrize("cost", [None, "much", math.nan, math.inf, -1.0, 10**400])
async def test_a_cost_that_makes_no_sense_is_the_workflows_fault(cost: Any) -> None:
    bench = Bench(Batching(max_size=4, max_cost=4.0))
    await bench.run("busy")
    with pytest.raises(WorkflowError) as refused:
        bench.submit("odd", cost=cost)
    assert not isinstance(refused.value, InvalidInput)
    assert refused.value.code == "internal"
    assert bench.batcher.waiting == 0


@pytest.mark.parametrize("bucket", [["unhashable"], Rude("hash"), Rude("eq")])
async def test_a_bucket_that_cannot_be_compared_is_the_workflows_fault(bucket: Any) -> None:
    bench = Bench()
    await bench.run("busy")
    await bench.run("first", bucket=Rude("never"))
    with pytest.raises(WorkflowError) as refused:
        bench.submit("odd", bucket=bucket)
    assert (refused.value.code, refused.value.message) == ("internal", "internal error")
    assert bench.batcher.waiting == 1
    await bench.model.finish()
    assert bench.ran == [["busy"], ["first"]]


@pytest.mark.parametrize("how", ["hash", "eq"])
async def test_a_bucket_is_looked_at_when_it_comes_and_never_again(how: str) -> None:
    bench = Bench()
    await bench.run("busy")
    for name in "abc":
        bench.submit(name, bucket=Rude(how, after=1))
    await bench.model.finish()
    assert bench.ran == [["busy"], ["a", "b", "c"]]
    await bench.model.finish()
    assert bench.batcher.restarts == 0


async def test_buckets_whose_hashes_are_alike_stay_apart() -> None:
    bench = Bench()
    await bench.run("busy")
    for name, bucket in (("a", -1), ("b", -2), ("c", -1)):  # hash(-1) == hash(-2)
        bench.submit(name, bucket=bucket)
    await bench.model.finish()
    await bench.model.finish()
    assert bench.ran == [["busy"], ["a", "c"], ["b"]]


async def test_a_fault_where_batches_are_formed_costs_the_oldest_and_gives_way() -> None:
    """The faulty one is not recognised before it is the oldest, or in the batch at hand."""
    bench = Bench()
    await bench.run("busy", "older")
    odd: Any = "soon"
    heard: list[Outcome] = []
    poisoned = Entrant("odd", CallContext("odd", deadline=odd), Load(1.0), heard.append)
    bench.batcher.submit(poisoned)
    await bench.run("younger", bucket="other")
    async with asyncio.timeout(10):
        while bench.model.busy:
            await bench.model.finish()
    assert [outcome.error and outcome.error.code for outcome in heard] == ["internal"]
    assert bench.outcome("younger").output == ("ran", "younger")
    assert bench.batcher.restarts == 1
    assert bench.batcher.alive


class BrokenClock(VirtualClock):
    """Cannot wait."""

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        raise OSError("no timer")


async def test_a_loop_that_can_do_nothing_still_answers_and_lets_others_run() -> None:
    heard: list[Outcome] = []

    async def never(batch: list[Entrant]) -> list[Outcome]:
        raise AssertionError

    batcher = Batcher(never, Batching(max_wait_s=5.0), 10, BrokenClock())
    batcher.start()
    for number in range(3):
        batcher.submit(Entrant(number, CallContext(), Load(1.0), heard.append))
    await quiescence()
    assert [outcome.error and outcome.error.code for outcome in heard] == ["internal"] * 3
    assert (batcher.waiting, batcher.alive) == (0, True)
    await batcher.stop()


async def test_a_listener_that_raises_costs_nobody_else_the_outcome() -> None:
    bench = Bench()

    def raises(outcome: Outcome) -> None:
        raise RuntimeError("gone")

    await bench.run("busy")
    bench.batcher.submit(Entrant("deaf", CallContext(), Load(1.0), raises))
    await bench.run("a")
    await bench.model.finish()
    await bench.model.finish()
    assert bench.ran == [["busy"], ["deaf", "a"]]
    assert bench.outcome("a").output == ("ran", "a")
    assert bench.batcher.restarts == 0
