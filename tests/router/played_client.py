"""A client that the test plays, and a dispatcher in front of it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.client import Item, Outcome, Timing
from deployments.router.dispatch import CALLS_PER_REPLICA, Dispatcher
from deployments.standing import Standing
from deployments.statistics import Statistics
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import (
    WorkflowError,
)

__all__ = ["Desk", "PlayedClient", "Sent", "card", "error_of", "nothing_left_behind", "turn"]

Group = list[tuple[int, Outcome]]


@dataclass(eq=False)
class Sent:
    """One call that reached the client; the test decides what comes of it."""

    inputs: list[Any]
    calls: list[CallContext]
    items: Sequence[Item] = ()
    closed: bool = False
    _events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    def answer(self, *indices: int) -> None:
        """Each input as its own answer."""
        self._events.put_nowait([(index, Outcome(self.inputs[index], None, Timing(0.5, 0.25, 3))) for index in indices])

    def refuse(self, index: int, error: WorkflowError) -> None:
        self._events.put_nowait([(index, Outcome(error=error))])

    def give(self, *chunks: Any) -> None:
        self._events.put_nowait(list(chunks))

    def end(self) -> None:
        self._events.put_nowait(None)

    def fail(self, error: Exception) -> None:
        self._events.put_nowait(error)

    def finish(self) -> None:
        self.answer(*range(len(self.inputs)))
        self.end()

    async def play(self) -> AsyncGenerator[Any]:
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True


class PlayedClient:
    """`WorkflowClient`, played by the test."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.streams: list[Sent] = []
        self.cancelled: list[str] = []
        self.told_waiting: list[float] = []

    async def submit(self, items: Sequence[Item]) -> AsyncGenerator[Group]:
        sent = Sent([item.input_data for item in items], [item.call for item in items], items)
        self.sent.append(sent)
        async with aclosing(sent.play()) as groups:
            async for group in groups:
                yield group

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        sent = Sent([item.input_data], [item.call])
        self.streams.append(sent)
        async with aclosing(sent.play()) as groups:
            async for group in groups:
                yield group

    async def cancel(self, request_ids: Sequence[str]) -> None:
        self.cancelled.extend(request_ids)

    async def tell_waiting(self, caller: str, items: float) -> None:
        self.told_waiting.append(items)

    async def card(self) -> Card:
        return card()

    async def unload(self, timeout_s: float) -> list[Standing]:
        raise NotImplementedError

    async def load(self, timeout_s: float) -> list[Standing]:
        raise NotImplementedError

    async def statistics(self) -> Statistics:
        raise NotImplementedError

    @property
    def envelopes(self) -> list[list[Any]]:
        return [sent.inputs for sent in self.sent]


def card(*, retry_safe: bool = False, concurrency: int = 1) -> Card:
    return Card(
        name="it",
        summary="",
        kind="json",
        input_schema={},
        output_schema={},
        retry_safe=retry_safe,
        concurrency=concurrency,
    )


class Desk:
    """A dispatcher, its client, and the callers who wait."""

    def __init__(self, *, retry_safe: bool = False, max_queue: int = 1000) -> None:
        self.client = PlayedClient()
        self.timings: list[Timing] = []
        self.dispatcher = Dispatcher(self.client, max_queue=max_queue, observe=self.timings.append)
        self.dispatcher.configure(card(retry_safe=retry_safe), replicas=1)

    def ask(self, value: Any, *, within_s: float | None = None, session: str | None = None) -> asyncio.Task[Any]:
        deadline = None if within_s is None else time.monotonic() + within_s
        call = CallContext(f"r{value}", deadline, session_id=session)
        return asyncio.create_task(self.dispatcher.inference(value, call), name=f"caller {value}")

    async def fill(self) -> list[asyncio.Task[Any]]:
        """Occupy every call that may be out at a time."""
        callers = []
        for number in range(CALLS_PER_REPLICA):
            callers.append(self.ask(f"fill-{number}"))
            await turn()
        assert len(self.client.sent) == CALLS_PER_REPLICA
        return callers


async def turn() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def error_of(caller: asyncio.Task[Any]) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        await caller
    return caught.value


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncGenerator[None]:
    """No task outlives its test, and asyncio has nothing to complain of."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    yield
    await turn()
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()
    gc.collect(1)
    assert complaints == []
