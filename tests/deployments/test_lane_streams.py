"""Streams over a lane: what travels together, what a slow reader holds up, and how a stream ends that cannot go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from deployments.lanes.client import CREDIT
from deployments.lanes.connection import Connection
from deployments.lanes.frames import COST_BYTES, Chunks, Credit, Message, Writer
from deployments.runner import Runner
from tests.contract import read
from tests.deployments.lane_ends import item, lane_to
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow
from workflows.errors import BadOutput


def flat(groups: list[list[Any]]) -> list[Any]:
    return [chunk for group in groups for chunk in group]


class Counter(AsyncInferenceWorkflow[int, list[int], int]):
    """Counts as fast as it can."""

    def __init__(self) -> None:
        self.made = 0

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[int]:
        for number in range(preprocessed_data):
            self.made += 1
            yield number


class Ticking(AsyncInferenceWorkflow[int, list[int], int]):
    """Waits between its numbers, so that each travels by itself."""

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[int]:
        for number in range(preprocessed_data):
            yield number
            for _ in range(3):
                await asyncio.sleep(0)


async def test_a_slow_reader_slows_its_own_producer_only() -> None:
    counter = Counter()
    runner = Runner(counter, "counter")
    await runner.start()
    async with lane_to(runner) as lane, aclosing(lane.stream(item(10_000))) as slow:
        first = list(await anext(slow))
        fast, _ = await read(lane, item(1000))
        assert flat(fast) == list(range(1000))
        assert counter.made - 1000 <= len(first) + 2 * CREDIT  # what is under way, and what was granted since
        assert first + flat([group async for group in slow]) == list(range(10_000))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What the two ends of all lanes say."""
    heard: list[Message] = []
    send = Connection.send

    def listening(connection: Connection, message: Message) -> int:
        heard.append(message)
        return send(connection, message)

    monkeypatch.setattr(Connection, "send", listening)
    return heard


async def test_a_reader_does_not_answer_every_chunk(said: list[Message]) -> None:
    runner = Runner(Ticking(), "ticking")
    await runner.start()
    async with lane_to(runner) as lane:
        groups, _ = await read(lane, item(1000))
    assert flat(groups) == list(range(1000))
    assert len(groups) > 500
    granted = [message.amount for message in said if isinstance(message, Credit)]
    assert len(granted) <= 4 * 1000 / CREDIT
    assert min(granted) >= CREDIT / 4


async def test_the_first_chunk_leaves_at_once_and_what_follows_without_a_wait_travels_together(
    said: list[Message],
) -> None:
    runner = Runner(Counter(), "counter")
    await runner.start()
    async with lane_to(runner) as lane:
        groups, _ = await read(lane, item(1000))
    sent = [message.chunks for message in said if isinstance(message, Chunks)]
    assert sent[0] == [0]
    assert flat(sent) == flat(groups) == list(range(1000))
    assert len(sent) < 500


class SpoilsOne(AsyncInferenceWorkflow[int, list[Any], Any]):
    """Counts, but for one number that no message can say."""

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[Any]:
        for number in range(preprocessed_data):
            yield number if number != 20 else 1 << 80


async def test_what_was_given_before_a_chunk_that_cannot_be_said_arrives() -> None:
    runner = Runner(SpoilsOne(), "spoils one")
    await runner.start()
    async with lane_to(runner) as lane:
        groups, error = await read(lane, item(1000))
        assert runner.figures().streams == 0
    assert isinstance(error, BadOutput)
    assert flat(groups) == list(range(20))


class ReusesItsArray(AsyncInferenceWorkflow[int, list[Any], Any]):
    """Counts in one array that it fills again and again."""

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[Any]:
        array = np.zeros(4)
        for number in range(preprocessed_data):
            array[:] = number
            yield {"deep": [array]}


class ReusesItsArrayInSteps(BaseInferenceWorkflow[int, list[Any], Any]):
    """The same on the model thread."""

    def do_stream(self, preprocessed_data: int) -> Iterator[Any]:
        array = np.zeros(4)
        for number in range(preprocessed_data):
            array[:] = number
            yield {"deep": [array]}


@pytest.mark.parametrize("workflow", [ReusesItsArray, ReusesItsArrayInSteps])
async def test_a_chunk_is_as_it_was_when_it_was_given(workflow: type[BaseInferenceWorkflow[Any, Any, Any]]) -> None:
    runner = Runner(workflow(), "reuses its array")
    await runner.start()
    async with lane_to(runner) as lane:
        groups, _ = await read(lane, item(100))
    assert [chunk["deep"][0][0] for chunk in flat(groups)] == list(range(100))


async def test_a_fault_while_chunks_are_written_ends_the_stream_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer.write

    def fails(writer: Writer, message: Message) -> Any:
        if isinstance(message, Chunks) and len(message.chunks) > 1:
            raise MemoryError
        return write(writer, message)

    monkeypatch.setattr(Writer, "write", fails)
    runner = Runner(Counter(), "counter")
    await runner.start()
    async with lane_to(runner) as lane:
        groups, error = await read(lane, item(1000))
        assert runner.figures().streams == 0
    assert error is not None
    assert flat(groups) == [0]


async def test_a_stream_that_cannot_go_on_waits_for_no_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.lanes.client.CREDIT", 21)
    runner = Runner(SpoilsOne(), "spoils one")
    await runner.start()
    async with lane_to(runner) as lane, asyncio.timeout(10), aclosing(lane.stream(item(1000))) as stream:
        await anext(stream)  # and gives no credit back
        while runner.figures().streams:
            await asyncio.sleep(0)


class Pictures(AsyncInferenceWorkflow[int, list[Any], Any]):
    """Gives large chunks."""

    def __init__(self) -> None:
        self.made = 0

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[Any]:
        for _ in range(preprocessed_data):
            self.made += 1
            yield np.zeros(1 << 20, np.uint8)
            await asyncio.sleep(0)


async def test_large_chunks_cost_more_credit() -> None:
    pictures = Pictures()
    runner = Runner(pictures, "pictures")
    await runner.start()
    async with lane_to(runner) as lane, aclosing(lane.stream(item(40))) as slow:
        first = len(await anext(slow))
        for _ in range(1000):
            await asyncio.sleep(0)
        at_most = CREDIT * COST_BYTES // (1 << 20) + 1
        assert pictures.made <= first + at_most
        assert first + len(flat([group async for group in slow])) == 40
