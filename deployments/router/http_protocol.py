"""uvicorn's HTTP/1.1 connection with bounds that uvicorn has not: on the head of a request, and on how many there are.

What the edge checks, it checks when a request's head is complete. Until then the parser keeps whatever comes, for as
long as it comes; so bytes that lead to nothing (no whole head, no piece of a body, no end) are counted and timed here.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.config import Limits

__all__ = ["bounded_protocol"]

SLACK_BYTES: Final = 4096
"""For the method, separators and line ends around the URL and the headers."""


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The class of such connections, for `uvicorn.Config(http=...)`."""

    class Bounded(_BoundedProtocol):
        head_s = limits.head_s
        max_unused_bytes = limits.max_header_bytes + limits.max_url_bytes + SLACK_BYTES
        max_connections = limits.max_connections

    return Bounded


class _BoundedProtocol(HttpToolsProtocol):
    head_s: float
    max_unused_bytes: int
    max_connections: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unused = 0
        self._in_body = False
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._alarm = self.loop.call_later(self.head_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._silence()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unused += len(data)
        super().data_received(data)
        if self._unused and not self.transport.is_closing():  # nothing came of it yet
            if self._unused > self.max_unused_bytes:
                self._end(431, b"the request headers are too large")
            elif self._alarm is None and not self._in_body:
                self._alarm = self.loop.call_later(self.head_s, self._too_late)

    def on_headers_complete(self) -> None:
        self._unused = 0
        self._in_body = True
        if self._alarm is not None:
            self._silence()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unused = 0
        self._in_body = False
        super().on_message_complete()

    def _too_late(self) -> None:
        self._alarm = None
        if (
            not self._is_answering()
        ):  # else the next head is a part of what comes; when the answer ends, it is waited for
            self._end(408, b"the request did not arrive in time")

    def _end(self, status: int, message: bytes) -> None:
        """Close. Whoever has sent something is told why, unless an answer is on its way."""
        if self._unused and not self._is_answering():
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(message) + message)
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
