"""Drives an async stream from outside of its event loop, chunk by chunk; for the sync names of things that are async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

__all__ = ["Pump"]


class Pump:
    """One task that drives a whole async stream: what it holds between two chunks may be bound to its task."""

    def __init__(self, chunks: AsyncGenerator[Any]) -> None:
        self.chunk: Any = None
        self._chunks = chunks
        self._made: asyncio.Queue[Any] = asyncio.Queue()
        self._wanted = asyncio.Semaphore(0)
        self._task = asyncio.create_task(self._run())

    async def next(self) -> bool:
        """Whether there is a further `chunk`. Raises what the stream raises."""
        self._wanted.release()
        waiting = asyncio.create_task(self._made.get())
        await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            self.chunk = waiting.result()
            return True
        waiting.cancel()
        await self._task
        return False

    async def close(self) -> None:
        """Stop wherever the stream is; returns once its `finally` blocks are through."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()  # already raised by next(), or of no interest to a caller who left

    async def _run(self) -> None:
        async with aclosing(self._chunks) as chunks:
            await self._wanted.acquire()
            async for chunk in chunks:
                self._made.put_nowait(chunk)
                await self._wanted.acquire()
