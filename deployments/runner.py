"""The desk in front of one workflow: validates, queues, collects outcomes. No Ray; the same in a replica and in tests.

A sync workflow's hooks run on its one model thread: batches from the batcher and the steps of streams take turns there.
An async workflow's hooks run on the desk's own event loop, as many at once as its `concurrency` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from deployments.async_drive import AsyncDrive
from deployments.client import Item, Outcome
from deployments.collector import without_frames
from deployments.config import WorkflowSettings
from deployments.loading import Loading
from deployments.standing import Standing
from deployments.statistics import Counts, Meter, Statistics
from deployments.threaded_drive import ThreadedDrive
from workflows.async_base import AsyncInferenceWorkflow
from workflows.base import BaseInferenceWorkflow, Parsed
from workflows.batch import as_error
from workflows.card import BatchCost, Card, Load
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import Cancelled, NotReady, Overloaded, WorkflowError

__all__ = ["Figures", "Runner", "Taken"]

CURVES_SHOWN: Final = 8
EXPECTED_S: Final = 15.0
"""A caller that says nothing for so long has no items waiting for this desk."""
MAX_CALLERS: Final = 256
MAX_EXPECTED: Final = 1e9
Deliver = Callable[[int, Outcome], None]
Begun = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """How busy a desk is: items waiting, items in the model, open streams, and its share of what waits at its callers."""

    waiting: int
    running: int
    streams: int
    expected: float = 0.0


class Ticket(Protocol):
    """One item that was taken in, until its outcome is delivered."""

    def drop(self) -> None:
        """The caller has left."""
        ...


class Runner:
    """Runs one workflow. All methods belong to one event loop.

    Args:
        workflow: Not set up yet; the runner owns it from now on.
        name: What it is called in the card.
        stuck_after_s: A model call that takes longer makes `check_health` fail; of an async workflow, what `busy_s` says.
        replica: Whose word its `standing` is.
    """

    def __init__(
        self,
        workflow: BaseInferenceWorkflow[Any, Any, Any],
        name: str,
        *,
        summary: str = "",
        settings: WorkflowSettings | None = None,
        stuck_after_s: float = 300.0,
        replica: str = "",
    ) -> None:
        self._workflow = workflow
        self._name = name
        self._summary = summary
        self._settings = settings or WorkflowSettings()
        self._counts = Counts()
        self._drive: ThreadedDrive | AsyncDrive
        if isinstance(workflow, AsyncInferenceWorkflow):
            self._drive = AsyncDrive(workflow, self._settings, stuck_after_s, self._counts)
        else:
            self._drive = ThreadedDrive(workflow, self._settings, stuck_after_s, self._counts)
        self._card: Card | None = None
        self._tickets: dict[str, set[Ticket]] = {}
        self._streams = 0
        self._no_streams = asyncio.Event()
        self._no_streams.set()
        self._loading = Loading(self._drive, name, replica, self._describe, self._no_streams)
        self._expected: dict[str, tuple[float, float]] = {}  # by caller: items, and until when that holds

    async def start(self, setup_timeout_s: float = 600.0) -> None:
        """Set the workflow up. Raises what its `do_setup` raises, NotReady when it takes longer than allowed."""
        self._loading.setup_timeout_s = setup_timeout_s
        try:
            async with asyncio.timeout(setup_timeout_s):
                await self._drive.start()
        except TimeoutError as cause:
            raise NotReady(f"setup took longer than {setup_timeout_s:g} s", retry_after_s=None) from cause
        self._loading.begin()

    async def unload(self, timeout_s: float) -> Standing:
        """See `WorkflowClient.unload`; this replica's part."""
        return await self._loading.unload(timeout_s)

    async def load(self, timeout_s: float) -> Standing:
        """See `WorkflowClient.load`; this replica's part. The setup itself may take as long as the first one."""
        return await self._loading.load(timeout_s)

    @property
    def standing(self) -> Standing:
        """Whether the workflow is loaded."""
        return self._loading.standing

    def listen(self, listener: Callable[[Standing], None]) -> Callable[[], None]:
        """Hear of every change of the standing, at once. Returns what ends it."""
        return self._loading.listen(listener)

    @property
    def card(self) -> Card:
        """What the workflow says of itself, also while it is unloaded. Raises NotReady before the first setup."""
        if self._card is None:
            raise NotReady()
        curves = [curve for curve in self._drive.curves() if curve][:CURVES_SHOWN]
        costs = [[BatchCost(**point._asdict()) for point in curve] for curve in curves]
        return self._card.model_copy(update={"batch_costs": costs})

    def configure(self, settings: WorkflowSettings) -> None:
        """Change limits while running; what already waits stays. The card of a workflow that is unloaded says so later."""
        self._settings = settings
        self._drive.configure(settings)
        if self._loading.set_up:
            self._describe()

    def take(self, items: Sequence[Item], deliver: Deliver, begun: Begun | None = None) -> Taken:
        """Queue several inputs. `deliver` gets each one's index and outcome, once, during this call or later.

        Args:
            begun: Gets the index of an item before the model sees it.
        """
        taken = Taken(self._tickets, self._counts)
        for index, item in enumerate(items):
            self._take(index, item, taken, deliver, begun)
        return taken

    async def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        """See `WorkflowClient.submit`; refusals are outcomes of their items here, and nothing is raised."""
        collected = _Collected()
        taken = self.take(items, collected.add)
        try:
            missing = len(items)
            while missing:
                group = await collected.next()
                missing -= len(group)
                yield group
        finally:
            taken.drop()

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        """See `WorkflowClient.stream`."""
        since = item.since or time.monotonic()
        meter = Meter()
        error: WorkflowError | None = Cancelled()  # what it is that nobody reads to its end
        try:
            self._open(item.call)
            try:
                async with aclosing(self._drive.stream(item, meter)) as groups:
                    async for group in groups:
                        yield group
            finally:
                self._streams -= 1
                if not self._streams:
                    self._no_streams.set()
            error = None
        except Exception as raised:  # noqa: BLE001 - whatever it is, the stream ends with it
            error = without_frames(as_error(raised, item.call.request_id))
            raise error from None  # it is in the log already
        finally:
            ended = time.monotonic()
            if error is None:
                self._counts.streamed(since, meter, ended)
            else:
                self._counts.failed(error, ended - since)
            del error  # which this frame must not keep: see `without_frames`

    async def inference(self, input_data: Any) -> Any:
        """One input's answer as the workflow's own output type. Raises the error tree."""
        async with aclosing(self.submit([Item(input_data, CallContext())])) as groups:
            ((_, outcome),) = await anext(groups)
        if outcome.error is not None:
            raise outcome.error
        return self._workflow.parse_output(outcome.output)

    async def chunks(self, input_data: Any) -> AsyncGenerator[Any]:
        """One input's chunks as the workflow's own chunk type. Raises the error tree."""
        async with aclosing(self.stream(Item(input_data, CallContext()))) as groups:
            async for group in groups:
                for chunk in group:
                    yield self._workflow.parse_chunk(chunk)

    def cancel(self, request_ids: Sequence[str]) -> None:
        """See `WorkflowClient.cancel`."""
        for request_id in request_ids:
            for ticket in tuple(self._tickets.get(request_id, ())):
                ticket.drop()

    def expect(self, caller: str, items: float) -> None:
        """See `WorkflowClient.tell_waiting`. One caller too many is not listened to."""
        self._expected.pop(caller, None)
        self._forget_callers()
        if items > 0 and len(self._expected) < MAX_CALLERS:
            self._expected[caller] = (min(items, MAX_EXPECTED), time.monotonic() + EXPECTED_S)

    def statistics(self) -> Statistics:
        """What has been answered here so far."""
        return self._counts.statistics()

    def figures(self) -> Figures:
        self._forget_callers()
        if self._loading.away:
            return Figures(0, 0, 0)  # whoever waits, waits for no further replica
        expected = sum(items for items, _ in self._expected.values())
        return Figures(self._drive.waiting, self._drive.running, self._streams, expected)

    def check_health(self) -> None:
        """Raises WorkflowError if this desk can no longer do its work and should be replaced."""
        self._drive.check_health()

    async def stop(self) -> None:
        """Refuse new work, finish what runs, open streams among it, and tear the workflow down.

        A sync model that has not returned for `stuck_after_s` is not waited for: what it runs is lost.
        """
        self._loading.stop()
        try:
            await self._drive.stop(self._no_streams)
        finally:
            self._loading.end()

    @property
    def retry_safe(self) -> bool:
        """Whether running an input twice does no harm."""
        return self._workflow.retry_safe

    def _open(self, call: CallContext) -> None:
        """Take a stream in, or raise why not."""
        if not self._loading.serves:
            raise self._loading.refusal()
        if self._streams >= self._settings.max_streams:
            raise Overloaded("too many open streams on this workflow")
        late = given_up(call)
        if late is not None:
            raise late
        self._streams += 1
        self._no_streams.clear()

    def _describe(self) -> None:
        self._card = self._workflow.card(self._name, self._summary)

    def _forget_callers(self) -> None:
        now = time.monotonic()
        for caller in [caller for caller, (_, until) in self._expected.items() if until <= now]:
            del self._expected[caller]

    def _take(self, index: int, item: Item, taken: Taken, deliver: Deliver, begun: Begun | None) -> None:
        """Queue one item; a refusal is delivered at once."""
        call = item.call
        came = time.monotonic()
        since = item.since or came
        try:
            if not self._loading.serves:
                raise self._loading.refusal()
            late = given_up(call)
            if late is not None:
                raise late
            parsed = self._workflow.parse_input(item.input_data)
            load: Load = self._workflow.load_of(parsed)
            done = partial(taken.done, index, deliver, since)
            begins = None if begun is None else partial(begun, index)
            ticket = self._drive.take(Parsed(parsed), load, call, done, begins, since, came)
            taken.add(index, call.request_id, ticket)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it becomes this item's outcome
            error = without_frames(as_error(raised, call.request_id))
            self._counts.failed(error, time.monotonic() - since)
            deliver(index, Outcome(error=error))


