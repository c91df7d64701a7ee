"""What never becomes a request: bounded in bytes and time, and no request that is one is ended by that."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.config import Limits
from deployments.router.listeners import HttpListener

HOST = "127.0.0.1"
HEAD = b"POST / HTTP/1.1\r\nhost: test\r\n"
Address = tuple[str, int]
Listen = Callable[..., Awaitable[Address]]


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="port-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield
    shutil.rmtree(Path(folder))


@pytest.fixture
def gate() -> asyncio.Event:
    """Closed to begin with: what is asked of `/gated` is answered once it is open."""
    return asyncio.Event()


@pytest.fixture
async def listen(gate: asyncio.Event) -> AsyncGenerator[Listen]:
    listeners: list[HttpListener] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        if scope["path"] == "/gated":
            await gate.wait()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def start(**limits: Any) -> Address:
        listener = HttpListener(app, HOST, 0, limits=Limits(**limits), owner="ours", send_away=lambda: None)
        listeners.append(listener)
        await listener.start(1.0)
        return listener.address

    yield start
    gate.set()
    for listener in listeners:
        await listener.stop()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, address: Address, *said: bytes) -> Caller:
        caller = cls(*await asyncio.open_connection(*address))
        caller.writer.writelines(said)
        return caller

    async def rest(self) -> bytes:
        """Everything until the server closes; then this side does."""
        async with asyncio.timeout(10):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""
            finally:
                self.writer.close()

    async def answer(self) -> bytes:
        """The body of an answer that is a 200."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            return await self.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


async def flood(caller: Caller, piece: bytes) -> int:
    """How many bytes of an endless flow could be sent before the server hung up; 8 MiB stand for no end."""
    sent = 0
    while sent < 8 << 20:
        try:
            caller.writer.write(piece)
            await caller.writer.drain()
        except ConnectionError:
            break
        sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (HEAD + b"a: ", b"b" * 65536),
        (HEAD, b"a: b\r\n" * 10000),
        (b"POST /", b"b" * 65536),
        (b"", b"\r\n" * 30000),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\na: ", b"b" * 65536),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1;a=", b"b" * 65536),
        (HEAD + b"content-length: 1\r\n\r\nx" + HEAD + b"a: ", b"b" * 65536),
    ],
)
async def test_what_does_not_become_a_request_ends_where_the_limit_is(
    listen: Listen, begin: bytes, piece: bytes
) -> None:
    caller = await Caller.of(await listen(), begin)
    assert await flood(caller, piece) < 8 << 20  # the system's own buffers take some of it
    caller.writer.close()


async def test_too_large_a_head_is_told(listen: Listen) -> None:
    caller = await Caller.of(await listen(max_header_bytes=1024, max_url_bytes=256), HEAD, b"a: ", b"b" * 6000)
    assert (await caller.rest()).startswith(b"HTTP/1.1 431 ")


async def test_a_large_head_within_the_limit_and_a_large_body_are_accepted(listen: Listen) -> None:
    body = b"x" * (1 << 20)
    caller = await Caller.of(await listen(), HEAD, b"a: ", b"b" * 30000, b"\r\ncontent-length: %d\r\n\r\n" % len(body))
    caller.writer.write(body)
    assert await caller.answer() == body
    caller.writer.close()


async def test_a_head_that_is_not_there_in_time_is_not_waited_for(listen: Listen) -> None:
    address = await listen(head_s=0.05)
    silent, slow = await Caller.of(address), await Caller.of(address, b"POST")
    again = await Caller.of(address, HEAD, b"content-length: 1\r\n\r\nx")
    assert await again.answer() == b"x"
    again.writer.write(HEAD)
    assert await silent.rest() == b""
    assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
    assert (await again.rest()).startswith(b"HTTP/1.1 408 ")


async def test_only_the_head_is_timed(listen: Listen, gate: asyncio.Event) -> None:
    address = await listen(head_s=0.05)
    in_body = await Caller.of(address, HEAD, b"content-length: 2\r\n\r\nx")
    waiting = await Caller.of(address, HEAD.replace(b"/", b"/gated", 1), b"content-length: 1\r\n\r\nx")
    pipelined = await Caller.of(address, HEAD.replace(b"/", b"/gated", 1), b"content-length: 1\r\n\r\nx", HEAD)
    kept = await Caller.of(address, HEAD, b"content-length: 1\r\n\r\nx")
    assert await kept.answer() == b"x"
    for _ in range(2):  # so much time has passed
        await (await Caller.of(address)).rest()
    gate.set()
    in_body.writer.write(b"y")
    assert await in_body.answer() == b"xy"
    assert await waiting.answer() == b"x"
    assert await pipelined.answer() == b"x"
    kept.writer.writelines([HEAD, b"content-length: 1\r\n\r\nz"])
    assert await kept.answer() == b"z"
    for caller in (in_body, waiting, pipelined, kept):
        caller.writer.close()


async def test_more_connections_than_the_limit_are_closed_and_others_go_on(listen: Listen) -> None:
    address = await listen(max_connections=2)
    first, second = await Caller.of(address), await Caller.of(address)
    assert await (await Caller.of(address, HEAD, b"content-length: 1\r\n\r\nx")).rest() == b""
    for caller in (first, second):
        caller.writer.writelines([HEAD, b"connection: close\r\ncontent-length: 1\r\n\r\nx"])
        assert await caller.answer() == b"x"
        assert await caller.rest() == b""
    third = await Caller.of(address, HEAD, b"content-length: 1\r\n\r\nx")
    assert await third.answer() == b"x"
    third.writer.close()
