"""An HTTP server that does to each request what a script says, the worst of which no real server would do.

A `Step` is what is done to one request; those below are the usual ones. The server runs on the test's own event loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Asked", "Exchange", "FaultyUpstream", "Step", "answer", "endless", "parts", "silence"]

JSON: Final = "application/json"
SSE: Final = "text/event-stream"


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Exchange:
    """One request, and the connection on which it is answered."""

    asked: Asked
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: FaultyUpstream
    whole: bool = field(default=False)  # the answer is complete, and the connection may serve the next request

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} As-Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """A part of a body whose head says `transfer-encoding: chunked`."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def last_chunk(self) -> None:
        await self.send(b"0\r\n\r\n")
        self.whole = True

    async def until_left(self) -> None:
        """Until the client has hung up."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    async def cut(self) -> None:
        """An end without an end mark, once the test says so."""
        await self.upstream.go.wait()

    async def reset(self) -> None:
        """As `cut`, and with a reset: what the client has not read yet may be lost."""
        await self.upstream.go.wait()
        lingering = self.writer.get_extra_info("socket")
        lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Step = Callable[[Exchange], Awaitable[None]]


def answer(status: int, body: object = b"", headers: Mapping[str, str] | None = None, kind: str = JSON) -> Step:
    """A whole answer, as it should be."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def step(exchange: Exchange) -> None:
        about = {"content-type": kind, "content-length": str(len(data)), **(headers or {})}
        await exchange.head(status, about)
        await exchange.send(data)
        exchange.whole = True

    return step


async def silence(exchange: Exchange) -> None:
    """The request is taken, and that is all."""
    await exchange.until_left()


def parts(
    sent: Sequence[bytes],
    then: Step | None = None,
    *,
    kind: str = SSE,
    headers: Mapping[str, str] | None = None,
) -> Step:
    """A chunked answer of these parts; `then` is done in place of its proper end."""

    async def step(exchange: Exchange) -> None:
        await exchange.head(200, {"content-type": kind, "transfer-encoding": "chunked", **(headers or {})})
        for part in sent:
            await exchange.chunk(part)
        await (Exchange.last_chunk if then is None else then)(exchange)

    return step


def endless(data: bytes) -> Step:
    """The same again and again until the client hangs up. For `then` of `parts`."""

    async def forever(exchange: Exchange) -> None:
        with suppress(ConnectionError):
            while not exchange.writer.is_closing():
                await exchange.chunk(data)
                await asyncio.sleep(0)  # else a client that reads fast enough would never get a turn to leave

    return forever


class FaultyUpstream:
    """`async with FaultyUpstream() as upstream:` it listens on `upstream.url`, with TLS where it is given some.

    Attributes:
        asked: The requests that came in whole.
        connections: How many are open.
        busy: How many of them are in the middle of an answer.
        go: What steps may wait for.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: list[Asked] = []
        self.connections = self.busy = 0
        self.go = asyncio.Event()
        self._steps: list[Step] = [answer(404)]
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def plays(self, *steps: Step) -> None:
        """Each request takes the next of these; the last one is for all that follow."""
        self._steps = list(steps)

    async def until(self, reached: Callable[[FaultyUpstream], bool]) -> None:
        """Until this holds; looked at whenever a request or a connection has come or ended."""
        async with self._news:
            await self._news.wait_for(lambda: reached(self))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._tell(connections=1)
        try:
            while True:
                exchange = Exchange(await _read(reader), reader, writer, self)
                step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                self.asked.append(exchange.asked)
                await self._tell(busy=1)
                try:
                    await step(exchange)
                finally:
                    await self._tell(busy=-1)
                if not exchange.whole:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has hung up
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await self._tell(connections=-1)

    async def _tell(self, *, connections: int = 0, busy: int = 0) -> None:
        async with self._news:
            self.connections += connections
            self.busy += busy
            self._news.notify_all()


async def _read(reader: asyncio.StreamReader) -> Asked:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)
