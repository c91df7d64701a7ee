"""A port that all router replicas of a cluster bind side by side, and nobody else: for servers that bind by themselves.

gRPC opens its own sockets, so that they cannot be lent as `Port` lends them; the system shares such a port out among all
that bind it with SO_REUSEPORT, whoever they are. So whoever is first makes sure that nobody is there, and says in a file
whose port it is; a lock on that file, which ends with its process, says that it is so still.

    claim = Claim(host, port, owner)       # on a thread: it may wait for others
    try:
        bind(*claim.address)
    finally:
        claim.settle()
    ...
    claim.release()
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Final

from deployments.private_sockets import private_folder
from deployments.router.port import PortTaken

__all__ = ["Claim"]

PATIENCE_S: Final = 10.0
"""So long a replica waits for another one that is binding the port just now."""
_STEP_S: Final = 0.02
_MAX_OWNER_BYTES: Final = 512


class Claim:
    """The right to bind an address, for as long as this is not released. Waits for others, for up to `PATIENCE_S`.

    Args:
        owner: Who may share it; the same for all replicas of one cluster.

    Attributes:
        address: Host, as a number, and port.

    Raises:
        PortTaken: Somebody else holds the address.
    """

    def __init__(self, host: str, port: int, owner: str) -> None:
        self.address = (_number(host), port)
        self._gate: int | None = None
        self._held: int | None = None
        if port == 0:
            return
        folder = private_folder() / f"grpc-{self.address[0].replace(':', '_')}-{port}"
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._gate = _opened(folder / "gate")
            self._pass_gate()
            self._held = _opened(folder / "owner")
            self._take(self._held, owner.encode()[:_MAX_OWNER_BYTES])
        except BaseException:
            self.release()
            raise

    def settle(self) -> None:
        """The address is bound, or will not be: others may go on."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def release(self) -> None:
        """Whoever comes next and finds nobody else may have the address, if it is free."""
        self.settle()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _pass_gate(self) -> None:
        """One at a time looks who is there, and binds."""
        assert self._gate is not None
        end = time.monotonic() + PATIENCE_S
        while not _locked(self._gate, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise PortTaken(errno.EADDRINUSE, f"another replica has been opening {self._shown()} for too long")
            time.sleep(_STEP_S)

    def _take(self, held: int, owner: bytes) -> None:
        if _locked(held, fcntl.LOCK_EX):
            self._probe()
            os.ftruncate(held, 0)
            os.pwrite(held, owner, 0)
        elif os.pread(held, _MAX_OWNER_BYTES, 0) != owner:
            raise PortTaken(errno.EADDRINUSE, f"{self._shown()} belongs to another cluster of this user")
        fcntl.flock(held, fcntl.LOCK_SH)

    def _probe(self) -> None:
        """Bind it once as nobody's but ours, which fails if anyone listens there, whether or not they would share."""
        host, port = self.address
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as cause:
                raise PortTaken(cause.errno, f"cannot listen on {self._shown()}: {cause.strerror}") from None

    def _shown(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"


def _number(host: str) -> str:
    """The address of a name, in the family that its form says. Raises PortTaken where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])
    except OSError as cause:
        raise PortTaken(errno.EADDRNOTAVAIL, f"cannot listen on {host}: {cause.strerror}") from None


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