class Taken:
    """The items of one call that are still here."""

    __slots__ = ("_by_request", "_counts", "_tickets")

    def __init__(self, by_request: dict[str, set[Ticket]], counts: Counts) -> None:
        self._by_request = by_request
        self._counts = counts
        self._tickets: dict[int, tuple[str, Ticket]] = {}

    def drop(self) -> None:
        """Nobody waits any more: what has not started never runs, and nothing more is delivered than that."""
        for _, ticket in list(self._tickets.values()):
            ticket.drop()

    def add(self, index: int, request_id: str, ticket: Ticket) -> None:
        self._tickets[index] = (request_id, ticket)
        self._by_request.setdefault(request_id, set()).add(ticket)

    def done(self, index: int, deliver: Deliver, since: float, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._counts.failed(without_frames(outcome.error), time.monotonic() - since)
        request_id, ticket = self._tickets.pop(index)
        of_request = self._by_request[request_id]
        of_request.discard(ticket)
        if not of_request:
            del self._by_request[request_id]
        deliver(index, outcome)


class _Collected:
    """Outcomes as they come, handed on in the groups that came together."""

    def __init__(self) -> None:
        self._ready: list[tuple[int, Outcome]] = []
        self._some = asyncio.Event()

    def add(self, index: int, outcome: Outcome) -> None:
        self._ready.append((index, outcome))
        self._some.set()

    async def next(self) -> list[tuple[int, Outcome]]:
        await self._some.wait()
        self._some.clear()
        group, self._ready = self._ready, []
        return group
