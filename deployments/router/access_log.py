"""One JSON line per request: who asked what, what became of it, and how long it took. Never what was said.

Every value comes from a closed alphabet (our own names, numbers, ids that match a pattern), so a line cannot be forged.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import time
from pathlib import Path
from typing import Final

import orjson

from deployments.router.request import Request

__all__ = ["AccessLog", "access_log_files"]

FILE_BYTES: Final = 64 << 20
FILES_OF_ONE: Final = 4
PROCESSES_KEPT: Final = 8

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"})


class AccessLog:
    """Writes to a logging handler, whose formatter sees the finished line as the message; None writes nothing."""

    def __init__(self, handler: logging.Handler | None) -> None:
        self._handler = handler

    def write(self, request: Request, seconds: float) -> None:
        handler = self._handler
        if handler is None:
            return
        line = {
            "ts": round(time.time(), 3),
            "request_id": request.id,
            "method": request.method if request.method in _METHODS else "other",
            "route": request.route.path,
            "protocol": request.route.protocol.name,
            "workflow": request.workflow,
            "status": request.status,
            "code": request.code,
            "ms": round(seconds * 1e3, 3),
            "bytes_in": len(request.body),
            "bytes_out": request.bytes_out,
            "key": request.key.id,
            "chunks": request.chunks,
        }
        text = orjson.dumps(line).decode()
        handler.handle(logging.LogRecord("infernet.access", logging.INFO, "", 0, text, None, None))


def access_log_files(path: Path) -> logging.Handler:
    """A bounded set of files for this process: its id goes into their names, `access.log` becomes `access_17.log`.

    Two processes must not rotate the same file, and with every rolling update there are two. What others have left
    behind is removed, but for the newest `PROCESSES_KEPT`. The folder is made where there is none.

    Raises OSError where it cannot be written to: at the start, because later only the lines would be lost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    others = re.compile(rf"{re.escape(path.stem)}_(\d+){re.escape(path.suffix)}(\.\d+)?")
    written: dict[str, list[Path]] = {}
    for file in path.parent.glob("*"):
        if found := others.fullmatch(file.name):
            written.setdefault(found[1], []).append(file)
    written.pop(str(os.getpid()), None)
    for old in sorted(written.values(), key=_last_changed)[: -(PROCESSES_KEPT - 1)]:
        for file in old:
            file.unlink(missing_ok=True)
    return logging.handlers.RotatingFileHandler(
        path.with_name(f"{path.stem}_{os.getpid()}{path.suffix}"),
        maxBytes=FILE_BYTES,
        backupCount=FILES_OF_ONE,
        encoding="utf-8",
    )


def _last_changed(files: list[Path]) -> int:
    """In nanoseconds; 0 for files that are gone by now."""
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
