"""Messages over one Unix socket: both ends of a lane. Knows frames, not what they mean.

What is read is handed on at once, on the event loop. What is written leaves with the end of this turn of the loop; who
writes much waits for `room()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from deployments.lanes.frames import ALIGN, COPIED_BYTES, HEAD, MAX_FRAME_BYTES, Message, Reader, Writer
from deployments.private_sockets import same_user

__all__ = ["Connection"]

log = logging.getLogger(__name__)

BUFFER_BYTES: Final = 256 << 10
"""Frames up to here are taken from one buffer of the connection, larger ones get memory of their own."""
HIGH_WATER_BYTES: Final = 1 << 20
FLUSH_S: Final = 5.0


class Connection(asyncio.BufferedProtocol):
    """One end. Belongs to its event loop.

    Args:
        heard: Gets every message, in order, with its size in bytes. What it raises ends the connection.
        lost: Called once, when nothing more will be heard.
        made: Called once, when something can be sent.
    """

    def __init__(
        self, heard: Callable[[Message, int], None], lost: Callable[[], None], made: Callable[[], None] | None = None
    ) -> None:
        self._heard = heard
        self._lost = lost
        self._made = made
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes | bytearray | memoryview] = []
        self._writer = Writer()
        self._reader = Reader()
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._large: memoryview | None = None  # a frame that is too large for the buffer, and how much of it is here
        self._large_words = self._large_end = 0
        self._ended = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Message) -> int:
        """Write a message; of no effect once the other end is gone. Raises Unsayable, and then nothing was written.

        Returns how many bytes the other end gets.
        """
        parts = self._writer.write(message)
        if self._transport is not None and not self._transport.is_closing():
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out += parts
        return sum(map(len, parts))

    def _flush(self) -> None:
        """What was said in one turn of the loop leaves together."""
        parts, self._out = self._out, []
        if self._transport is None or not parts:
            return
        if sum(map(len, parts)) <= COPIED_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    async def room(self) -> None:
        """Returns once the other end has read most of what was written, or is gone."""
        await self._room.wait()

    async def close(self) -> None:
        """Send what was written, unless the other end stays deaf for too long; returns when the connection has ended."""
        transport = self._transport
        if transport is None:
            return
        self._flush()
        transport.close()
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._ended.wait()
        except TimeoutError:
            transport.abort()

    # ---- called by the event loop ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's are none by name
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        if not same_user(transport.get_extra_info("socket")):
            log.error("a stranger's process is on a lane's socket")
            transport.abort()
        elif self._made is not None:
            self._made()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        self._room.set()
        self._lost()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :] if self._large is None else self._large[self._large_end :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._large is None:
                self._end += nbytes
                self._take()
            else:
                self._large_end += nbytes
                if self._large_end == len(self._large):
                    self._take_large()
        except ValueError:
            log.exception("what came over a lane is no frame")
            self._abort()
        except Exception:  # a fault of ours in a message's handling: the other end must not wait for ever
            log.exception("a lane broke")
            self._abort()

    def _take(self) -> None:
        """Hands on the whole frames in the buffer."""
        while self._end - self._start >= HEAD.size:
            words, data = HEAD.unpack_from(self._buffer, self._start)
            size = HEAD.size + words + data
            if size > MAX_FRAME_BYTES:
                raise ValueError("a frame above the limit")
            if size > BUFFER_BYTES:
                self._begin_large(words, words + data)
                return
            if self._end - self._start < size:
                break
            first = self._start + HEAD.size
            self._start += size
            # The data is copied: arrays outlive the buffer's content.
            copied = bytearray(self._view[first + words : self._start])
            self._heard(self._reader.read(self._view[first : first + words], copied), size)
        rest = self._end - self._start
        if self._start:
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest

    def _begin_large(self, words: int, size: int) -> None:
        here = self._view[self._start + HEAD.size : self._end]
        skipped = -words % ALIGN  # so that the data, and with it every array, begins at a multiple of 16
        self._large = memoryview(bytearray(skipped + size))[skipped:]
        self._large[: len(here)] = here
        self._large_words, self._large_end = words, len(here)
        self._start = self._end = 0

    def _take_large(self) -> None:
        frame, words, self._large = self._large, self._large_words, None
        assert frame is not None
        self._heard(self._reader.read(frame[:words], frame[words:]), HEAD.size + len(frame))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
