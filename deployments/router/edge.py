"""The door of the router: pure ASGI, in front of every protocol. Checks in a fixed order, then lets a route answer.

    URL and header sizes (414, 431) and form (400) -> route (404, 405) -> caller and host (403, 421) -> key (401, 403)
    -> body size (413) -> media type (415)
    -> the protocol's own checks: JSON (400), workflow (404), input (400), room (429, 503)

Every answer has a request id, every request one line in the access log, and whatever goes wrong unforeseen is a bare
500. Where no keys are configured only this machine is answered, whoever listens: others are `forbidden` (not `host`,
which means that another connection may do). And the Host header must be a loopback name or an allowed one: a page in
somebody's browser must not reach a server on the same machine by pointing its own name here.

Our own listener also brings what it could not read as a request, with the reason in the scope, so that this is answered,
counted and logged here as well.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from starlette.types import Receive, Scope, Send

from deployments.config import LOOPBACK, RouterArgs
from deployments.router.access_log import AccessLog
from deployments.router.admission import NOBODY, allowed_key, is_loopback, new_ids, only_local, read_headers
from deployments.router.json_body import render_json
from deployments.router.keys import Keys
from deployments.router.metrics import Metrics
from deployments.router.refusals import (
    BadHost,
    HeadersTooLarge,
    MethodNotAllowed,
    NoRoute,
    SlowBody,
    TooLarge,
    UnsupportedMediaType,
    UriTooLong,
)
from deployments.router.request import JSON, Protocol, Reply, Request, Route, RouteTable
from deployments.router.watch import Watch
from workflows.errors import Cancelled, InvalidInput, PermissionDenied, WorkflowError

__all__ = ["REFUSAL", "Edge"]

log = logging.getLogger(__name__)

REFUSAL: Final = "infernet.refusal"
"""In a scope: the error that a request is refused with, because its head or the rest of its body cannot be read."""
MAX_HEADERS: Final = 100
WHOLE_BODY: Final = "infernet.body"
"""In a scope: the body, from a server that has had all of it before the app begins, so that nothing waits for it."""
_JSON_TYPE: Final = re.compile(rb'application/json\s*(;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)
_FORM_HINT: Final = (
    "the body must be application/json, not a form (curl's default with -d): add -H 'Content-Type: application/json'"
)
_LOOPBACK_V4: Final = re.compile(r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}")
_HOST: Final = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~%!$&'()*+,;=-]*))(?::[0-9]{0,5})?")
# "2.0" is none: what speaks HTTP/2 says "2", and this is what HTTP/1 parsers hand on.
_VERSIONS: Final = frozenset({"1.0", "1.1", "2"})


class Edge:
    """The ASGI application.

    Args:
        protocols: Whose error table answers for paths that do not exist: the one with the longest fitting prefix.

    Attributes:
        keys: Replaced as a whole when the configured keys change.
        draining: Once true, every answer ends its connection.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        protocols: Sequence[Protocol],
        args: RouterArgs,
        keys: Keys,
        metrics: Metrics,
        access_log: Callable[[str], None] | None = None,
    ) -> None:
        self.keys = keys
        self.draining = False
        self.table = RouteTable(routes)
        self._limits = args.limits
        self._hosts = frozenset(host.lower() for host in args.allowed_hosts)
        self._metrics = metrics
        self._access = AccessLog(access_log)
        by_length = sorted(protocols, key=lambda protocol: len(protocol.prefix), reverse=True)
        self._nowhere = [Route("", "", _no_route, protocol, access="public") for protocol in by_length]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before accept: the client sees 403
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers, repeated, size = read_headers(scope["headers"])
        request = self._request(scope, headers, repeated, receive, send, started)
        try:
            self._check_head(scope, headers, repeated, size)
            self._find_route(scope["path"], request)
            await self._admit(scope, request)
            reply = await request.route.endpoint(request)
            if reply is not None:
                await _send(request, reply)
        except WorkflowError as error:
            if request.route is self._nowhere[-1]:
                request.route = self._nowhere_of(scope["path"])
            await self._refuse(request, error)
        except asyncio.CancelledError:
            request.code = "cancelled"
            raise
        except Exception:
            log.exception("request %s failed", request.id)
            await self._refuse(request, WorkflowError())
        finally:
            seconds = time.perf_counter() - started
            self._metrics.observe_request(request.protocol, request.workflow, request.code, seconds)
            self._access.write(request, seconds)

    def _request(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        repeated: set[bytes],
        receive: Receive,
        send: Send,
        started: float,
    ) -> Request:
        shown, call_id = new_ids(headers.get(b"x-request-id"))
        return Request(
            id=shown,
            call_id=call_id,
            method=scope["method"],
            route=self._nowhere[-1],
            params=(),
            headers=headers,
            repeated=repeated,
            key=NOBODY,
            limits=self._limits,
            receive=receive,
            send=send,
            started=started,
            unread=b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0",
            closing=self._is_draining,
        )

    def _nowhere_of(self, path: str) -> Route:
        """Whose error table answers for a path that no route has."""
        return next((route for route in self._nowhere if path.startswith(route.protocol.prefix)), self._nowhere[-1])

    def _is_draining(self) -> bool:
        return self.draining

    # ---- checks, in order ------------------------------------------------------------------------------------------------

    def _check_head(self, scope: Scope, headers: dict[bytes, bytes], repeated: set[bytes], header_bytes: int) -> None:
        if REFUSAL in scope:
            raise scope[REFUSAL]
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > self._limits.max_url_bytes:
            raise UriTooLong()
        if header_bytes > self._limits.max_header_bytes or len(scope["headers"]) > MAX_HEADERS:
            raise HeadersTooLarge()
        if headers.get(b"upgrade", b"").lower() == b"websocket":  # from servers that leave websockets to nobody
            raise PermissionDenied("there are no websockets here")
        if scope.get("http_version", "1.1") not in _VERSIONS:
            raise InvalidInput("this version of HTTP is not spoken here")
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise InvalidInput("the only transfer encoding that is accepted is chunked")
        if b"host" in repeated or _host_name(headers.get(b"host", b"")) is None:
            raise InvalidInput("the header Host, with the URL, must name one host")

    def _find_route(self, path: str, request: Request) -> None:
        methods, params = self.table.find(path)
        if not methods:
            raise NoRoute()
        route = methods.get(request.method)
        if route is None:
            raise MethodNotAllowed(methods)
        request.route, request.params = route, params

    async def _admit(self, scope: Scope, request: Request) -> None:
        route = request.route
        if route.access != "public":
            if not self.keys and not _is_local(scope):
                raise only_local()
            if not self._knows_host(request.headers.get(b"host")):
                raise BadHost()
            request.key = allowed_key(self.keys, request.headers, request.repeated, route.access)
        if route.body is not None:
            self._check_length(request)
            _check_media(request)
            request.body = await self._read_body(scope, request.receive)
            request.unread = False

    def _knows_host(self, host: bytes | None) -> bool:
        """With keys and no list of hosts, any name will do: the key is what protects."""
        if self.keys and not self._hosts:
            return True
        name = _host_name(host or b"") or ""
        return name in LOOPBACK or name in self._hosts or _LOOPBACK_V4.fullmatch(name) is not None

    def _check_length(self, request: Request) -> None:
        """Refuse a body that says it is too large before any of it is taken."""
        declared = request.headers.get(b"content-length")
        if declared is None:
            return  # it comes in pieces, and is counted
        if not declared.isdigit() or len(declared) > 18 or b"content-length" in request.repeated:
            raise InvalidInput("the header Content-Length is not one number")
        if int(declared) > self._limits.max_body_bytes:
            raise TooLarge(f"the body is larger than {self._limits.max_body_bytes} bytes")

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        most = self._limits.max_body_bytes
        body: bytes | None = scope.get(WHOLE_BODY)
        if body is not None and len(body) <= most:
            return body
        with Watch(self._limits.body_s, too_late=SlowBody()):
            body, more = await _part(scope, receive)
            if more:
                whole = bytearray(body)
                while more and len(whole) <= most:
                    body, more = await _part(scope, receive)
                    whole += body
                body = bytes(whole)
        if len(body) > most:
            raise TooLarge(f"the body is larger than {most} bytes")
        return body

    async def _refuse(self, request: Request, error: WorkflowError) -> None:
        """Answer with an error. Nothing is said where nobody listens, or where an answer has begun already."""
        table = request.errors
        shown = table.shown(error)
        request.code = shown.code
        if shown.code == "internal" and (shown is not error or error.__cause__ is not None):
            log.error("request %s failed", request.id, exc_info=error)
        if shown.code == "cancelled":
            request.status = table.status(shown)
        elif not request.answered:
            body = render_json(table.body(shown, request.id))
            try:
                await _send(request, Reply(table.status(shown), body, [JSON, *table.headers(shown)]))
            except Cancelled:
                request.code = "cancelled"


