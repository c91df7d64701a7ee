"""Drives an async stream from another thread than its event loop's, chunk by chunk; for the sync names of async things.

One task on the loop drives the whole stream, because what a stream holds between two chunks may be bound to its task. It
makes a chunk only when that is asked for: a chunk costs one message to the loop and one back.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, suppress
from queue import SimpleQueue
from typing import Any

from workflows.errors import Cancelled, NotReady
from workflows.side_loop import SideLoop

__all__ = ["pumped"]


def pumped(loop: SideLoop, open_stream: Callable[[], AsyncGenerator[Any]]) -> Generator[Any]:
    """The chunks of a stream that is opened on the loop. Raises what the stream raises, and NotReady once the loop is
    closed. Closing it returns when the stream's `finally` blocks are through, but for one on the loop's own thread.
    """
    made: SimpleQueue[Any] = SimpleQueue()  # chunks, and at last the task itself
    wanted = asyncio.Semaphore(0)

    async def drive() -> None:
        async with aclosing(open_stream()) as chunks:
            await wanted.acquire()
            async for chunk in chunks:
                made.put(chunk)
                await wanted.acquire()

    task = loop.start(drive, made.put)
    ended = False
    try:
        while True:
            loop.post(wanted.release)
            chunk = made.get()
            if chunk is task:
                ended = True
                break
            yield chunk
    finally:
        # When the interpreter ends, the loop's thread runs no more: nobody would ever answer.
        if not ended and not sys.is_finalizing():
            with suppress(NotReady):  # a loop that is closed has ended the stream itself
                loop.post(task.cancel)
            # The garbage collector closes a stream wherever it runs, even on the loop's thread.
            while not loop.is_here and made.get() is not task:
                pass
    _raise_what_ended(task, loop)


def _raise_what_ended(task: asyncio.Task[None], loop: SideLoop) -> None:
    if task.cancelled():
        raise NotReady("the event loop of this was closed", retry_after_s=None) if loop.closed else Cancelled()
    task.result()
