"""The router's own HTTP listener: uvicorn on a shared socket, and a stop that loses no request. No Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn

from deployments.config import Limits
from deployments.router.http_protocol import WRITE_STALL_S, bounded_protocol
from deployments.router.port import Port

__all__ = ["HttpListener"]

KEEP_ALIVE_S: Final = 65
# Busy keep-alive connections are sent away with their next answer; those that stay silent this long are closed.
LINGER_S: Final = 2.0


class _Server(uvicorn.Server):
    """Leaves signals alone: they belong to whoever owns the process. And waits for its end instead of looking for it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Begin the shutdown."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # which renews the answers' date
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpListener:
    """Serves one ASGI app on one address.

    Args:
        limits: Of its connections and of the requests' heads.
        owner: Who may share the port, see `Port`.
        send_away: Called once when the stop begins: from then on every answer must carry `connection: close`.
        write_stall_s: Who reads nothing of an answer for so long is hung up on.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        limits: Limits,
        owner: str,
        send_away: Callable[[], None],
        write_stall_s: float = WRITE_STALL_S,
    ) -> None:
        self._app = app
        self._protocol = bounded_protocol(limits, write_stall_s)
        self._at = (host, port, owner)
        self._port: Port | None = None
        self._send_away = send_away
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on, once it has started."""
        assert self._port is not None
        return self._port.address

    @property
    def alive(self) -> bool:
        return self._serving is not None and not self._serving.done()

    async def start(self, drain_s: float) -> None:
        """Listen; on return, connections are accepted.

        Args:
            drain_s: How long `stop()` lets running answers finish, in seconds.

        Raises:
            PortTaken: Somebody else holds the address.
        """
        self._port = await asyncio.to_thread(Port, *self._at)
        config = uvicorn.Config(
            self._app,
            http=self._protocol,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(drain_s)),
        )
        self._server = _Server(config)
        # uvicorn closes what it is given; lending goes on from our own descriptor.
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._port.socket.dup()]), name="http listener")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise RuntimeError("the HTTP listener ended at once")
            await asyncio.sleep(0.005)
        await self._port.lend()

    async def stop(self) -> None:
        """Accept no more, finish what was accepted, close. Another replica on the same port goes on accepting."""
        if self._port is None:
            return
        if self._server is None or self._serving is None:
            await self._port.close()
            return
        self._send_away()
        await self._port.close()
        await self._accept_no_more(self._server)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_connections(), LINGER_S)
        self._server.leave()
        await self._serving

    async def _accept_no_more(self, server: _Server) -> None:
        """What asyncio has accepted but not yet made a connection of would be lost, were its server closed before."""
        loop = asyncio.get_running_loop()
        for accepting in server.servers:
            for listening in accepting.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        for accepting in server.servers:
            accepting.close()

    async def _no_connections(self) -> None:
        assert self._server is not None
        while self._server.server_state.connections:
            await asyncio.sleep(0.02)
