"""Alarms ring once, never early, soon after they are due, and not at all once cancelled."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from deployments.router.alarms import STEP_S, alarm_at


@pytest.mark.parametrize("exact", [True, False])
async def test_it_rings_when_it_is_due_and_not_before(exact: bool) -> None:
    loop = asyncio.get_running_loop()
    due = [loop.time() + 0.003 * number for number in range(20)]
    rung: list[tuple[int, float]] = []
    all_rung = asyncio.Event()

    def ring(number: int) -> None:
        rung.append((number, loop.time()))
        if len(rung) == len(due):
            all_rung.set()

    for number, when in enumerate(due):
        alarm_at(loop, when, partial(ring, number), exact=exact)
    async with asyncio.timeout(10):
        await all_rung.wait()
    assert sorted(number for number, _ in rung) == list(range(len(due)))
    assert all(at >= due[number] for number, at in rung)


async def test_a_cancelled_one_does_not_ring_even_if_its_neighbour_cancels_it() -> None:
    loop = asyncio.get_running_loop()
    when = loop.time() + STEP_S
    rung: list[int] = []
    over = asyncio.Event()

    def ring(number: int) -> None:
        rung.append(number)
        pair[1 - number].cancel()

    pair = [alarm_at(loop, when, partial(ring, number)) for number in (0, 1)]
    gone = alarm_at(loop, when, lambda: rung.append(2))
    gone.cancel()
    gone.cancel()
    alarm_at(loop, when + 3 * STEP_S, over.set)
    async with asyncio.timeout(10):
        await over.wait()
    assert rung in ([0], [1])


async def test_one_that_fails_keeps_no_other_from_ringing() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    when = loop.time() + STEP_S
    rung = asyncio.Semaphore(0)

    def fail() -> None:
        raise RuntimeError("no bell")

    alarm_at(loop, when, rung.release)
    alarm_at(loop, when, fail)
    alarm_at(loop, when, rung.release)
    async with asyncio.timeout(10):
        await rung.acquire()
        await rung.acquire()
    assert complaints == ["an alarm failed"]
