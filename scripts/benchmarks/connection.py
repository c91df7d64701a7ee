"""HTTP/1.1 as far as a load generator needs it, on a raw asyncio protocol: cheap enough for thousands a second."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

__all__ = ["Connection", "connect"]

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"

# Called with the connection, the tag of its request, the status (0: the connection broke) and the body.
Answered = Callable[["Connection", int, int, bytes], None]


class Connection(asyncio.Protocol):
    """One request at a time; `answered` is called when its answer is complete."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._buffer = bytearray()
        self._tag = -1
        self._body_at = 0
        self._whole = 0  # length of the whole answer; -1: until the last chunk
        self.transport: asyncio.Transport
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.is_open = True

    def send(self, request: bytes, tag: int) -> None:
        self._tag = tag
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at and not self._begin():
            return
        if self._whole < 0:
            if not buffer.endswith(_LAST_CHUNK):
                return
            body = _dechunked(bytes(buffer[self._body_at :]))
        elif len(buffer) < self._whole:
            return
        else:
            body = bytes(buffer[self._body_at :])
        status, tag = int(buffer[9:12]), self._tag
        buffer.clear()
        self._body_at, self._tag = 0, -1
        self._answered(self, tag, status, body)

    def _begin(self) -> bool:
        """Whether the head is complete; then it is known where the answer ends."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        length = _LENGTH.search(self._buffer, 0, end)
        if length:
            self._whole = self._body_at + int(length.group(1))
        else:
            self._whole = -1 if _CHUNKED.search(self._buffer, 0, end) else self._body_at
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        tag, self._tag = self._tag, -1
        if tag >= 0:
            self._answered(self, tag, 0, b"")


def _dechunked(data: bytes) -> bytes:
    parts, at = [], 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if not size:
            break
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


async def connect(port: int, answered: Answered) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(answered), "127.0.0.1", port)
    return connection
