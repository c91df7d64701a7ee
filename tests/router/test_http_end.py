"""How connections end: who still sends reads the answer, who does not read holds nothing, on both event loops."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from deployments.config import Limits
from deployments.router.http_protocol import READ_ON_BYTES, WRITE_STALL_S
from deployments.router.keys import Keys, mint_key
from deployments.router.listeners import HttpListener
from tests.router.router_front import Front

HOST = "127.0.0.1"
LARGE = 32 << 20
"""More than what the system's buffers take."""
PATH = "/v1/workflows/echo/inference"
USER, USER_KEY = mint_key("user", workflows=["echo"])
GET = b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n"
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="port-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield
    shutil.rmtree(Path(folder))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


async def large(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A large answer: whole, or (`/broken`) its first half."""
    headers = [(b"content-length", b"%d" % LARGE)]
    if scope["path"] == "/last":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/broken":
        await send({"type": "http.response.body", "body": bytes(LARGE // 2), "more_body": True})
        return
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@asynccontextmanager
async def listening(app: Any, write_stall_s: float = WRITE_STALL_S) -> AsyncGenerator[tuple[HttpListener, str]]:
    listener = HttpListener(
        app, HOST, 0, limits=Limits(), owner="ours", send_away=lambda: None, write_stall_s=write_stall_s
    )
    await listener.start(60.0)
    try:
        yield listener, f"http://{HOST}:{listener.address[1]}"
    finally:
        async with asyncio.timeout(10):
            await listener.stop()


@asynccontextmanager
async def connected(
    listener: HttpListener, said: bytes
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(said)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/none", {}, 404),
        (PATH, {"content-type": "application/json"}, 401),
        (PATH, {"x-api-key": USER, "content-type": "text/plain"}, 415),
        (PATH, {"x-api-key": USER, "content-type": "application/json"}, 413),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_who_is_refused_early_reads_the_answer(
    run: Run, path: str, headers: dict[str, str], status: int, chunked: bool
) -> None:
    body = bytes(20 << 20)
    house = Front(Keys([USER_KEY]), limits={"max_body_bytes": len(body) - (status == 413)})
    house.add("echo")

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(body), 1 << 18):
            yield body[start : start + (1 << 18)]

    async def ask() -> None:
        async with listening(house.app) as (_, url), httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for _ in range(3):
                answer = await client.post(path, content=pieces() if chunked else body, headers=headers)
                assert answer.status_code == status

    run(ask())


def test_who_goes_on_sending_is_not_listened_to_for_long(run: Run) -> None:
    endless = b"POST /none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
    piece = bytes(1 << 20)

    async def flood() -> None:
        async with listening(Front().app) as (listener, _), connected(listener, endless) as (_, writer):
            for _ in range(4 * READ_ON_BYTES // len(piece)):
                writer.write(piece)
                await writer.drain()

    with pytest.raises(ConnectionError):
        run(flood())


@pytest.mark.parametrize("path", [b"/kept", b"/last", b"/broken"])
def test_who_does_not_read_holds_neither_a_connection_nor_a_drain(
    run: Run, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def stall() -> None:
        async with (
            listening(large, write_stall_s=0.05) as (listener, _),
            connected(listener, GET % path) as (reader, _),
        ):
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(8):
                await listener.stop()
            await reader.read(LARGE)  # what had arrived before
            await reader.readexactly(LARGE)

    with pytest.raises(ConnectionResetError):
        run(stall())


def test_what_broke_off_is_not_kept_for_who_does_not_read(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def stall() -> None:
        async with listening(large) as (listener, _), connected(listener, GET % b"/broken") as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(8):
                await listener.stop()

    run(stall())


def test_who_reads_slowly_gets_everything(run: Run) -> None:
    said = GET % b"/last" + GET % b"/kept"  # the second one comes too late

    async def read() -> None:
        async with listening(large, write_stall_s=0.5) as (listener, _), connected(listener, said) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            left = LARGE
            while left:
                left -= len(await reader.read(1 << 18))
                await asyncio.sleep(0.005)
            assert await reader.read() == b""

    run(read())


def test_an_answer_to_a_connection_that_is_just_lost_is_no_error(run: Run) -> None:
    wrong: list[dict[str, Any]] = []

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: wrong.append(what))

        async def late(scope: dict[str, Any], receive: Any, send: Any) -> None:
            server: Any = listener._server
            (connection,) = server.server_state.connections
            connection._wire.abort()  # that it is lost is heard in the next turn of the loop
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        async with listening(late) as (listener, _), connected(listener, GET % b"/") as (reader, _):
            assert await reader.read() == b""

    run(ask())
    assert wrong == []
