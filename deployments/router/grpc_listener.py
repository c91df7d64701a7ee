"""The router's own gRPC listener: grpc.aio on a port that the cluster's replicas share, and a stop that loses no call. No Ray.

gRPC's own stop ends calls that are on their way while it begins, as CANCELLED. So a stop begins with what gRPC does to old
connections at any time (`connection_age_s`): it sends them away in good order. Nobody new can come meanwhile, because the
listening socket is shut; and only when the last busy connection has gone does gRPC stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import grpc

from deployments.config import GrpcArgs, Limits
from deployments.router.grpc_edge import GrpcEdge
from deployments.router.grpc_logs import quieten
from deployments.router.port import PortTaken
from deployments.router.shared_port import Claim
from deployments.router.tls import server_credentials

__all__ = ["GrpcListener"]

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = (1 << 31) - 1
"""No protobuf reads more."""
IDENTITY_ONLY: Final = 1
"""Messages are not compressed: a small one could become a large one."""
DEAD_AFTER_S: Final = (60, 20)
"""So long nothing comes over a connection until it is asked for a sign of life, and so long it has for that."""
LEAST_PING_S: Final = 10
IDLE_S: Final = 600
"""Connections without a call."""
QUIET_S: Final = 2.0
AGE_JITTER: Final = 1.1
MARGIN_S: Final = 60.0
HANG_UP_EVERY_S: Final = 1.0
"""Finding a connection takes a look at each: many that are to end, end together."""
_LOOK_S: Final = 0.1
_DESCRIPTORS: Final = Path("/proc/self/fd")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class GrpcListener:
    """Serves one edge on one address.

    Args:
        limits: Of its connections, of metadata and messages.
        owner: Who may share the port, see `Claim`.
        quiet_s: Connections over which nothing has come for so long may be closed at once.
    """

    def __init__(
        self, edge: GrpcEdge, host: str, args: GrpcArgs, *, limits: Limits, owner: str, quiet_s: float = QUIET_S
    ) -> None:
        self._edge = edge
        self._host = host
        self._args = args
        self._limits = limits
        self._owner = owner
        self._quiet_s = quiet_s
        self._drain_s = 0.0
        self._unwanted: set[str] = set()
        self._hung_up_at = -HANG_UP_EVERY_S
        self._claim: Claim | None = None
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None
        self.address = ("", 0)
        """Host and port that are listened on, once it has started."""

    @property
    def alive(self) -> bool:
        return self._serving is not None and not self._serving.done()

    async def start(self, drain_s: float) -> None:
        """Listen; on return, connections are accepted.

        Args:
            drain_s: How long `stop()` lets running calls finish, in seconds.

        Raises:
            PortTaken: Somebody else holds the address.
            ValueError: The files for TLS are not there, or not what they should be.
        """
        quieten()
        self._drain_s = drain_s
        credentials = None if self._args.tls is None else server_credentials(self._args.tls)
        self._claim = await asyncio.to_thread(Claim, self._host, self._args.port, self._owner)
        try:
            server = grpc.aio.server(handlers=[self._edge], options=_options(self._args, self._limits))
            self.address = (self._claim.address[0], _bound(server, self._claim.address, credentials))
            await server.start()
        except BaseException:
            self._claim.release()
            raise
        self._claim.settle()
        self._server = server
        self._edge.hang_up = self._hang_up
        self._serving = asyncio.create_task(server.wait_for_termination(), name="grpc listener")
        log.info("gRPC on %s:%d", *self.address)

    async def stop(self) -> None:
        """Take no more, finish what was taken, close. Another replica on the same port goes on."""
        if self._server is None or self._claim is None:
            return
        self._edge.drain()
        began = time.monotonic()
        self._accept_no_more()
        await self._sent_away(min(self._args.connection_age_s * AGE_JITTER + self._quiet_s, self._drain_s))
        await self._server.stop(max(0.0, self._drain_s - (time.monotonic() - began)))
        if self._serving is not None:
            with contextlib.suppress(Exception):  # what has ended the server before; gRPC has logged it
                await self._serving
        self._claim.release()

    async def _sent_away(self, seconds: float) -> None:
        """Wait until no connection is left over which calls come, for so long at most."""
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end and self._connected():
            if not self._edge.running and now - self._edge.last_begun > self._quiet_s:
                return
            await asyncio.sleep(_LOOK_S)

    def _accept_no_more(self) -> None:
        """Shut the listening socket under gRPC, which has no word for that but to stop at once; it logs that it has seen."""
        for found in self._sockets():
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.shutdown(socket.SHUT_RDWR)

    def _connected(self) -> bool:
        return any(True for _ in self._connections())

    def _hang_up(self, peer: str) -> None:
        if not self._unwanted:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time(), self._hung_up_at + HANG_UP_EVERY_S), self._hang_up_all)
        self._unwanted.add(unquote(peer.partition(":")[2]))

    def _hang_up_all(self) -> None:
        unwanted, self._unwanted = self._unwanted, set()
        self._hung_up_at = asyncio.get_running_loop().time()
        for found, address in self._connections():
            if address in unwanted:
                with contextlib.suppress(OSError):  # it has left meanwhile
                    found.shutdown(socket.SHUT_RDWR)

    def _connections(self) -> Iterator[tuple[socket.socket, str]]:
        """Those to our port, each with the other side's address as gRPC writes it."""
        for found in self._sockets():
            with contextlib.suppress(OSError):  # nobody is at the other end
                host, port = found.getpeername()[:2]
                host = host.removeprefix("::ffff:")
                yield found, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _sockets(self) -> Iterator[socket.socket]:
        """This process's own on our port: what listens, and what is connected. gRPC does not show them."""
        if not _DESCRIPTORS.is_dir():  # another system: a stop is gRPC's own
            return
        for entry in _DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):  # gone by now
                if entry.is_socket():
                    with socket.socket(fileno=os.dup(int(entry.name))) as found:
                        if found.family in _FAMILIES and found.getsockname()[1] == self.address[1]:
                            yield found


def _options(args: GrpcArgs, limits: Limits) -> list[tuple[str, int]]:
    """Sizes in bytes, times in milliseconds."""
    seconds, most = args.connection_age_s, limits.max_header_bytes
    idle_s, pong_s = DEAD_AFTER_S
    return [
        ("grpc.max_receive_message_length", min(limits.max_body_bytes, MAX_ANSWER_BYTES)),
        ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        # Beyond the first of the two it would be by chance whether a call is refused.
        ("grpc.max_metadata_size", most),
        ("grpc.absolute_max_metadata_size", most),
        ("grpc.max_concurrent_streams", args.max_connection_calls),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", int(limits.head_s * 1e3)),
        ("grpc.keepalive_time_ms", idle_s * 1000),
        ("grpc.keepalive_timeout_ms", pong_s * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_S * 1000),
        ("grpc.max_connection_age_ms", int(seconds * 1e3)),
        # By then every call is over, unless nobody reads its answer.
        ("grpc.max_connection_age_grace_ms", int((args.max_stream_s + limits.stream_s + MARGIN_S) * 1e3)),
        ("grpc.so_reuseport", 1),
    ]


def _bound(server: Any, address: tuple[str, int], credentials: Any) -> int:
    host, port = address
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(at) if credentials is None else server.add_secure_port(at, credentials)
    except RuntimeError:
        raise PortTaken(errno.EADDRINUSE, f"cannot listen on {at}") from None
    return int(bound)
