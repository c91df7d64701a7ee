"""Streams over a lane: what travels together, what a slow reader holds up, and how a stream ends that cannot go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from deployments.client import Item
from deployments.lanes.client import CREDIT
from deployments.lanes.connection import Connection
from deployments.lanes.frames import COST_BYTES, Chunks, Message, Writer
from deployments.runner import Runner
from tests.deployments.lane_ends import lane_to
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, CallContext
from workflows.errors import BadOutput, WorkflowError


def item(value: Any) -> Item:
    return Item(value, CallContext("request"))


class Counter(AsyncInferenceWorkflow[int, list[int], int]):
    """Counts as fast as it can."""

    def __init__(self) -> None:
        self.made = 0

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[int]:
        for number in range(preprocessed_data):
            self.made += 1
            yield number


async def test_a_slow_reader_slows_its_own_producer_only() -> None:
    counter = Counter()
    runner = Runner(counter, "counter")
    await runner.start()
    async with lane_to(runner) as lane, aclosing(lane.stream(item(10_000))) as slow:
        read = list(await anext(slow))
        fast = [number async for group in lane.stream(item(1000)) for number in group]
        assert fast == list(range(1000))
        assert counter.made - 1000 <= len(read) + 2 * CREDIT  # what is under way, and what was granted since
        read += [number async for group in slow for number in group]
        assert read == list(range(10_000))


async def test_the_first_chunk_leaves_at_once_and_what_follows_without_a_wait_travels_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[list[int]] = []
    send = Connection.send

    def heard(connection: Connection, message: Message) -> int:
        if isinstance(message, Chunks):
            said.append(list(message.chunks))
        return send(connection, message)

    monkeypatch.setattr(Connection, "send", heard)
    runner = Runner(Counter(), "counter")
    await runner.start()
    async with lane_to(runner) as lane:
        read = [number async for group in lane.stream(item(1000)) for number in group]
    assert said[0] == [0]
    assert [number for chunks in said for number in chunks] == read == list(range(1000))
    assert len(said) < 500


class SpoilsOne(AsyncInferenceWorkflow[int, list[Any], Any]):
    """Counts, but for one number that no message can say."""

    async def do_stream(self, preprocessed_data: int) -> AsyncGenerator[Any]:
        for number in range(preprocessed_data):
            yield number if number != 20 else 1 << 80


async def test_what_was_given_before_a_chunk_that_cannot_be_said_arrives() -> None:
    runner = Runner(SpoilsOne(), "spoils one")
    await runner.start()
    read: list[Any] = []

    async def keep() -> None:
        async for group in lane.stream(item(1000)):
            read.extend(group)

    async with lane_to(runner) as lane:
        with pytest.raises(BadOutput):
            await keep()
        assert runner.figures().streams == 0
    assert read == list(range(20))


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
        read = [chunk["deep"][0][0] async for group in lane.stream(item(100)) for chunk in group]
    assert read == list(range(100))


async def test_a_fault_while_chunks_are_written_ends_the_stream_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer.write

    def fails_once(writer: Writer, message: Message) -> Any:
        if isinstance(message, Chunks) and len(message.chunks) > 1:
            raise MemoryError
        return write(writer, message)

    monkeypatch.setattr(Writer, "write", fails_once)
    runner = Runner(Counter(), "counter")
    await runner.start()
    async with lane_to(runner) as lane:
        with pytest.raises(WorkflowError):
            await read_all(lane.stream(item(1000)))
        assert runner.figures().streams == 0


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
        read = len(await anext(slow))
        for _ in range(1000):
            await asyncio.sleep(0)
        at_most = CREDIT * COST_BYTES // (1 << 20) + 1
        assert pictures.made <= read + at_most
        read += len(await read_all(slow))
    assert read == 40


async def read_all(groups: AsyncGenerator[list[Any]]) -> list[Any]:
    return [chunk async for group in groups for chunk in group]
