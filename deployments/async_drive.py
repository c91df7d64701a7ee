"""Drives an async workflow: one task per item on the desk's event loop, a bounded number at a time, no batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from deployments.batch_curve import CurvePoint
from deployments.client import Item, Outcome, Timing
from deployments.collector import collect_cycles
from deployments.config import WorkflowSettings
from deployments.deadline_timer import DeadlineTimer
from deployments.statistics import Counts, Meter
from deployments.wire import plain, plain_chunk
from workflows.async_base import AsyncInferenceWorkflow
from workflows.base import Parsed
from workflows.batch import as_error, working_for
from workflows.card import Load
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import Cancelled, DeadlineExceeded, NotReady, Overloaded, WorkflowError
from workflows.executions import Execution

__all__ = ["AsyncDrive"]


class _Ticket:
    __slots__ = ("_call", "_task")

    def __init__(self, task: asyncio.Task[Outcome], call: CallContext) -> None:
        self._task = task
        self._call = call

    def drop(self) -> None:
        if not self._task.done():
            self._call.cancel()
            self._task.cancel()


class AsyncDrive:
    """See `Runner`, which is its only user."""

    def __init__(
        self,
        workflow: AsyncInferenceWorkflow[Any, Any, Any],
        settings: WorkflowSettings,
        stuck_after_s: float,
        counts: Counts,
    ) -> None:
        self._workflow = workflow
        self._stuck_after_s = stuck_after_s
        self._counts = counts
        self._max_queue = settings.max_queue
        self._slots = asyncio.Semaphore(workflow.concurrency)
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self.running = 0

    async def start(self) -> None:
        await self._workflow.asetup()

    async def load(self, setup_timeout_s: float) -> None:
        """See `deployments.loading.Drive`."""
        try:
            async with asyncio.timeout(setup_timeout_s) as limit:
                await self._workflow.asetup()
        except TimeoutError as raised:
            if not limit.expired():
                raise
            raise NotReady(f"setup took longer than {setup_timeout_s:g} s", retry_after_s=None) from raised

    async def drain(self, streams_ended: asyncio.Event) -> None:
        """See `deployments.loading.Drive`."""
        await streams_ended.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def unload(self) -> None:
        """See `deployments.loading.Drive`."""
        try:
            await self._workflow.ateardown()
        finally:
            collect_cycles()

    @property
    def waiting(self) -> int:
        return len(self._tasks) - self.running

    def curves(self) -> list[list[CurvePoint]]:
        return []  # nothing is batched

    def configure(self, settings: WorkflowSettings) -> None:
        self._max_queue = settings.max_queue

    def take(
        self,
        parsed: Parsed,
        load: Load,
        call: CallContext,
        deliver: Callable[[Outcome], None],
        begun: Callable[[], None] | None = None,
        since: float = 0.0,
        came: float = 0.0,
    ) -> _Ticket:
        if len(self._tasks) >= self._workflow.concurrency + self._max_queue:
            raise Overloaded("the queue of this workflow is full")
        task = asyncio.create_task(self._one(parsed, call, begun, since, time.monotonic() - came))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, deliver))
        return _Ticket(task, call)

    async def stream(self, item: Item, meter: Meter) -> AsyncGenerator[list[Any]]:
        call = item.call
        begun = ended = False
        with working_for(call):
            chunks = self._workflow.astream(item.input_data)
        timer = DeadlineTimer(call.deadline)
        try:
            while True:
                late = given_up(call, begun=begun)
                if late is not None:
                    raise late
                begun = True
                asked = time.monotonic()
                if not meter.began:
                    meter.began = asked
                try:
                    with timer, working_for(call):
                        chunk = await anext(chunks)
                except StopAsyncIteration:
                    ended = True
                    return
                except TimeoutError as error:
                    raise _late(error, timer.expired, begun=True) from error
                finally:
                    meter.model_s += time.monotonic() - asked
                yield [plain_chunk(chunk)]
        finally:
            timer.close()
            if not ended:
                call.cancel()
            with working_for(call):
                await chunks.aclose()

    def check_health(self) -> None:
        """Raises WorkflowError when a model of the workflow's own does not return, by what its `busy_s` says.

        A hook that blocks the loop is noticed by the health check not being answered at all.
        """
        if self._workflow.busy_s() > self._stuck_after_s:
            raise WorkflowError(f"the model has not returned for more than {self._stuck_after_s:g} s")

    async def stop(self, streams_ended: asyncio.Event) -> None:
        await self.drain(streams_ended)
        await self._workflow.ateardown()

    async def _one(
        self, parsed: Parsed, call: CallContext, begun: Callable[[], None] | None, since: float, parse_s: float
    ) -> Outcome:
        arrived = time.monotonic()
        began: float | None = None
        output: Any = None
        error: Exception | None = None
        execution = Execution([0])
        try:
            async with asyncio.timeout(call.seconds_left()) as limit, self._slots:
                began = time.monotonic()
                if begun is not None:
                    begun()
                    await asyncio.sleep(0)  # as in the batcher
                self.running += 1
                try:
                    with working_for(call):
                        output = plain(await self._workflow.ainference(parsed, execution))
                finally:
                    self.running -= 1
        except TimeoutError as raised:
            error = _late(raised, limit.expired(), begun=began is not None)
        except asyncio.CancelledError as raised:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = RuntimeError("CancelledError left a hook")  # nobody has cancelled us
            error.__cause__ = raised
        except Exception as raised:  # noqa: BLE001 - whatever it is, it becomes this item's outcome
            error = raised
        now = time.monotonic()
        if error is None and began is not None:
            self._counts.answered_alone(execution, since, parse_s, began, now)
        elif execution.model_s:  # the failure itself is counted where it is delivered
            self._counts.executed(execution, 0, 0.0)
        timing = Timing(now - arrived) if began is None else Timing(began - arrived, now - began, 1)
        return Outcome(output, None if error is None else as_error(error, call.request_id), timing)

    def _done(self, deliver: Callable[[Outcome], None], task: asyncio.Task[Outcome]) -> None:
        # Delivered from here rather than by the task: one that is cancelled before its first step never runs at all.
        self._tasks.discard(task)
        deliver(Outcome(error=Cancelled()) if task.cancelled() else task.result())


def _late(error: TimeoutError, expired: bool, *, begun: bool) -> Exception:
    """What a TimeoutError means: our deadline has passed, or the workflow has raised one of its own."""
    return DeadlineExceeded(may_have_run=begun) if expired else error