def _check_media(request: Request) -> None:
    headers = request.headers
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("compressed bodies are not accepted")
    media = headers.get(b"content-type")
    if media == b"application/json":
        return
    if media is None:
        # A page in a browser can send a body without a type to any server; it always says where it is from, though.
        if request.route.body == "json_or_binary" and b"origin" not in headers:
            return
        raise UnsupportedMediaType()
    if media == b"application/octet-stream" and request.route.body == "json_or_binary":
        return
    if not _JSON_TYPE.fullmatch(media):
        is_form = media.lower().startswith(b"application/x-www-form-urlencoded")
        raise UnsupportedMediaType(_FORM_HINT if is_form else "")


def _is_local(scope: Scope) -> bool:
    """Whether the caller is on this machine. One without an address is, if it came through a Unix socket."""
    client = scope.get("client")
    if client is not None:
        return is_loopback(client[0])
    server = scope.get("server")
    return server is not None and server[1] is None


@lru_cache(maxsize=256)
def _host_name(header: bytes) -> str | None:
    """The name in a Host header, without its port and empty if that is all there is; None if it is no such header."""
    found = _HOST.fullmatch(header)
    return None if found is None else (found[1] or found[2]).decode().lower()


async def _part(scope: Scope, receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if REFUSAL in scope:
        raise scope[REFUSAL]
    if message["type"] == "http.disconnect":
        raise Cancelled()
    return message.get("body", b""), message.get("more_body", False)


async def _send(request: Request, reply: Reply) -> None:
    await request.begin(reply.status, [*reply.headers, (b"content-length", b"%d" % len(reply.body))])
    await request.write(reply.body)


async def _no_route(request: Request) -> Reply:
    raise NoRoute()


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop: what the router needs is there before the app is."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
