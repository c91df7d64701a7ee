"""Who answers, by when, and what happens if the caller leaves. One dispatcher per workflow; no Ray, no HTTP.

Requests that arrive while calls are out travel together in the next call (an envelope); an idle path sends at once.
Those of one session travel with no others, because they have a replica of their own to go to, and so do those that name one
model.

    inference -> waiting -> [call] -> outcome          every path out of here is one of:
                   |          |                        an output, an error of the tree, or the caller is gone
                   |          +- the replica is lost: again if that can do no harm and time is left
                   |          +- it has the workflow unloaded: again while another one has it loaded
                   +- deadline, or no room: refused, and nothing has run
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from deployments.client import MODEL_AFFINITY, Item, Outcome, Timing, WorkflowClient
from deployments.router.alarms import SHORT_S, alarm_at
from deployments.statistics import Counts
from workflows.batch import as_error
from workflows.card import Card
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, ReplicaLost, Unloaded, WorkflowError

__all__ = ["Dispatcher", "affinity_of"]

log = logging.getLogger(__name__)

MAX_ENVELOPE: Final = 64
MAX_ENVELOPE_BYTES: Final = 16 << 20  # of arrays and text; far below what one gRPC message of a handle may hold
CALLS_PER_REPLICA: Final = 4
ATTEMPTS: Final = 2  # of what may have run: a request that kills replicas must not kill many
REFUSALS: Final = 8  # by replicas that stop or are unloaded, and what never reached one: nothing has run


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that was taken in; `call` is the one it travels in, once it was sent."""

    item: Item
    answer: asyncio.Future[Any]
    attempts: int = 0
    may_have_run: bool = False  # in an earlier attempt
    call: _Call | None = None


@dataclass(slots=True, eq=False)
class _Call:
    envelope: list[_Pending]
    task: asyncio.Task[None]


_MAX_NAME_CHARS: Final = 1024  # no id of a model is longer, and what has answered is remembered
_HEAVY: Final = frozenset({str, bytes, dict, list, np.ndarray})


def _ignore(timing: Timing) -> None: ...


