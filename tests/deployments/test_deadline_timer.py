"""A call's deadline over many waits: found in whichever it passes, or in the next; other cancellations stay what they are."""

from __future__ import annotations

import asyncio
import time

import pytest

from deployments.deadline_timer import DeadlineTimer


@pytest.fixture
async def timer() -> DeadlineTimer:
    return DeadlineTimer(time.monotonic() + 3600.0)


async def test_a_wait_that_the_deadline_passes_in_is_ended() -> None:
    timer = DeadlineTimer(time.monotonic())
    with pytest.raises(TimeoutError), timer:
        await asyncio.Event().wait()
    assert timer.expired
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # nothing is left of the cancellation


async def test_a_deadline_that_passes_between_two_waits_is_found_by_the_next(timer: DeadlineTimer) -> None:
    with timer:
        await asyncio.sleep(0)
    timer._ring()
    await asyncio.sleep(0)  # whoever is not waiting is left alone
    assert not timer.expired
    with pytest.raises(TimeoutError), timer:
        pytest.fail("there is no time for this")
    assert timer.expired


async def test_without_a_deadline_or_after_its_end_nothing_rings() -> None:
    for deadline in (None, time.monotonic()):
        timer = DeadlineTimer(deadline)
        timer.close()
        with timer:
            await asyncio.sleep(0.01)
        assert not timer.expired
        timer.close()


async def test_who_is_cancelled_by_somebody_else_stays_so(timer: DeadlineTimer) -> None:
    waiting = asyncio.Event()

    async def wait() -> None:
        with timer:
            waiting.set()
            await asyncio.Event().wait()

    for late in (False, True):
        waiting.clear()
        task = asyncio.create_task(wait())
        await waiting.wait()
        if late:  # both at once
            timer._ring()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert timer.expired is late


async def test_errors_of_the_work_come_through(timer: DeadlineTimer) -> None:
    for kind in (TimeoutError, ValueError):
        with pytest.raises(kind), timer:
            raise kind
    assert not timer.expired


async def test_work_that_does_not_let_itself_be_ended_has_its_result(timer: DeadlineTimer) -> None:
    with timer:
        timer._ring()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            result = "all the same"
    assert result == "all the same"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
