"""The HTTP listener over a small ASGI app: what was accepted is answered, whoever stops."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from deployments.config import Limits
from deployments.router.listeners import HttpListener
from deployments.router.port import PortTaken
from tests.ports import free_port

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="port-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    yield
    shutil.rmtree(Path(folder))


@dataclass
class Replica:
    """A listener with its app: `/` answers at once, `/gated` and `/stream` at the gate, `/endless` never stops."""

    name: str
    port: int = 0
    leaving: bool = False
    answered: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def listen(self, drain_s: float = 30.0) -> HttpListener:
        listener = HttpListener(self, HOST, self.port, limits=Limits(), owner="ours", send_away=self._send_away)
        await listener.start(drain_s)
        return listener

    def _send_away(self) -> None:
        self.leaving = True

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        body = self.name.encode()
        headers = [(b"content-length", b"%d" % len(body))] if path in ("/", "/gated") else []
        if path == "/gated":
            self.begun.release()
            await self.gate.wait()
        if self.leaving:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path == "/stream":
            await send({"type": "http.response.body", "body": b"first,", "more_body": True})
            self.begun.release()
            await self.gate.wait()
        while path == "/endless":
            await send({"type": "http.response.body", "body": b"more,", "more_body": True})
            self.begun.release()
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": body})
        self.answered += 1


class Connection:
    """One client connection, spoken to in plain HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sent_away = False

    @classmethod
    @asynccontextmanager
    async def to(cls, address: tuple[str, int]) -> Any:
        reader, writer = await asyncio.open_connection(*address)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def ask(self, path: str = "/") -> str:
        """The body of the answer, which must be a 200. Raises what a client would notice."""
        async with asyncio.timeout(20):
            self.writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 ")
            self.sent_away = b"connection: close" in head
            if b"transfer-encoding: chunked" in head:
                return (await self._chunks()).decode()
            (length,) = (line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
            return (await self.reader.readexactly(int(length.split(b":")[1]))).decode()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readuntil(b"\r\n")
        return body


async def test_it_answers_and_stops() -> None:
    listener = await Replica("one").listen()
    assert listener.alive
    async with Connection.to(listener.address) as client:
        assert await client.ask() == "one"
        assert await client.ask() == "one"
        assert not client.sent_away
    await listener.stop()
    assert not listener.alive
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*listener.address)
    await listener.stop()  # once more


async def test_stopping_finishes_answers_and_streams_and_sends_keep_alive_clients_away() -> None:
    replica = Replica("one")
    listener = await replica.listen()
    async with (
        Connection.to(listener.address) as slow,
        Connection.to(listener.address) as stream,
        Connection.to(listener.address) as busy,
    ):
        running = [asyncio.create_task(slow.ask("/gated")), asyncio.create_task(stream.ask("/stream"))]
        await replica.begun.acquire()
        await replica.begun.acquire()
        assert await busy.ask() == "one"
        assert not busy.sent_away
        stopping = asyncio.create_task(listener.stop())
        await asyncio.sleep(0)
        assert replica.leaving
        assert await busy.ask() == "one"
        assert busy.sent_away
        assert await busy.reader.read() == b""
        assert not stopping.done()
        replica.gate.set()
        assert await asyncio.gather(*running) == ["one", "first,one"]
    await stopping


async def test_silent_clients_and_endless_streams_do_not_hold_it_for_ever(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr("deployments.router.listeners.LINGER_S", 0.2)
    replica = Replica("one")
    listener = await replica.listen(drain_s=0.2)
    async with Connection.to(listener.address) as silent, Connection.to(listener.address) as endless:
        assert await silent.ask() == "one"
        reading = asyncio.create_task(endless.ask("/endless"))
        await replica.begun.acquire()
        async with asyncio.timeout(10):
            await listener.stop()
            assert await silent.reader.read() == b""
            with pytest.raises(asyncio.IncompleteReadError):
                await reading


async def test_stopping_one_that_never_started_is_nothing() -> None:
    listener = HttpListener(Replica("one"), HOST, free_port(), limits=Limits(), owner="ours", send_away=lambda: None)
    await listener.stop()
    assert not listener.alive


async def test_a_port_of_another_cluster_is_refused() -> None:
    listener = await Replica("one", free_port()).listen()
    other = HttpListener(Replica("two"), *listener.address, limits=Limits(), owner="theirs", send_away=lambda: None)
    with pytest.raises(PortTaken):
        await other.start(1.0)
    await listener.stop()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_another_replica_takes_over_without_a_failed_request(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def take_over() -> None:
        old, new = Replica("old", free_port()), Replica("new")
        first = await old.listen()
        new.port = old.port
        over = asyncio.Event()
        answers: list[str] = []

        async def fresh() -> None:
            while not over.is_set():
                async with Connection.to(first.address) as client:
                    answers.append(await client.ask())

        async def keep_alive() -> None:
            while not over.is_set():
                async with Connection.to(first.address) as client:
                    while not (client.sent_away or over.is_set()):
                        answers.append(await client.ask())

        clients = [asyncio.create_task(client()) for client in (fresh, keep_alive) * 3]
        while old.answered < 50:
            await asyncio.sleep(0.001)
        second = await new.listen()
        await first.stop()
        after = old.answered
        while new.answered < 50:
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*clients)
        assert old.answered == after
        assert set(answers) == {"old", "new"}
        assert len(answers) == old.answered + new.answered
        await second.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(take_over())


async def test_what_is_accepted_in_the_last_moment_is_answered() -> None:
    """asyncio drops a connection whose server is closed between its accept and its first callback."""
    staying = Replica("staying", free_port())
    listener = await staying.listen()
    stopping, asking = [], []

    async def ask() -> str:
        async with Connection.to(listener.address) as client:
            return str(await client.ask())

    for turns in range(8):
        leaving = await Replica("leaving", staying.port).listen()
        asking += [asyncio.create_task(ask()) for _ in range(6)]
        for _ in range(turns % 4):
            await asyncio.sleep(0)
        stopping.append(asyncio.create_task(leaving.stop()))
    assert set(await asyncio.gather(*asking)) == {"staying", "leaving"}
    await asyncio.gather(*stopping)
    await listener.stop()
