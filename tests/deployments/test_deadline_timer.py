"""A call's deadline over many waits: found in whichever it passes, or in the next; other cancellations stay what they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.client import Item
from deployments.deadline_timer import DeadlineTimer
from deployments.runner import Runner
from workflows import AsyncInferenceWorkflow, CallContext
from workflows.errors import DeadlineExceeded, WorkflowError


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


# ---- in a stream -----------------------------------------------------------------------------------------------------


class Stalls(AsyncInferenceWorkflow[int, int, int]):
    """Gives as many chunks as asked for, and then nothing more; or a TimeoutError of its own, for 0."""

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[int]:
        if not preprocessed_data:
            raise TimeoutError
        for number in range(preprocessed_data):
            yield number
        await asyncio.Event().wait()


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    made = Runner(Stalls(), "it")
    await made.start()
    yield made
    await made.stop()


async def read(runner: Runner, count: int, within_s: float) -> list[Any]:
    """The chunks, and what the stream ended with."""
    got: list[Any] = []
    try:
        async with aclosing(runner.stream(Item(count, CallContext("r", time.monotonic() + within_s)))) as groups:
            async for group in groups:
                got += group
    except WorkflowError as error:
        got.append(error)
    return got


async def test_a_stream_that_stalls_ends_at_its_deadline(runner: Runner) -> None:
    *chunks, error = await read(runner, 3, within_s=0.2)
    assert chunks == [0, 1, 2]
    assert isinstance(error, DeadlineExceeded)
    assert error.may_have_run


async def test_a_timeout_of_the_workflows_own_is_no_deadline(runner: Runner) -> None:
    (error,) = await read(runner, 0, within_s=3600.0)
    assert (type(error), error.code) == (WorkflowError, "internal")
