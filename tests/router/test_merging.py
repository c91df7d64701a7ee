"""Several streams as one: in the order in which they come, none faster than its reader, all closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.router.merging import merged
from tests.router.played_client import nothing_left_behind, turn
from workflows.errors import ReplicaLost

__all__ = ["nothing_left_behind"]


class Source:
    """A stream that gives what was put in: groups, exceptions that it raises, and None for its end."""

    def __init__(self, *steps: Any) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.put(*steps)
        self.given = 0
        self.closed = False

    def put(self, *steps: Any) -> None:
        for step in steps:
            self.steps.put_nowait(step)

    async def read(self) -> AsyncGenerator[list[Any]]:
        try:
            while (step := await self.steps.get()) is not None:
                if isinstance(step, BaseException):
                    raise step
                self.given += 1
                yield step
        finally:
            self.closed = True


async def test_chunks_come_as_they_are_there() -> None:
    a, b = Source(), Source()
    async with aclosing(merged([a.read(), b.read()])) as groups:
        b.put(["x"])
        assert await anext(groups) == [(1, "x")]
        a.put([1, 2])
        b.put(["y"])
        assert await anext(groups) == [(0, 1), (0, 2), (1, "y")]
        b.put(None)
        a.put([3])
        assert await anext(groups) == [(0, 3)]
        assert b.closed
        a.put(None)
        assert await anext(groups, "end") == "end"


async def test_streams_without_chunks() -> None:
    assert [group async for group in merged([Source(None).read(), Source(None).read()])] == []
    assert [group async for group in merged([Source(["a"], None).read()])] == [[(0, "a")]]


async def test_who_reads_slowly_slows_all_of_them_down() -> None:
    sources = [Source(*([[number]] * 50), None) for number in range(3)]
    async with aclosing(merged([source.read() for source in sources])) as groups:
        await anext(groups)
        await turn()
        await turn()
        assert sum(source.given for source in sources) <= 3 + 2 * len(sources)
        rest = [chunk async for group in groups for chunk in group]
    assert sum(source.given for source in sources) == 150
    assert {index: rest.count((index, index)) for index in range(3)}.keys() == {0, 1, 2}


@pytest.mark.parametrize("error", [ReplicaLost(), KeyError("x")], ids=str)
async def test_one_that_fails_ends_all(error: Exception) -> None:
    a, b = Source(["a"]), Source(["b"])
    groups = merged([a.read(), b.read()])
    assert len(await anext(groups)) == 2
    b.put(error)
    with pytest.raises(type(error)) as caught:
        await anext(groups)
    assert caught.value is error
    assert a.closed
    assert b.closed


async def test_who_leaves_closes_all_also_those_that_wait_for_room() -> None:
    sources = [Source(*([["x"]] * 9)) for _ in range(3)]
    groups = merged([source.read() for source in sources])
    await anext(groups)
    await turn()
    await groups.aclose()
    assert all(source.closed for source in sources)


async def test_a_reader_who_is_cancelled_while_it_waits_closes_all() -> None:
    sources = [Source(), Source()]
    groups = merged([source.read() for source in sources])

    async def wait() -> None:
        async with aclosing(groups):
            await anext(groups)

    waiting = asyncio.create_task(wait())
    await turn()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(source.closed for source in sources)


async def test_what_is_never_read_never_begins() -> None:
    source = Source(["a"])
    await merged([source.read()]).aclose()
    assert source.given == 0
