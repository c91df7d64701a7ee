"""Items in, batches out: a batch is formed when the model is free, so that while one runs the next one grows.

    submit -> [bucket queues] -> form (drop the expired and the abandoned, oldest bucket first) -> run -> deliver

Every item's outcome is delivered exactly once, whatever happens to its neighbours. What the workflow says of an input
(cost and bucket) is looked at once, by `submit`; nothing of the workflow's own runs in the loop that forms batches.
Knows no threads, no workflow and no Ray: one event loop, a clock and a function that runs a batch.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.batch_curve import CostCurve, CurveCache, CurvePoint
from deployments.client import Outcome, Timing
from deployments.clock import Clock, MonotonicClock
from workflows.batch import as_error
from workflows.card import Batching, Load
from workflows.context import CallContext
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, ReplicaLost, WorkflowError

__all__ = ["Batcher", "Entrant"]

log = logging.getLogger(__name__)

_Line = OrderedDict["Entrant", None]  # in order of arrival; an item in the middle leaves as quickly as the first


@dataclass(slots=True, eq=False)
class _Bucket:
    """Items that may run together. `cost` is the sum of theirs, kept up to date."""

    key: Hashable
    hashed: int
    curve: CostCurve
    line: _Line = field(default_factory=OrderedDict)
    cost: float = 0.0

    def full(self, limits: Batching) -> bool:
        """Whether waiting for company would not make the next batch larger."""
        return len(self.line) >= limits.max_size or (limits.max_cost is not None and self.cost >= limits.max_cost)


@dataclass(slots=True, eq=False)
class Entrant:
    """One item in the queue or in the running batch. `deliver` is called once, on the batcher's loop.

    `begun` is called before it runs, if it does. `since` and `came` are for who counts: when the item came to the first
    who waited for it, and when to this replica.
    """

    input_data: Any
    call: CallContext
    load: Load
    deliver: Callable[[Outcome], None]
    begun: Callable[[], None] | None = None
    since: float = 0.0
    came: float = 0.0
    arrived: float = 0.0
    number: int = 0
    bucket: _Bucket | None = None
    settled: bool = field(default=False)

    def settle(self, outcome: Outcome) -> None:
        if self.settled:
            return
        self.settled = True
        try:
            self.deliver(outcome)
        except Exception:  # whose outcome it is must not cost the others theirs
            log.exception("an outcome could not be delivered")


class Batcher:
    """Forms batches for one model.

    Args:
        run: Runs a batch and returns one outcome per entrant, in order. Awaited one batch at a time.
        limits: May be replaced while running, by assigning `limits`.
        max_queue: Items that may wait; what comes above is refused.
    """

    def __init__(
        self,
        run: Callable[[list[Entrant]], Awaitable[list[Outcome]]],
        limits: Batching,
        max_queue: int,
        clock: Clock | None = None,
    ) -> None:
        self.max_queue = max_queue
        self.restarts = 0
        self._limits = limits
        self._run = run
        self._clock = clock or MonotonicClock()
        self._queue: _Line = OrderedDict()
        self._buckets: dict[int, list[_Bucket]] = {}  # by the hash of their keys, of which few are alike
        self._full: dict[_Bucket, None] = {}  # those that may be full: `_fullest` looks again
        self._curves = CurveCache()
        self._running: list[Entrant] = []
        self._arrived = self._left = 0
        self._arrival = asyncio.Event()
        self._idle = asyncio.Event()
        self._hurries = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def limits(self) -> Batching:
        return self._limits

    @limits.setter
    def limits(self, limits: Batching) -> None:
        self._limits = limits
        self._full = {bucket: None for alike in self._buckets.values() for bucket in alike if bucket.full(limits)}
        self._arrival.set()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Items in the batch that the model works on."""
        return len(self._running)

    def curves(self) -> list[list[CurvePoint]]:
        """What batches have cost, bucket by bucket, those asked for last first."""
        return self._curves.points()

    @property
    def alive(self) -> bool:
        """Whether batches are being formed."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to form batches, on the running event loop."""
        self._task = asyncio.create_task(self._serve(), name="batcher")

    def submit(self, entrant: Entrant) -> None:
        """Queue an item. When this raises, nothing was queued.

        Raises:
            Overloaded: The queue is full.
            ReplicaLost: The batcher was stopped.
            WorkflowError: The workflow says of this input what makes no sense.
        """
        if self._closed or not self.alive:
            raise ReplicaLost("this replica is stopping")
        if len(self._queue) >= self.max_queue:
            raise Overloaded("the queue of this workflow is full")
        now = self._clock.now()
        try:
            bucket = self._bucket_of(entrant.load)
        except Exception as error:  # noqa: BLE001 - whatever the workflow's own objects raise
            raise as_error(error, entrant.call.request_id) from None
        self._arrived += 1
        entrant.arrived = entrant.arrived or now  # some were held back before
        entrant.number, entrant.bucket = self._arrived, bucket
        self._queue[entrant] = bucket.line[entrant] = None
        bucket.cost += entrant.load.cost
        if bucket.full(self._limits):
            self._full[bucket] = None
        self._arrival.set()

    def drop(self, entrant: Entrant) -> None:
        """The caller has left: an item that still waits never runs, the answer of a running one is thrown away."""
        entrant.call.cancel()
        entrant.settle(Outcome(error=Cancelled()))
        if entrant in self._queue:
            self._take_out(entrant)

    async def drained(self) -> None:
        """Return once everything that was submitted has been settled. Nothing waits for company meanwhile: none comes."""
        self._hurries = True
        self._arrival.set()
        try:
            while self._queue or self._running:
                self._idle.clear()
                await self._idle.wait()
        finally:
            self._hurries = False

    def close(self) -> None:
        """Form no more batches: refuse what comes, and what waits once the running batch has ended."""
        self._closed = True
        self._arrival.set()

    async def stop(self) -> None:
        """Refuse what comes and what waits; the running batch is finished first."""
        self.close()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._settle_all(ReplicaLost("this replica is stopping"))

    # ---- the loop ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while not self._closed:
                if not self._queue:
                    self._idle.set()
                    self._arrival.clear()
                    await self._arrival.wait()
                    continue
                left = self._left
                try:
                    bucket = await self._fill()
                    if not self._closed:
                        self._form(bucket)
                        if self._running:
                            await self._run_formed()
                except Exception as error:
                    # A fault in here must cost the items at hand, not every item to come.
                    self.restarts += 1
                    log.exception("the batcher failed and goes on")
                    self._settle_running(as_error(error))
                    if self._left == left and self._queue:
                        self._give_up(next(iter(self._queue)))
                    await asyncio.sleep(0)
        finally:
            self._settle_all(ReplicaLost("this replica is stopping"))

    async def _fill(self) -> _Bucket | None:
        """Give an idle model's first item company, for at most `max_wait_s` after it came.

        Returns the bucket to run, which is full, or None for that of the oldest item.
        """
        while not (self._closed or self._hurries):
            now = self._clock.now()
            first = self._first(self._queue, now)
            if first is None:
                return None
            left = first.arrived + _patience(first, self._limits) - now
            if left <= 0:
                return None
            if (full := self._fullest(now)) is not None:
                return full
            self._arrival.clear()
            await self._clock.wait(self._arrival, left)
        return None

    def _fullest(self, now: float) -> _Bucket | None:
        """Of the buckets that are full of items which should still run, the one whose first item is the oldest."""
        full = []
        for bucket in list(self._full):
            if self._is_full(bucket, now):
                full.append(bucket)
            else:
                self._full.pop(bucket, None)
        return min(full, key=lambda bucket: next(iter(bucket.line)).number, default=None)

    def _is_full(self, bucket: _Bucket, now: float) -> bool:
        """Whether it is, without those that should not run any more; of these, those get their outcome that are seen."""
        over: list[Entrant] = []
        live = _Bucket(None, 0, bucket.curve)
        for entrant in bucket.line:
            if _is_over(entrant, now):
                over.append(entrant)
                continue
            live.line[entrant] = None
            live.cost += entrant.load.cost
            if live.full(self._limits):
                break
        for entrant in over:
            self._dismiss(entrant, now)
        return live.full(self._limits)

    def _form(self, bucket: _Bucket | None) -> None:
        """The next batch, in order of arrival: of a bucket, or of that of the oldest item.

        As many as the limits allow, and as pay by what batches of this bucket have cost so far.
        """
        limits, now = self._limits, self._clock.now()
        if bucket is None:
            oldest = self._first(self._queue, now)
            if oldest is None:
                return
            bucket = oldest.bucket
            assert bucket is not None  # submit() has set it
        most = self._most(bucket, now)
        cost = 0.0
        while len(self._running) < limits.max_size and (entrant := self._first(bucket.line, now)) is not None:
            cost += entrant.load.cost
            if self._running and most is not None and cost > most:
                return
            self._take_out(entrant)
            self._running.append(entrant)

    def _most(self, bucket: _Bucket, now: float) -> float | None:
        """The cost up to which the next batch of a bucket goes."""
        limits, oldest = self._limits, next(iter(bucket.line), None)
        if limits.max_size == 1 or oldest is None:
            return limits.max_cost
        waiting = min(bucket.cost, limits.max_cost or bucket.cost)
        deadline = oldest.call.deadline
        pays = bucket.curve.most(waiting, None if deadline is None else deadline - now)
        return min((most for most in (limits.max_cost, pays) if most is not None), default=None)

    def _first(self, line: _Line, now: float) -> Entrant | None:
        """The first of a line that should still run; those before it that are late or abandoned get their outcome."""
        while line:
            entrant = next(iter(line))
            if not _is_over(entrant, now):
                return entrant
            self._dismiss(entrant, now)
        return None

    def _dismiss(self, entrant: Entrant, now: float) -> None:
        self._take_out(entrant)
        entrant.settle(Outcome(error=_why_dropped(entrant, now), timing=Timing(now - entrant.arrived)))

    async def _run_formed(self) -> None:
        batch = self._running
        for begun in [entrant.begun for entrant in batch if entrant.begun is not None]:
            begun()
        if any(entrant.begun for entrant in batch):
            await asyncio.sleep(0)  # what was said of it is on its way before anything can go wrong
        started = self._clock.now()
        outcomes = await self._run(batch)
        if len(outcomes) != len(batch):
            raise RuntimeError(f"{len(outcomes)} outcomes for a batch of {len(batch)}")
        model_s = self._clock.now() - started
        if (bucket := batch[0].bucket) is not None and not any(outcome.error for outcome in outcomes):
            bucket.curve.note(sum(entrant.load.cost for entrant in batch), model_s)
        for entrant, outcome in zip(batch, outcomes, strict=True):
            entrant.settle(replace(outcome, timing=Timing(started - entrant.arrived, model_s, len(batch))))
        self._running = []

    # ---- bookkeeping ---------------------------------------------------------------------------------------------------

    def _bucket_of(self, load: Load) -> _Bucket:
        """The bucket for an input, made where there is none. Raises what the workflow's own objects raise, ValueError."""
        if not (math.isfinite(load.cost) and load.cost >= 0):
            raise ValueError("cost() must be a finite number, and not negative")
        hashed = hash(load.bucket)
        alike = self._buckets.get(hashed, [])
        for bucket in alike:
            if load.bucket is bucket.key or load.bucket == bucket.key:
                return bucket
        bucket = _Bucket(load.bucket, hashed, self._curves.of(hashed))
        self._buckets[hashed] = [*alike, bucket]
        return bucket

    def _take_out(self, entrant: Entrant) -> None:
        bucket = entrant.bucket
        assert bucket is not None  # submit() has set it
        self._left += 1
        del self._queue[entrant], bucket.line[entrant]
        bucket.cost -= entrant.load.cost
        if bucket.line:
            return
        self._full.pop(bucket, None)
        alike = [other for other in self._buckets[bucket.hashed] if other is not bucket]
        if alike:
            self._buckets[bucket.hashed] = alike
        else:
            del self._buckets[bucket.hashed]

    def _give_up(self, entrant: Entrant) -> None:
        """No batch can be formed, and this item may be why."""
        self._take_out(entrant)
        entrant.settle(Outcome(error=WorkflowError()))

    def _settle_running(self, error: WorkflowError) -> None:
        running, self._running = self._running, []
        for entrant in running:
            entrant.settle(Outcome(error=error))

    def _settle_all(self, error: WorkflowError) -> None:
        self._settle_running(error)
        queue, self._queue, self._buckets, self._full = self._queue, OrderedDict(), {}, {}
        self._idle.set()
        for entrant in queue:
            entrant.settle(Outcome(error=error))


def _patience(entrant: Entrant, limits: Batching) -> float:
    """Seconds that an item waits for company: never more than half of the time that its caller gave it."""
    deadline = entrant.call.deadline
    return limits.max_wait_s if deadline is None else min(limits.max_wait_s, (deadline - entrant.arrived) / 2)


def _is_over(entrant: Entrant, now: float) -> bool:
    """Whether an item that waits should not run any more."""
    return entrant.settled or entrant.call.cancelled or _expired(entrant, now)


def _expired(entrant: Entrant, now: float) -> bool:
    return entrant.call.deadline is not None and now >= entrant.call.deadline


def _why_dropped(entrant: Entrant, now: float) -> WorkflowError:
    return DeadlineExceeded("the deadline passed in the queue") if _expired(entrant, now) else Cancelled()
