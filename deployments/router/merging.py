"""Several streams as one. Knows groups of chunks, not what is in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

__all__ = ["merged"]

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[list[T]]]) -> AsyncGenerator[list[tuple[int, T]]]:
    """The chunks of all streams as they come, each with the index of its stream; those that are there go together.

    As many groups are kept as there are streams: who reads slowly slows all of them down. The first stream that fails
    fails the whole. Whichever way it ends, all streams are closed before this is.
    """
    waiting: asyncio.Queue[tuple[int, list[T] | Exception | None]] = asyncio.Queue(len(streams))

    async def read(index: int, stream: AsyncGenerator[list[T]]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(stream):
                async for group in stream:
                    await waiting.put((index, group))
        except Exception as error:  # noqa: BLE001 - raised below, where somebody waits for it
            end = error
        await waiting.put((index, end))

    readers = [asyncio.create_task(read(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(readers)
        while running:
            ready: list[tuple[int, T]] = []
            index, said = await waiting.get()
            while True:
                if isinstance(said, Exception):
                    raise said
                if said is None:
                    running -= 1
                else:
                    ready += [(index, chunk) for chunk in said]
                if waiting.empty():
                    break
                index, said = waiting.get_nowait()
            if ready:
                yield ready
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
