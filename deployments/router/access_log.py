"""One JSON line per request: who asked what, what became of it, and how long it took. Never what was said.

Every value comes from a closed alphabet (our own names, numbers, ids that match a pattern), so a line cannot be forged.
Lines are written together, some moments later: one by one they would cost a fifth of the router's time.
"""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import orjson

from deployments.router.keys import Key

__all__ = ["AccessLog", "AccessLogFiles"]

FILE_BYTES: Final = 64 << 20
FILES_OF_ONE: Final = 4
PROCESSES_KEPT: Final = 8
FLUSH_S: Final = 0.2
MOST_LINES: Final = 2000

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"})


class Logged(Protocol):
    """What of a request is written down. `status` is HTTP's or, for protocols of gRPC, gRPC's."""

    @property
    def id(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def workflow(self) -> str: ...
    @property
    def served_by(self) -> Sequence[str]: ...
    @property
    def status(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def key(self) -> Key: ...
    @property
    def chunks(self) -> int: ...


class AccessLog:
    """Makes the lines. Each is given to `take`; None makes none."""

    def __init__(self, take: Callable[[str], None] | None) -> None:
        self._take = take

    def write(self, request: Logged, seconds: float) -> None:
        take = self._take
        if take is None:
            return
        line = {
            "ts": round(time.time(), 3),
            "request_id": request.id,
            "method": request.method if request.method in _METHODS else "other",
            "route": request.path,
            "protocol": request.protocol,
            "workflow": request.workflow,
            "served_by": request.served_by,
            "status": request.status,
            "code": request.code,
            "ms": round(seconds * 1e3, 3),
            "bytes_in": request.bytes_in,
            "bytes_out": request.bytes_out,
            "key": request.key.id,
            "chunks": request.chunks,
        }
        take(orjson.dumps(line).decode())


class AccessLogFiles:
    """A bounded set of files for this process: its id goes into their names, `access.log` becomes `access_17.log`.

    Two processes must not rotate the same file, and with every rolling update there are two. What others have left
    behind is removed, but for the newest `PROCESSES_KEPT`. The folder is made where there is none.

    Belongs to an event loop. A process that is killed takes the lines of the last `FLUSH_S` with it.

    Raises OSError where it cannot be written to: at the start, because later only the lines would be lost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(path)
        self._lines: list[str] = []
        self._handler = logging.handlers.RotatingFileHandler(
            path.with_name(f"{path.stem}_{os.getpid()}{path.suffix}"),
            maxBytes=FILE_BYTES,
            backupCount=FILES_OF_ONE,
            encoding="utf-8",
        )

    def __call__(self, line: str) -> None:
        """Take a line, to be written soon."""
        self._lines.append(line)
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        elif len(self._lines) >= MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._handler.handle(logging.LogRecord("", logging.INFO, "", 0, "\n".join(lines), None, None))

    def close(self) -> None:
        """Write what was taken, and let go of the file; nothing may be given any more."""
        self.flush()
        self._handler.close()


def _remove_old(path: Path) -> None:
    """What other processes have left behind, but for the newest."""
    others = re.compile(rf"{re.escape(path.stem)}_(\d+){re.escape(path.suffix)}(\.\d+)?")
    written: dict[str, list[Path]] = {}
    for file in path.parent.glob("*"):
        if found := others.fullmatch(file.name):
            written.setdefault(found[1], []).append(file)
    written.pop(str(os.getpid()), None)
    for old in sorted(written.values(), key=_last_changed)[: -(PROCESSES_KEPT - 1)]:
        for file in old:
            file.unlink(missing_ok=True)


def _last_changed(files: list[Path]) -> int:
    """In nanoseconds; 0 for files that are gone by now."""
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
