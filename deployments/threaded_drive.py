"""Drives a sync workflow: a batcher in front of one model thread, on which streams take their steps in between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any

from deployments.batch_curve import CurvePoint
from deployments.batcher import Batcher, Entrant
from deployments.client import Item, Outcome
from deployments.collector import collect_cycles
from deployments.config import WorkflowSettings
from deployments.held_back import HeldBack
from deployments.statistics import Counts, Meter
from deployments.threads import ModelThread
from deployments.wire import plain, plain_chunk
from workflows.base import BaseInferenceWorkflow, Parsed
from workflows.batch import as_error, working_for
from workflows.card import Load
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import ReplicaLost, WorkflowError
from workflows.executions import Execution

__all__ = ["ThreadedDrive"]

log = logging.getLogger(__name__)

# A stream keeps the thread while nobody else wants it, for at most this long and this many chunks: handing over costs
# some 30 microseconds, which a model that makes a chunk in two would pay fifteen times over.
SLICE_S = 0.002
SLICE_CHUNKS = 64
STUCK_LOOK_S = 0.05


class _Ticket:
    __slots__ = ("_batcher", "_entrant", "_held")

    def __init__(self, batcher: Batcher, held: HeldBack, entrant: Entrant) -> None:
        self._batcher = batcher
        self._held = held
        self._entrant = entrant

    def drop(self) -> None:
        if not self._entrant.settled:
            self._held.drop(self._entrant)
            self._batcher.drop(self._entrant)


class ThreadedDrive:
    """See `Runner`, which is its only user."""

    def __init__(
        self,
        workflow: BaseInferenceWorkflow[Any, Any, Any],
        settings: WorkflowSettings,
        stuck_after_s: float,
        counts: Counts,
    ) -> None:
        self._workflow = workflow
        self._counts = counts
        self._stuck_after_s = stuck_after_s
        self._may_be_busy_s = stuck_after_s
        self._thread = ModelThread("model")
        self._batcher = Batcher(self._run, workflow.batch_limits, settings.max_queue)
        self._held = HeldBack(self._batcher.submit)
        self.configure(settings)

    async def start(self) -> None:
        try:
            await self._thread.run(self._workflow.setup)
        except BaseException:
            # A setup that nobody waits for any more goes on: what it loads must not stay.
            self._thread.stop(last=self._workflow.teardown)
            raise
        self._batcher.limits = self._workflow.batch_limits  # some workflows know only now what may run together
        self._batcher.start()

    async def load(self, setup_timeout_s: float) -> None:
        """See `deployments.loading.Drive`. A setup cannot be interrupted: one that takes longer fails the health check."""
        self._may_be_busy_s = setup_timeout_s
        try:
            await self._thread.run(self._workflow.setup)
        finally:
            self._may_be_busy_s = self._stuck_after_s
        self._batcher.limits = self._workflow.batch_limits

    async def drain(self, streams_ended: asyncio.Event) -> None:
        """See `deployments.loading.Drive`."""
        await streams_ended.wait()
        self._held.let_go()
        await self._batcher.drained()

    async def unload(self) -> None:
        """See `deployments.loading.Drive`."""
        await self._thread.run(partial(_release, self._workflow))

    @property
    def waiting(self) -> int:
        return self._batcher.waiting + len(self._held)

    @property
    def running(self) -> int:
        return self._batcher.running

    def curves(self) -> list[list[CurvePoint]]:
        return self._batcher.curves()

    def configure(self, settings: WorkflowSettings) -> None:
        self._workflow.deployed_batching = settings.batching
        self._batcher.limits = self._workflow.batch_limits
        self._batcher.max_queue = settings.max_queue

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
        entrant = Entrant(parsed, call, load, deliver, begun, since, came)
        until = self._workflow.prerequisite(parsed.value)
        if until is None:
            self._batcher.submit(entrant)
        else:
            self._held.hold(entrant, until, self._batcher.max_queue)
        return _Ticket(self._batcher, self._held, entrant)

    async def stream(self, item: Item, meter: Meter) -> AsyncGenerator[list[Any]]:
        call = item.call
        chunks = self._workflow.stream(item.input_data)
        ended = False
        try:
            while not ended:
                made, error, ended = await self._thread.run(partial(self._step, chunks, call, meter))
                if made:
                    yield made
                if error is not None:
                    raise error
        finally:
            if not ended:
                call.cancel()
            close = partial(_close, chunks, call)
            if self._thread.stopped:
                # The model was given up and holds the lock of its hooks: closed by nobody, and not by chance in here.
                self._thread.stop(last=close)
            else:
                # Shielded: the workflow's own `finally` runs on its thread even if this task is cancelled once more.
                await asyncio.shield(self._thread.run(close))

    def check_health(self) -> None:
        """Raises WorkflowError when no batch can be formed or run any more."""
        if not self._thread.alive or not self._batcher.alive:
            raise WorkflowError("the model's thread or its batcher has died")
        if self._thread.busy_s() > self._may_be_busy_s:
            raise WorkflowError(f"the model has not returned for more than {self._may_be_busy_s:g} s")

    async def stop(self, streams_ended: asyncio.Event) -> None:
        """Finish what runs, then tear down; but a model that does not return takes what it holds with it."""
        if self._thread.stopped:
            return  # torn down before, or never set up
        stuck = asyncio.create_task(self._until_stuck())
        ended = asyncio.create_task(streams_ended.wait())
        try:
            await asyncio.wait((stuck, ended), return_when=asyncio.FIRST_COMPLETED)
            self._batcher.close()
            self._held.let_go()
            await self._batcher.stop()
            if not self._thread.stopped:
                await self._tear_down()
        finally:
            stuck.cancel()
            ended.cancel()

    async def _until_stuck(self) -> None:
        """Give the model up once it has not returned for `stuck_after_s`."""
        while (left := self._stuck_after_s - self._thread.busy_s()) > 0:
            await asyncio.sleep(max(left, STUCK_LOOK_S))
        log.error("the model has not returned for %g s: stopping without it", self._thread.busy_s())
        self._batcher.close()
        self._thread.abandon(ReplicaLost(may_have_run=True))

    async def _tear_down(self) -> None:
        try:
            await self._thread.run(self._workflow.teardown)
        except ReplicaLost:
            return  # it was the teardown that did not return
        finally:
            self._thread.stop()

    async def _run(self, batch: list[Entrant]) -> list[Outcome]:
        outcomes, executions, began = await self._thread.run(partial(self._run_here, batch))
        self._count(batch, outcomes, executions, began)
        return outcomes

    def _run_here(self, batch: list[Entrant]) -> tuple[list[Outcome], list[Execution], float]:
        """On the model thread; answers become plain data here, to keep the event loop free."""
        began = time.monotonic()
        executions: list[Execution] = []
        outputs = self._workflow.inference_batch([e.input_data for e in batch], [e.call for e in batch], executions)
        answered = time.monotonic()
        outcomes = [_told(output, entrant.call) for output, entrant in zip(outputs, batch, strict=True)]
        told_s = (time.monotonic() - answered) / len(batch)
        for execution in executions:
            execution.output_s += told_s * len(execution.members)
        return outcomes, executions, began

    def _count(self, batch: list[Entrant], outcomes: list[Outcome], executions: list[Execution], began: float) -> None:
        """What has been answered; failures are counted where they are delivered, like those that never ran."""
        if len(batch) == len(executions) == 1 and outcomes[0].error is None and not batch[0].settled:
            one = batch[0]
            self._counts.answered_alone(executions[0], one.since, one.arrived - one.came, began, time.monotonic())
            return
        count = 0
        since = parse_s = 0.0
        for entrant, outcome in zip(batch, outcomes, strict=True):
            if outcome.error is None and not entrant.settled:
                count += 1
                since += entrant.since
                parse_s += entrant.arrived - entrant.came
        if count:
            self._counts.answered(count, since, parse_s, began, time.monotonic())
        if len(executions) == 1:
            self._counts.executed(executions[0], count, parse_s)
            return
        for execution in executions:
            places = [
                place for place in execution.members if outcomes[place].error is None and not batch[place].settled
            ]
            parse_s = sum([batch[place].arrived - batch[place].came for place in places])
            self._counts.executed(execution, len(places), parse_s)

    def _step(
        self, chunks: Generator[Any], call: CallContext, meter: Meter
    ) -> tuple[list[Any], WorkflowError | None, bool]:
        """On the model thread: the next chunks, an error that came after them, and whether that was all.

        The first chunk goes out alone, and at once.
        """
        first = not meter.began
        late = given_up(call, begun=not first)
        if late is not None:
            return [], late, True
        made: list[Any] = []
        began = time.monotonic()
        if first:
            meter.began = began
        until = began + SLICE_S
        try:
            with working_for(call):
                for chunk in chunks:
                    made.append(plain_chunk(chunk))
                    if first or len(made) >= SLICE_CHUNKS or self._thread.contended or time.monotonic() >= until:
                        return made, None, False
            return made, None, True
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream ends with it
            return made, as_error(error, call.request_id), True
        finally:
            meter.model_s += time.monotonic() - began


def _release(workflow: BaseInferenceWorkflow[Any, Any, Any]) -> None:
    """On the model thread: whatever is freed last is freed where it was made."""
    try:
        workflow.teardown()
    finally:
        collect_cycles()


def _told(outcome: Any, call: CallContext) -> Outcome:
    """One item's outcome; an answer that has no plain form costs no neighbour."""
    try:
        return Outcome(error=outcome) if isinstance(outcome, WorkflowError) else Outcome(plain(outcome))
    except Exception as error:  # noqa: BLE001 - becomes this item's outcome
        return Outcome(error=as_error(error, call.request_id))


def _close(chunks: Generator[Any], call: CallContext) -> None:
    with working_for(call):
        chunks.close()
