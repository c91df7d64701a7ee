"""One engine's process, from its start to its end. Knows no requests, only messages.

It is a Python of its own, and no copy of this one: a fork would have locks that threads of this process hold, and none of
those threads. It ends with the socket to it or with this process, whichever is first, so that it outlives nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from workflows.errors import WorkflowError
from workflows.inference.generation.engine_wire import EngineSocket, Failed, Heard, Open, Opened, Stop, Told
from workflows.inference.generation.opening import EngineSpec

__all__ = ["HOST", "EngineProcess"]

log = logging.getLogger(__name__)

HOST = "workflows.inference.generation.engine_host"
"""The module that the process runs."""
STOP_S: Final = 75.0  # an engine waits for its last step for 60


class EngineProcess:
    """See `start`. Belongs to the event loop that starts it.

    Args:
        heard: Gets the news that the engine tells.
        lost: Called once, when the process has ended by itself.
    """

    def __init__(self, heard: Callable[[Heard], None], lost: Callable[[EngineProcess], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._socket = EngineSocket(Told)
        self._stopping = False
        self._reading: asyncio.Task[None] | None = None

    async def start(self, spec: EngineSpec) -> Opened:
        """Start the process, and wait until its engine has started.

        Raises what the engine's start raises, and WorkflowError where there can be no process or it does not get so far.
        """
        near, far = socket.socketpair()
        with far:
            try:
                self._process = _spawn(far.fileno())
            except OSError as cause:
                near.close()
                raise WorkflowError("the engine's process cannot be started; the log says why") from cause
        try:
            await self._socket.open(near)
            self._socket.send(Open(spec))
            first = await self._first()
        except BaseException:
            await self._kill()
            raise
        self._reading = asyncio.create_task(self._read())
        return first

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        """Of no effect once the process has ended, which is told by `lost`."""
        self._socket.send(message)

    async def stop(self) -> None:
        """Have the engine give everything back, and wait for the end of its process; one that does not end is killed."""
        self._stopping = True
        self._socket.send(Stop())
        try:
            await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            log.error("the engine's process does not end, and is killed")
        finally:
            await self._kill()
        if self._reading is not None:
            await self._reading

    async def _first(self) -> Opened:
        try:
            first = await self._socket.read()
        except ValueError as cause:
            raise WorkflowError("what the engine's process says cannot be read") from cause
        if isinstance(first, Failed):
            raise first.error
        if first is None:
            raise WorkflowError("the engine's process ended before it was ready; the log says why")
        if not isinstance(first, Opened):
            raise WorkflowError("what the engine's process says makes no sense")
        return first

    async def _read(self) -> None:
        try:
            while (message := await self._socket.read()) is not None:
                self._heard(message)
        except Exception:
            log.exception("the engine's process is given up")
        if not self._stopping:
            await self._kill()
            log.error("the engine's process %d has ended with exit status %s", self.pid, self._process.returncode)
            self._lost(self)

    async def _kill(self) -> None:
        self._process.kill()
        self._socket.abort()
        await asyncio.to_thread(self._process.wait)


def _spawn(end: int) -> subprocess.Popen[bytes]:
    """Finds modules where this process does. Of its files and sockets, this end is left open in it, and what it prints to."""
    found = os.pathsep.join(
        str(Path(path).absolute()) for path in sys.path if isinstance(path, str) and Path(path).exists()
    )
    return subprocess.Popen(  # noqa: S603 - this Python, with a module of ours
        [sys.executable, "-P", "-m", HOST, str(end)],
        pass_fds=[end],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": found},
    )
