"""One listening socket per address and machine, shared by all router replicas of a cluster.

Replicas that each bound the port themselves (SO_REUSEPORT) would each have a queue of connections waiting to be
accepted, and those in the queue of a replica that stops would be reset. So the first replica binds, and lends the
socket to those that come later: one queue, whoever accepts. A lender only lends to its own user and its own cluster;
an address that anyone else holds is a start-up error in one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from typing import Final

from deployments.private_sockets import private_folder, same_user

__all__ = ["Port", "PortTaken"]

BACKLOG: Final = 4096
_TIMEOUT_S: Final = 2.0
# Another replica that has bound the port a moment ago offers it within this time.
_OFFER_S: Final = 0.5
# One that does not answer is busy, or about to be replaced: it is asked again for so long.
_BUSY_S: Final = 10.0
_LENT: Final = b"lent"
_REFUSED: Final = b"no"


class PortTaken(OSError):
    """Somebody else holds the address; the message says which, in one line."""


class Port:
    """A listening socket, on loan or lent to others.

    Making one waits for others, for up to `_BUSY_S`: where an event loop runs, do it on a thread.

    Args:
        owner: Who may share it; the same for all replicas of one cluster.
    """

    def __init__(self, host: str, port: int, owner: str) -> None:
        self._owner = owner.encode()[:256]
        self._folder = private_folder() / f"{host.replace(':', '_')}-{port}"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._path = self._folder / f"{os.getpid()}-{id(self):x}.sock"
        self._lending: asyncio.Server | None = None
        self.socket = _bind(host, port) if port == 0 else self._borrow_or_bind(host, port)
        # Offered from now on, so that a replica that starts at the same time finds it; `lend` answers.
        self._offer = self._offered()
        self.address: tuple[str, int] = self.socket.getsockname()[:2]

    async def lend(self) -> None:
        """Begin to lend the socket to replicas that start after this one."""
        self._lending = await asyncio.start_unix_server(self._answer, sock=self._offer)

    async def close(self) -> None:
        """Stop lending and let go of the socket; whoever borrowed it keeps it open."""
        self._path.unlink(missing_ok=True)
        if self._lending is not None:
            self._lending.close()
        self._offer.close()
        self.socket.close()

    def _offered(self) -> socket.socket:
        offer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unfinished = self._path.with_suffix(".new")
        try:
            offer.bind(str(unfinished))
            offer.listen()
            unfinished.rename(self._path)  # one that did not listen yet would be taken for left behind
        except OSError:
            offer.close()
            self.socket.close()
            raise
        return offer

    def _borrow_or_bind(self, host: str, port: int) -> socket.socket:
        began, patience = time.monotonic(), _OFFER_S
        while True:
            try:
                if (borrowed := self._borrow()) is not None:
                    return borrowed
            except TimeoutError:
                patience = _BUSY_S
            try:
                return _bind(host, port)
            except PortTaken as taken:
                # Two replicas that start at once: the other one was quicker.
                if taken.errno != errno.EADDRINUSE or time.monotonic() - began > patience:
                    raise
            time.sleep(0.02)

    def _borrow(self) -> socket.socket | None:
        """The socket of another replica of this cluster, if there is one. Raises TimeoutError if there is, but busy."""
        busy = False
        for path in sorted(self._folder.glob("*.sock")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.settimeout(_TIMEOUT_S)
                try:
                    asking.connect(str(path))
                    asking.sendall(self._owner)
                    answer, fds, _, _ = socket.recv_fds(asking, 16, 1)
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)  # left behind by a replica that was killed
                    continue
                except (TimeoutError, BlockingIOError):
                    busy = True
                    continue
                except OSError:
                    continue
                if answer == _LENT and fds:
                    os.set_inheritable(fds[0], False)
                    borrowed = socket.socket(fileno=fds[0])
                    # Python takes it for blocking, and a dup() of it would make it so for every replica that shares it.
                    borrowed.setblocking(False)
                    return borrowed
                if answer == _REFUSED:
                    raise PortTaken(errno.EADDRINUSE, f"{self._folder.name} belongs to another cluster of this user")
        if busy:
            raise TimeoutError
        return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError), contextlib.closing(writer):
            asking: socket.socket = writer.get_extra_info("socket")
            async with asyncio.timeout(_TIMEOUT_S):
                owner = await reader.read(512)
            if owner == self._owner and same_user(asking):
                # A duplicate of asyncio's own transport socket, which does not offer sendmsg.
                with socket.socket(fileno=os.dup(asking.fileno())) as raw:
                    socket.send_fds(raw, [_LENT], [self.socket.fileno()])
            else:
                writer.write(_REFUSED)
                await writer.drain()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as cause:
        listening.close()
        raise PortTaken(cause.errno, f"cannot listen on {host}:{port}: {cause.strerror}") from None
    return listening
