"""How every protocol asks a workflow: found by name, allowed, in time, and given up when the caller leaves.

Knows no wire format. A caller may shorten its deadline with the header `x-deadline-s` (seconds, for example `2.5`), and
name its conversation with `x-conversation-id`: what belongs together goes to the same replica, where that has room.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from deployments.router.caller import Caller
from deployments.router.directory import Directory, Entry
from deployments.router.fallback import is_over, leads_on, rungs, stands_aside
from deployments.router.metrics import Metrics
from deployments.router.request import Request
from deployments.router.sse import END_MARK, json_event, send_events
from deployments.router.token_counts import StreamCount, count_answer
from deployments.router.watch import Watch
from deployments.statistics import Statistics
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import Cancelled, InvalidInput, ModelNotFound, NotReady, Unsupported, WorkflowError

__all__ = ["Workflows"]

log = logging.getLogger(__name__)

GRACE_S: Final = 1.0
"""The dispatcher keeps the deadline; the edge steps in so much later, should it not."""
_SECONDS: Final = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,6})?")
_TRACEPARENT: Final = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_SESSION: Final = re.compile(rb"[!-~]{1,128}")
_RETRY_S: Final[Mapping[str, float]] = {"failed": 30.0}


@dataclass(frozen=True, slots=True)
class Workflows:
    """The directory as one caller's request may use it."""

    directory: Directory
    metrics: Metrics

    def listed(self, caller: Caller) -> list[Entry]:
        """What the caller may use, by name."""
        return [entry for entry in self.directory if _may_use(caller, entry)]

    def find(self, caller: Caller, name: str, version: str = "") -> Entry:
        """The entry of a name or alias, of this version if one is given (see `Directory.find`). Raises ModelNotFound, also
        if there is one that the caller's key does not cover."""
        entry = self.directory.find(name, partial(_may_use, caller), version, _session(caller))
        caller.workflow = entry.name
        if not _may_use(caller, entry):
            raise ModelNotFound()
        return entry

    def versions(self, caller: Caller, name: str, version: str = "") -> list[Entry]:
        """All versions of what this name finds that the caller may use, or the one that is given. Raises ModelNotFound, as
        `find`."""
        entry = self.find(caller, name, version)
        if version or entry.is_alone_as(name):
            return [entry]
        return [other for other in self.directory.versions(entry.known_as) if _may_use(caller, other)]

    def card(self, entry: Entry) -> Card:
        """The entry's card. Raises NotReady with the reason if it never was ready.

        An entry that was ready once is asked whatever its state says: while it is upgraded, its replicas answer.
        """
        if entry.card is None:
            entry.wake()
            reason = f": {entry.reason}" if entry.reason else ""
            raise NotReady(f"{entry.name} is {entry.state}{reason}", retry_after_s=_RETRY_S.get(entry.state, 2.0))
        return entry.card

    async def ask(self, caller: Caller, entry: Entry, input_data: Any, *, at_most_s: float | None = None) -> Any:
        """One plain input to one plain output. Raises the error tree."""
        left = _seconds(caller, caller.limits.deadline_s, at_most_s)
        with Watch(left + GRACE_S, caller.receive):
            return await self._asked(caller, entry, input_data, caller.call_id, time.monotonic() + left)

    async def ask_all(
        self,
        caller: Caller,
        entry: Entry,
        inputs: Sequence[Any | WorkflowError],
        *,
        at_most_s: float | None = None,
        or_none: bool = False,
    ) -> list[Any | WorkflowError]:
        """One outcome per input, in order, all asked at once; an input that is an error already is its own outcome.

        Args:
            or_none: Whether one error makes the rest worthless: it is given up then, and its outcomes are `Cancelled`.
        """
        left = _seconds(caller, caller.limits.deadline_s, at_most_s)
        deadline = time.monotonic() + left

        async def one(index: int, input_data: Any) -> Any:
            if isinstance(input_data, WorkflowError):
                return input_data
            return await self._asked(caller, entry, input_data, f"{caller.call_id}-{index}", deadline)

        with Watch(left + GRACE_S, caller.receive):
            members = [asyncio.create_task(one(index, value)) for index, value in enumerate(inputs)]
            everything = asyncio.gather(*members, return_exceptions=True)  # cancelled, it cancels them all
            if or_none:
                await _until_first_error(members)
            outcomes = await everything
        for index, outcome in enumerate(outcomes):
            if or_none and isinstance(outcome, asyncio.CancelledError):
                outcomes[index] = Cancelled()
                continue
            if isinstance(outcome, BaseException) and not isinstance(outcome, WorkflowError):
                log.error("request %s: member %d failed", caller.id, index, exc_info=outcome)
                outcomes[index] = WorkflowError()
        return outcomes

    def chunks(
        self, caller: Caller, entry: Entry, input_data: Any, *, at_most_s: float, member: int | None = None
    ) -> AsyncGenerator[list[Any]]:
        """One plain input's chunks, in the groups that were ready together.

        Raises Unsupported at once, the rest of the error tree with the first group or a later one. Whoever reads keeps
        the time (see `Watch`); the workflow is told that it has `at_most_s`. `member`: which one it is, of several streams
        for one request.
        """
        if not self.card(entry).streams:
            raise Unsupported("this workflow does not stream")
        call_id = caller.call_id if member is None else f"{caller.call_id}-{member}"
        return self._streamed(caller, entry, input_data, call_id, time.monotonic() + at_most_s)

    async def stream(
        self,
        request: Request,
        entry: Entry,
        input_data: Any,
        event: Callable[[Any], bytes] = json_event,
        end_mark: bytes = END_MARK,
        *,
        at_most_s: float | None = None,
    ) -> None:
        """Answer with the workflow's stream. Raises the error tree before the first chunk; tells later errors in-band."""
        limits = request.limits
        total_s = self.stream_seconds(request, at_most_s)
        groups = self.chunks(request, entry, input_data, at_most_s=total_s)
        first_s = limits.stream_first_chunk_s
        await send_events(request, groups, first_chunk_s=first_s, total_s=total_s, event=event, end_mark=end_mark)

    async def load(self, caller: Caller, entry: Entry) -> None:
        """Set a workflow up again, in all of its replicas. Takes as long as a stream may; see `Entry.load`."""
        left = self.stream_seconds(caller)
        with Watch(left + GRACE_S, caller.receive):
            await entry.load(left)

    async def unload(self, caller: Caller, entry: Entry) -> None:
        """Tear a workflow down in all of its replicas, after what they have; see `Entry.unload`."""
        left = self.stream_seconds(caller)
        with Watch(left + GRACE_S, caller.receive):
            await entry.unload(left)

    async def statistics(self, caller: Caller, entries: Sequence[Entry]) -> list[Statistics | WorkflowError]:
        """What the replicas of these workflows have counted, or why that is not known; all are asked at once."""
        with Watch(_seconds(caller, caller.limits.deadline_s) + GRACE_S, caller.receive):
            found = await asyncio.gather(*(entry.statistics() for entry in entries), return_exceptions=True)
        known: list[Statistics | WorkflowError] = []
        for each in found:
            if not isinstance(each, Statistics | WorkflowError):
                raise each
            known.append(each)
        return known

    def stream_seconds(self, caller: Caller, at_most_s: float | None = None) -> float:
        """How long a stream of this caller may take."""
        return _seconds(caller, caller.limits.stream_s, at_most_s)

    async def _asked(self, caller: Caller, entry: Entry, input_data: Any, call_id: str, deadline: float) -> Any:
        """One answer, of this workflow or of whoever answers in its place. Raises the error of the one that was asked for."""
        first: WorkflowError | None = None
        for rung in self._ladder(caller, entry):
            try:
                output = await rung.dispatcher.inference(input_data, _call(caller, call_id, deadline))
            except WorkflowError as error:
                if rung is entry:
                    if not leads_on(entry, error):
                        raise
                    first = error
                elif is_over(error):
                    raise
                log.info("request %s: workflow %s failed: %s", caller.id, rung.name, error.code)
                continue
            self._served(caller, entry, rung)
            count_answer(self.metrics, rung, caller.key.id, output)
            return output
        raise first or WorkflowError()

    async def _streamed(
        self, caller: Caller, entry: Entry, input_data: Any, call_id: str, deadline: float
    ) -> AsyncGenerator[list[Any]]:
        """The same for a stream: who has begun to answer is followed by nobody."""
        first: WorkflowError | None = None
        for rung in self._ladder(caller, entry):
            begun = False
            count = StreamCount(self.metrics, rung, caller.key.id)
            try:
                async with aclosing(rung.dispatcher.stream(input_data, _call(caller, call_id, deadline))) as groups:
                    async for group in groups:
                        if not begun:
                            begun = True
                            self._served(caller, entry, rung)
                        count.add(group)
                        yield group
                if not begun:
                    self._served(caller, entry, rung)  # an answer of nothing is one
                return
            except WorkflowError as error:
                if begun or (not leads_on(entry, error) if rung is entry else is_over(error)):
                    raise
                if rung is entry:
                    first = error
                log.info("request %s: workflow %s failed: %s", caller.id, rung.name, error.code)
            finally:
                count.end()
        raise first or WorkflowError()

    def _ladder(self, caller: Caller, entry: Entry) -> Iterator[Entry]:
        """Whom to ask, in order: the workflow itself, which nobody waits for while it is away, and its fallbacks."""
        aside = stands_aside(entry)
        if not aside:
            yield entry
        yield from rungs(self.directory, entry, partial(_may_use, caller), _session(caller))
        if aside:
            yield entry

    def _served(self, caller: Caller, entry: Entry, rung: Entry) -> None:
        caller.answered_by(rung.name, degraded=rung is not entry)
        if rung is not entry:
            self.metrics.fell(entry.name, rung.name)


