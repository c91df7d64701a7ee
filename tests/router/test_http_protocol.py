"""What never becomes a request: bounded in bytes and time, answered like one, and no request that is one suffers by it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.config import Limits
from deployments.router.edge import REFUSAL
from deployments.router.listeners import HttpListener
from tests.router.router_front import Front

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
def house() -> Front:
    made = Front()
    made.add("echo")
    return made


@pytest.fixture
async def listen(gate: asyncio.Event, house: Front) -> AsyncGenerator[Listen]:
    listeners: list[HttpListener] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if REFUSAL in scope or scope["path"] not in ("/", "/gated"):
            await house.app(scope, receive, send)
            return
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
        self.head = b""

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

    async def answer(self, status: int = 200) -> bytes:
        """The body of an answer that has this status."""
        async with asyncio.timeout(10):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
            assert self.head.startswith(b"HTTP/1.1 %d " % status), self.head
            return await self.reader.readexactly(int(self.head.split(b"content-length: ")[1].split(b"\r\n")[0]))


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


# ---- what others might read otherwise -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("upgrade", [b"h2c", b"x", b"h2c, websocket"])
async def test_an_upgrade_is_not_made_and_a_body_stays_a_body(
    listen: Listen, upgrade: bytes, at_once: bool, chunked: bool
) -> None:
    body = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\nsmuggled"
    head = HEAD + b"upgrade: %b\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEA\r\n" % upgrade
    if chunked:
        head, sent = head + b"transfer-encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        head, sent = head + b"content-length: %d\r\n" % len(body), body
    caller = await Caller.of(await listen())
    for _ in range(2):
        if at_once:
            caller.writer.writelines([head, b"\r\n", sent])
        else:
            caller.writer.write(head + b"expect: 100-continue\r\n\r\n")
            assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            caller.writer.write(sent)
        assert await caller.answer() == body
    caller.writer.writelines([head, b"\r\n", sent, HEAD, b"upgrade: x\r\nconnection: upgrade, close\r\n\r\n"])
    assert await caller.answer() == body
    assert await caller.answer() == b""
    assert await caller.rest() == b""


async def test_a_websocket_is_refused_and_its_connection_not_used_again(listen: Listen) -> None:
    upgrade = b"upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 4\r\n\r\n"
    caller = await Caller.of(await listen(), HEAD.replace(b"/", b"/v2", 1), upgrade, b"GET ")
    assert b"websockets" in await caller.answer(403)
    assert await caller.rest() == b""


@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [
        (b"GET http://localhost:80/health HTTP/1.1", [b"localhost:80"], 200),
        (b"GET http://localhost/health HTTP/1.1", [], 200),
        (b"GET http://evil.example/health HTTP/1.1", [b"localhost"], 400),
        (b"GET http://evil.example/v2 HTTP/1.1", [], 421),
        (b"GET http://localhost:x@evil/health HTTP/1.1", [b"localhost:x@evil"], 400),
        (b"GET /health HTTP/1.1", [b"localhost", b"localhost"], 400),
        (b"GET /health HTTP/0.9", [b"localhost"], 400),
        (b"GET /health", [b"localhost"], 400),
        (b"GET /health HTTP/2.0", [b"localhost"], 400),
        (b"CONNECT localhost:80 HTTP/1.1", [b"localhost:80"], 400),
        (b"OPTIONS * HTTP/1.1", [b"localhost"], 404),
        (b"PRI * HTTP/2.0\r\n\r\nSM", [], 400),
    ],
)
async def test_a_request_is_for_a_path_on_this_host(
    listen: Listen, request_line: bytes, hosts: list[bytes], status: int
) -> None:
    lines = [request_line, *(b"host: " + host for host in hosts), b"", b""]
    caller = await Caller.of(await listen(), b"\r\n".join(lines))
    await caller.answer(status)
    caller.writer.close()


# ---- what is no request is answered like one ------------------------------------------------------------------------

ECHO = b"POST /v1/workflows/echo/inference HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400, "invalid"),
        (b"GET / HTTP/1.1\r\na b: c\r\n\r\n", 400, "invalid"),
        (ECHO + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", 400, "invalid"),
        (ECHO + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400, "invalid"),
        (ECHO + b"transfer-encoding: identity\r\n\r\n{}", 400, "invalid"),
        (ECHO + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400, "invalid"),
        (ECHO + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\nx", 400, "invalid"),
        (ECHO + b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 500_000, 431, "hdr"),
        (ECHO + b"a: " + b"b" * 50_000, 431, "hdr"),
        (ECHO, 408, "slow_body"),
    ],
)
async def test_what_is_no_request_has_an_id_a_line_and_a_count(
    listen: Listen, house: Front, said: bytes, status: int, code: str
) -> None:
    caller = await Caller.of(await listen(head_s=0.5), said)
    error = json.loads(await caller.answer(status))["error"]
    head = caller.head.decode()
    assert "\r\nconnection: close\r\n" in head
    assert "\r\ncontent-type: application/json\r\n" in head
    found = re.search(r"x-request-id: ([0-9a-f]{32})\r\n", head)
    assert found is not None
    assert (error["code"], error["request_id"]) == (code, found[1])
    assert await caller.rest() == b""
    (line,) = house.lines.texts
    assert {"status": status, "code": code, "request_id": found[1]}.items() <= json.loads(line).items()
    assert f'code="{code}"'.encode() in house.metrics.exposition()


async def test_answers_that_are_due_come_before_a_refusal(listen: Listen, gate: asyncio.Event) -> None:
    gated = HEAD.replace(b"/", b"/gated", 1) + b"content-length: 1\r\n\r\n"
    caller = await Caller.of(await listen(), gated, b"x", gated, b"y", b"what?\r\n\r\n")
    gate.set()
    assert [await caller.answer(), await caller.answer()] == [b"x", b"y"]
    await caller.answer(400)
    assert await caller.rest() == b""