class Dispatcher:
    """The way to one workflow. All methods belong to one event loop.

    Args:
        client: Where the workflow is.
        max_queue: Requests that may wait here; one more is refused. May be changed while running.
        observe: Told where each item's time went.

    Attributes:
        counts: What was given up here: refused, lost, or too late before it was sent. Replicas count the rest.
    """

    def __init__(
        self, client: WorkflowClient, *, max_queue: int = 1024, observe: Callable[[Timing], None] = _ignore
    ) -> None:
        self.client = client
        self.max_queue = max_queue
        self.counts = Counts()
        self._observe = observe
        self._retry_safe = False
        self._max_calls = CALLS_PER_REPLICA
        self._waiting: deque[_Pending] = deque()
        self._calls: set[_Call] = set()
        self._room: int | None = None  # as many as the replicas would take: what they would refuse is refused here
        self._taken = 0
        self._pump_due = False
        self._streams = 0
        self._dropped: list[str] = []
        self._telling: asyncio.Task[None] | None = None
        self._replicas = 1
        self._unloaded = 0
        self._told_waiting = False
        self._name = secrets.token_hex(8)

    def configure(self, card: Card, replicas: int, unloaded: int = 0) -> None:
        """Adopt what the workflow says of itself, how many replicas share the work, and how many of them are unloaded."""
        self._retry_safe = card.retry_safe
        self._replicas = max(1, replicas)
        self._unloaded = unloaded
        self._max_calls = max(CALLS_PER_REPLICA, card.concurrency) * self._replicas
        at_once = max(card.concurrency, card.batching.max_size if card.batching else 1)
        self._room = None if card.max_queue is None else (card.max_queue + at_once) * self._replicas
        self._pump_soon()

    @property
    def waiting(self) -> int:
        """Requests that have not been sent yet."""
        return len(self._waiting)

    @property
    def load(self) -> int:
        """Requests and streams that have been taken in and not been answered."""
        sent = sum(not pending.answer.done() for call in self._calls for pending in call.envelope)
        return len(self._waiting) + sent + self._streams

    async def inference(self, input_data: Any, call: CallContext) -> Any:
        """Plain input to plain output. Raises the error tree; cancelling it drops the request if it has not started."""
        if len(self._waiting) >= self.max_queue or (self._room is not None and self._taken >= self._room):
            raise self._given_up(Overloaded("too many requests are waiting for this workflow"))
        loop = asyncio.get_running_loop()
        pending = _Pending(
            Item(input_data, call, time.monotonic(), affinity_of(input_data, call)), loop.create_future()
        )
        left = call.seconds_left()
        alarm = None
        if left is not None:
            alarm = alarm_at(loop, loop.time() + left, partial(self._expire, pending), exact=left < SHORT_S)
        self._waiting.append(pending)
        self._taken += 1
        self._pump_soon()
        try:
            return await pending.answer
        except asyncio.CancelledError:
            if pending.call is None and pending.answer.cancelled():
                self._given_up(Cancelled(), pending.item.since)
            self._drop(pending)
            raise
        finally:
            self._taken -= 1
            if alarm is not None:
                alarm.cancel()
            del pending  # it has the error, whose traceback has this frame: what was sent would wait for the collector

    async def stream(self, input_data: Any, call: CallContext) -> AsyncGenerator[list[Any]]:
        """Plain input to groups of plain chunks. Raises the error tree; close it (`aclose`) when the caller leaves."""
        if self._streams >= self.max_queue:
            raise self._given_up(Overloaded("too many streams are open on this workflow"))
        late = given_up(call)
        if late is not None:
            raise self._given_up(late)
        self._streams += 1
        since = time.monotonic()
        item = Item(input_data, call, since, affinity_of(input_data, call))
        try:
            for attempt in range(1, REFUSALS + 1):
                begun = False
                try:
                    async with aclosing(self.client.stream(item)) as groups:
                        async for group in groups:
                            begun = True
                            yield group
                    return
                except (ReplicaLost, Unloaded) as lost:
                    if begun or not self._may_retry(call, lost, attempt):
                        raise self._given_up(lost, since) from None
                except WorkflowError:
                    raise
                except Exception as error:
                    raise as_error(error, call.request_id) from error
        finally:
            self._streams -= 1

    async def tell_waiting(self) -> None:
        """Tell the replicas what waits here for want of them; to be called every second or so. Raises the error tree."""
        waiting = len(self._waiting)
        if waiting or self._told_waiting:
            self._told_waiting = waiting > 0
            await self.client.tell_waiting(self._name, waiting / self._replicas)

    # ---- envelopes -----------------------------------------------------------------------------------------------------

    def _pump_soon(self) -> None:
        """Send at the end of this turn of the loop: requests that came in the same turn travel together."""
        if not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        while self._waiting and len(self._calls) < self._max_calls:
            envelope = self._fill()
            if envelope:
                self._begin(envelope)

    def _fill(self) -> list[_Pending]:
        """The next envelope: those at the head of the queue that are still wanted, as many as travel well together."""
        envelope: list[_Pending] = []
        size = 0
        while self._waiting and len(envelope) < MAX_ENVELOPE:
            pending = self._waiting[0]
            if envelope and pending.item.affinity != envelope[0].item.affinity:
                break
            size += _bytes_of(pending.item.input_data)
            if envelope and size > MAX_ENVELOPE_BYTES:
                break
            self._waiting.popleft()
            late = given_up(pending.item.call, begun=pending.may_have_run)
            if pending.answer.done():
                continue
            if late is not None:  # its alarm is late, too
                self._end(pending, late)
                continue
            pending.attempts += 1
            envelope.append(pending)
        return envelope

    def _begin(self, envelope: list[_Pending]) -> None:
        call = _Call(envelope, asyncio.create_task(self._send(envelope)))
        for pending in envelope:
            pending.call = call
        self._calls.add(call)
        call.task.add_done_callback(lambda _: self._ended(call))

    def _ended(self, call: _Call) -> None:
        self._calls.discard(call)
        call.envelope.clear()  # whose members know their call: large inputs would wait for the garbage collector
        self._pump()

    async def _send(self, envelope: list[_Pending]) -> None:
        try:
            async with aclosing(self.client.submit([pending.item for pending in envelope])) as groups:
                async for group in groups:
                    for index, outcome in group:
                        self._settle(envelope[index], outcome)
            if any(pending.call is not None and not pending.answer.done() for pending in envelope):
                self._fail(envelope, ReplicaLost(may_have_run=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the answer to the whole envelope
            self._fail(envelope, as_error(error))

    def _settle(self, pending: _Pending, outcome: Outcome) -> None:
        error = outcome.error
        if isinstance(error, ReplicaLost | Unloaded):
            self._lost([pending], error)
            return
        self._observe(outcome.timing)
        if pending.answer.done():
            return
        if error is not None:
            pending.answer.set_exception(error)
        else:
            pending.answer.set_result(outcome.output)

    def _fail(self, envelope: list[_Pending], error: WorkflowError) -> None:
        """The call has ended: whoever still travelled in it gets the error, or another try."""
        left = [p for p in envelope if p.call is not None and p.call.envelope is envelope and not p.answer.done()]
        if isinstance(error, ReplicaLost):
            self._lost(left, error)
            return
        for pending in left:
            # Each its own: an exception that several tasks raise would collect all their tracebacks.
            self._end(pending, copy(error))

    def _lost(self, travellers: list[_Pending], error: ReplicaLost | Unloaded) -> None:
        """Back to the head of the queue if they may be tried again."""
        again: list[_Pending] = []
        for pending in travellers:
            pending.may_have_run |= error.may_have_run
            if pending.answer.done():
                continue
            if self._may_retry(pending.item.call, error, pending.attempts):
                pending.call = None
                again.append(pending)
            else:
                self._end(pending, copy(error))
        self._waiting.extendleft(reversed(again))
        if again:
            self._pump_soon()

    def _may_retry(self, call: CallContext, error: ReplicaLost | Unloaded, attempts: int) -> bool:
        """Whether a lost request may be sent once more: never what may have run and must not run twice, and not where no
        other replica can answer it."""
        if given_up(call) is not None:
            return False
        if isinstance(error, Unloaded) and (self._replicas == 1 or self._unloaded >= self._replicas):
            return False
        return attempts < ATTEMPTS and self._retry_safe if error.may_have_run else attempts < REFUSALS

    def _end(self, pending: _Pending, error: WorkflowError) -> None:
        """Answer with an error that no replica has counted."""
        pending.answer.set_exception(self._given_up(error, pending.item.since))

    def _given_up(self, error: WorkflowError, since: float | None = None) -> WorkflowError:
        self.counts.given_up(error, 0.0 if since is None else time.monotonic() - since)
        return error

    # ---- callers who leave ----------------------------------------------------------------------------------------------

    def _expire(self, pending: _Pending) -> None:
        if not pending.answer.done():
            error = DeadlineExceeded(may_have_run=pending.attempts > 0)
            if pending.call is None:
                self._end(pending, error)
            else:
                pending.answer.set_exception(error)  # the replica counts it, when it hears that nobody waits
            self._drop(pending)

    def _drop(self, pending: _Pending) -> None:
        """Nobody waits for this answer any more. A call that nobody waits for at all is given up as a whole."""
        pending.item.call.cancel()
        if pending.call is None:
            if pending in self._waiting:
                self._waiting.remove(pending)
        elif all(other.answer.done() for other in pending.call.envelope):
            pending.call.task.cancel()
        else:
            self._dropped.append(pending.item.call.request_id)
            if self._telling is None:
                self._telling = asyncio.create_task(self._tell_dropped())

    async def _tell_dropped(self) -> None:
        """One message for all that left while the last one was under way."""
        try:
            while self._dropped:
                request_ids, self._dropped = self._dropped, []
                await self.client.cancel(request_ids)
        except Exception:
            log.debug("could not tell the replicas who left", exc_info=True)  # they find out at the deadline
        finally:
            self._telling = None


def affinity_of(input_data: Any, call: CallContext) -> str | None:
    """See `Item`. A model is named as `Tensors` has it, by the parameter `model`."""
    if call.session_id is not None:
        return f"session {call.session_id}"
    parameters = input_data.get("parameters") if isinstance(input_data, dict) else None
    model = parameters.get("model") if isinstance(parameters, dict) and parameters else None
    return MODEL_AFFINITY + model if isinstance(model, str) and len(model) <= _MAX_NAME_CHARS else None


def _bytes_of(value: Any) -> int:
    """What an input weighs on its way: arrays and texts, however nested; the rest is small change."""
    if isinstance(value, dict):
        return sum(map(_bytes_of, value.values()))
    if isinstance(value, list):
        return 8 * len(value) + sum(_bytes_of(part) for part in value if type(part) in _HEAVY)
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(value) if isinstance(value, str | bytes) else 0
