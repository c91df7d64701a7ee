"""A server that answers as the test says, well or badly. HTTP/1.1 with lengths, connections stay open."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

__all__ = ["answer", "serving", "stream"]

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@asynccontextmanager
async def serving(say: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[int]:
    """The port. `say` turns a request's body into all bytes of its answer; empty: the connection breaks off."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = _LENGTH.search(head)
                said = await say(await reader.readexactly(int(found.group(1)) if found else 0))
                if not said:
                    return
                writer.write(said)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d -\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def stream(events: list[bytes]) -> bytes:
    """A body in chunks, one for each event, to its end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
