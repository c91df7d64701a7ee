"""gRPC calls over HTTP/2 written by hand: what no client would send."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

__all__ = ["RawHttp2"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4

Header = tuple[bytes, bytes]


class RawHttp2:
    """One connection, with `settings` as HTTP/2 writes them. Names and values of headers are shorter than 127 bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: bytes = b"") -> None:
        self._reader = reader
        self._writer = writer
        self._stream = -1
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))

    async def ask(self, path: bytes, message: bytes, more: Iterable[Header] = ()) -> bytes:
        """Call a method; returns the headers and trailers of its answer, as they stand on the wire."""
        self._stream += 2
        headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
        headers += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
        self._writer.write(_frame(_HEADERS, _END_HEADERS, self._stream, b"".join(map(_literal, headers))))
        self._writer.write(_frame(_DATA, _END_STREAM, self._stream, b"\0" + struct.pack(">I", len(message)) + message))
        answer = b""
        async with asyncio.timeout(5):
            while True:
                kind, flags, stream, payload = await self._read()
                if stream == self._stream and kind == _HEADERS:
                    answer += payload
                if stream == self._stream and (kind == _RESET or flags & _END_STREAM):
                    return answer

    async def _read(self) -> tuple[int, int, int, bytes]:
        head = await self._reader.readexactly(9)
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == _SETTINGS and not flags & _ACK:
            self._writer.write(_frame(_SETTINGS, _ACK, 0))
        return kind, flags if kind in (_DATA, _HEADERS) else 0, stream, payload


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(header: Header) -> bytes:
    name, value = header
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