async def _until_first_error(members: Sequence[asyncio.Task[Any]]) -> None:
    """The rest is given up then, and all of them if whoever waits is."""
    try:
        await asyncio.wait(members, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for member in members:
            member.cancel()


def _may_use(caller: Caller, entry: Entry) -> bool:
    return caller.key.may_use(entry.name) or caller.key.may_use(entry.known_as)


def _session(caller: Caller) -> str | None:
    if caller.session is None and (named := caller.headers.get(b"x-conversation-id")) and _SESSION.fullmatch(named):
        return named.decode()
    return caller.session


def _seconds(caller: Caller, allowed: float, at_most_s: float | None = None) -> float:
    """How long this request may take: what is configured, or less if the caller says so."""
    header = caller.headers.get(b"x-deadline-s")
    if header is not None:
        if b"x-deadline-s" in caller.repeated:
            raise InvalidInput("the header x-deadline-s is there more than once", param="x-deadline-s")
        if not _SECONDS.fullmatch(header) or float(header) <= 0:
            raise InvalidInput("the header x-deadline-s must be a positive number of seconds", param="x-deadline-s")
        allowed = min(allowed, float(header))
    return allowed if at_most_s is None else min(allowed, at_most_s)


def _call(caller: Caller, call_id: str, deadline: float) -> CallContext:
    """`deadline`: by `time.monotonic()`."""
    trace = caller.headers.get(b"traceparent")
    return CallContext(
        request_id=call_id,
        deadline=deadline,
        key_id=caller.key.id,
        session_id=_session(caller),
        traceparent=trace.decode() if trace is not None and _TRACEPARENT.fullmatch(trace) else None,
    )
