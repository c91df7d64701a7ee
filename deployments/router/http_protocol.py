"""uvicorn's HTTP/1.1 connection with what uvicorn has not: bounds on what comes in, and an end that loses no answer.

What the edge checks, it checks when a request's head is complete. Until then the parser keeps whatever comes, for as
long as it comes; so bytes that lead to nothing (no whole head, no piece of a body, no end) are counted and timed here.
What never becomes a request is given to the app as well, with the reason as `scope[REFUSAL]`: so that it is answered,
counted and logged like every other.

Whoever still sends when its connection ends is listened to for a moment, because a reset would take the answer away
from it. And whoever does not read is not waited for without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import struct
import sys
import termios
from typing import Any, Final, Literal, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from deployments.config import Limits
from deployments.router.edge import REFUSAL, WHOLE_BODY
from deployments.router.refusals import HeadersTooLarge, SlowBody
from workflows.errors import InvalidInput, WorkflowError

__all__ = ["WRITE_STALL_S", "bounded_protocol"]

SLACK_BYTES: Final = 4096
"""For the method, separators and line ends around the URL and the headers."""
WRITE_STALL_S: Final = 30.0
LEAST_BYTES_PER_S: Final = 1024
"""Whoever reads an answer more slowly than this, over `WRITE_STALL_S`, does not read it."""
FLUSH_BYTES: Final = 64 << 10
WHOLE_BYTES: Final = 32 << 10
"""Bodies up to here are usually complete when the app begins; then it need not ask for them."""
READ_ON_S: Final = 2.0
READ_ON_BYTES: Final = 128 << 20
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


def bounded_protocol(limits: Limits, write_stall_s: float = WRITE_STALL_S) -> type[asyncio.Protocol]:
    """The class of such connections, for `uvicorn.Config(http=...)`."""
    stall_s = write_stall_s

    class Bounded(_BoundedProtocol):
        head_s = limits.head_s
        write_stall_s = stall_s
        max_unused_bytes = limits.max_header_bytes + limits.max_url_bytes + SLACK_BYTES
        max_connections = limits.max_connections

    return Bounded


class _BoundedProtocol(HttpToolsProtocol):
    """One connection.

    `_phase` is `head` between requests and in the head of one, `body` until that one is complete, and `over` once
    nothing more is parsed: what still comes is thrown away, up to `_spare` bytes.
    """

    head_s: float
    write_stall_s: float
    max_unused_bytes: int
    max_connections: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._phase: Literal["head", "body", "over"] = "head"
        self._unused = 0
        self._spare = READ_ON_BYTES
        self._head_alarm: asyncio.TimerHandle | None = None
        self._stall_alarm: asyncio.TimerHandle | None = None
        self._end_alarm: asyncio.TimerHandle | None = None

    # ---- the connection --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wire = transport
        self._exit = _Exit(self)
        self.transport = cast("asyncio.Transport", self._exit)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._head_alarm = self.loop.call_later(self.head_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        for alarm in (self._head_alarm, self._stall_alarm, self._end_alarm):
            if alarm is not None:
                alarm.cancel()
        super().connection_lost(exc)
        self.transport = self._wire  # `_Exit` and this one hold each other

    def eof_received(self) -> None:
        self._exit.flush()
        self._wire.close()
        self._watch_writing()

    def data_received(self, data: bytes) -> None:
        if self._phase == "over":
            self._spare -= len(data)
            if self._spare < 0:
                self._wire.abort()
            return
        self._unset_keepalive_if_required()
        self._unused += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(InvalidInput("this is not a valid HTTP/1.1 request"))
            return
        if self._unused:  # nothing came of it yet
            if self._unused > self.max_unused_bytes:
                self._refuse(HeadersTooLarge())
            elif self._head_alarm is None and self._phase == "head":
                self._head_alarm = self.loop.call_later(self.head_s, self._too_late)

    # ---- what the parser finds -------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """Feed the parser. Raises HttpParserError for what is not HTTP."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as stop:
                rest = memoryview(rest)[stop.args[0] :]
            self._parse_without_upgrade()

    def _parse_without_upgrade(self) -> None:
        """Give the head that was just parsed to a new parser, as one that asks for no upgrade, which we may ignore.

        The parser takes what follows such a head for another protocol, also where the head announces a body: read as
        HTTP, that body would be a request of its own. The app sees all headers that were sent.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":  # asks for an upgrade by itself
            raise httptools.HttpParserError("there are no tunnels here")
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        asked = [header for header in self.headers if header[0] == b"upgrade"]
        head += [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"".join([*head, b"\r\n"]))
        self.headers += asked

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it is parsed once more
        if not self.url.startswith(b"/"):
            self._check_authority()
        super().on_headers_complete()
        self._unused = 0
        self._phase = "body"
        if self._head_alarm is not None:
            self._silence()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._phase != "body":
            return  # the end of a head that is parsed once more
        self._unused = 0
        self._phase = "head"
        super().on_message_complete()
        body = self.cycle.body
        if body and len(body) <= WHOLE_BYTES and not self.cycle.response_started:
            cast("dict[str, Any]", self.cycle.scope)[WHOLE_BODY] = bytes(body)

    def _check_authority(self) -> None:
        """A whole URL instead of a path says which host is meant. If the header does not, there are two, for the edge."""
        found = _ABSOLUTE.match(self.url)
        if found is not None and (b"host", found[1]) not in self.headers:
            self.headers.append((b"host", found[1]))

    # ---- what never becomes a request ------------------------------------------------------------------------------

    def _too_late(self) -> None:
        self._head_alarm = None
        if self._is_answering():
            return  # the next head is a part of what comes; when the answer ends, it is waited for
        if self._unused:
            self._refuse(SlowBody("the request did not arrive in time"))
        else:
            self._leave()

    def _refuse(self, error: WorkflowError) -> None:
        """Parse no more. The app says why, after the answers that are due, and the connection ends with that."""
        self._silence()
        in_body, self._phase = self._phase == "body", "over"
        self._spare = self.max_unused_bytes
        if in_body and self.cycle.response_complete:
            self._leave()
        elif in_body:  # the app is told in place of the rest of the body
            cast("dict[str, Any]", self.cycle.scope)[REFUSAL] = error
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
        else:
            self._ask_for_refusal(error)

    def _ask_for_refusal(self, error: WorkflowError) -> None:
        self.on_message_begin()
        nothing = {"method": "", "path": "", "raw_path": b"", "query_string": b"", REFUSAL: error}
        cast("dict[str, Any]", self.scope).update(nothing)
        at_once = not self._is_answering()
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        if at_once:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _silence(self) -> None:
        if self._head_alarm is not None:
            self._head_alarm.cancel()
            self._head_alarm = None

    # ---- the end of the connection ---------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Close, when what was written is sent. uvicorn calls this after an answer, also after one that broke off."""
        if self._is_leaving():
            return
        self._exit.flush()
        self._silence()
        if self.flow.write_paused and not self.pipeline and self._is_answering():
            self._hang_up()  # it broke off, and nobody reads how
            return
        if self._phase == "head":
            self._wire.close()
        else:
            self._phase = "over"
            self._end_alarm = self.loop.call_later(READ_ON_S, self._wire.close)
            self.flow.resume_reading()
            with contextlib.suppress(OSError):  # reset by now, which is heard by reading on
                self._wire.write_eof()
        self._watch_writing()

    def _is_leaving(self) -> bool:
        return self._end_alarm is not None or self._wire.is_closing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_alarm is not None and not self._is_leaving():  # else the rest has to go as well
            self._stall_alarm.cancel()
            self._stall_alarm = None

    def _watch_writing(self) -> None:
        if self._stall_alarm is None and self._wire.get_write_buffer_size():
            self._stall_alarm = self.loop.call_later(self.write_stall_s, self._look, self._untaken())

    def _look(self, before: int) -> None:
        """Hang up on whoever has not read since, or next to nothing."""
        self._stall_alarm = None
        if before - self._untaken() < LEAST_BYTES_PER_S * self.write_stall_s:
            self._hang_up()
        else:
            self._watch_writing()

    def _hang_up(self) -> None:
        """Reset, because the system would keep what it has taken for whoever does not read, megabytes, for minutes."""
        with contextlib.suppress(OSError):  # closed by now
            at_once = struct.pack("ii", 1, 0)
            self._wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self._wire.abort()

    def _untaken(self) -> int:
        """Bytes that the other side has yet to take, from us and from the system, which asks for more only when
        megabytes of its own are gone."""
        queued = b"\0\0\0\0"
        with contextlib.suppress(OSError, ValueError):  # closed by now
            queued = fcntl.ioctl(self._wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self._wire.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class _Exit:
    """A connection's transport as uvicorn sees it: how it is closed is for the connection to say.

    What is written in one turn of the event loop leaves together, usually a head and its whole body: a system call for
    each would be a tenth of what a small answer costs.
    """

    __slots__ = ("_parts", "_size", "_soon", "_wire", "close", "is_closing")

    def __init__(self, connection: _BoundedProtocol) -> None:
        self._wire = connection._wire
        self._soon = connection.loop.call_soon
        self._parts: list[bytes] = []
        self._size = 0
        self.close = connection._leave
        self.is_closing = connection._is_leaving

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is here now. Before the connection is closed, this is for who closes it to do."""
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            if not self._wire.is_closing():  # by now nobody may read it any more, and uvloop raises then
                self._wire.write(parts[0] if len(parts) == 1 else b"".join(parts))
