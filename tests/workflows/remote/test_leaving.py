"""A caller who leaves an upstream, at every moment at which one can: no place, no probe and no task stays taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count

import pytest

from tests.workflows.remote.contract_upstream import quiescence
from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import UpstreamFailed
from workflows.remote.breaker import BreakerState
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.upstream import Attempt, Upstream

FREED_AFTER = 3  # steps of the loop


class Shaky:
    """An upstream with one place. The first attempt of each call is told to come back, the second one answers."""

    def __init__(self) -> None:
        said = {"max_concurrent": 1, "retry_reserve": 10, "breaker": {"failures": 1, "open_s": 10.0, "probes": 1}}
        self.clock = HandClock(sleepless=True)
        self.upstream = Upstream("shaky", UpstreamPolicy.model_validate(said), clock=self.clock)
        self.begun = self.closed = 0
        self.free = asyncio.Event()

    async def hold(self) -> None:
        """Takes the place until it is free."""

        async def holds(attempt: Attempt) -> bool:
            return await self.free.wait()

        await self.upstream.ask(holds)

    async def fail(self) -> None:
        """Opens the breaker, and lets so much time pass that it is half open."""

        async def fails(attempt: Attempt) -> None:
            raise UpstreamFailure(FailureKind.MALFORMED)

        with pytest.raises(UpstreamFailed):
            await self.upstream.ask(fails)
        self.clock.advance(10.0)

    async def ask(self, streamed: bool) -> None:
        if not streamed:
            await self.upstream.ask(self._answers)
            return
        async with aclosing(self.upstream.stream(self._gives)) as items:
            async for _ in items:
                await asyncio.sleep(0)

    async def _answers(self, attempt: Attempt) -> str:
        await asyncio.sleep(0)
        if attempt.number == 1:
            raise UpstreamFailure(FailureKind.LIMITED)
        await asyncio.sleep(0)
        return "answer"

    async def _gives(self, attempt: Attempt) -> AsyncGenerator[str | None]:
        self.begun += 1
        try:
            yield None
            yield await self._answers(attempt)
            await asyncio.sleep(0)
            yield "more"
        finally:
            try:
                await asyncio.sleep(0)  # who leaves may do so while the connection is being closed, too
            finally:
                self.closed += 1


async def left_after(steps: int, *, in_line: bool, streamed: bool) -> bool:
    """Whether who leaves after so many steps of the loop does so before everything is over."""
    tasks, shaky = asyncio.all_tasks(), Shaky()
    if in_line:
        holder = asyncio.create_task(shaky.hold())
    else:
        await shaky.fail()
        holder = None
    await quiescence()
    leaver = asyncio.create_task(shaky.ask(streamed))
    for step in range(steps):
        if step == FREED_AFTER:
            shaky.free.set()
        await asyncio.sleep(0)
    early = leaver.cancel()
    shaky.free.set()
    await asyncio.wait([leaver, *([holder] if holder is not None else [])])
    await quiescence()
    assert leaver.cancelled() is early
    seen = shaky.upstream.statistics()
    assert (seen.in_flight, seen.waiting) == (0, 0)
    assert shaky.begun == shaky.closed
    assert asyncio.all_tasks() == tasks
    await shaky.ask(streamed)  # the place is free, and so is the probe
    assert shaky.upstream.statistics().breaker is BreakerState.CLOSED
    return early


@pytest.mark.parametrize("in_line", [False, True], ids=["probe", "in_line"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_who_leaves_at_any_moment_leaves_nothing_behind(in_line: bool, streamed: bool) -> None:
    for steps in count():
        if not await left_after(steps, in_line=in_line, streamed=streamed):
            break
    assert steps > FREED_AFTER
