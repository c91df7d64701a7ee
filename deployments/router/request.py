"""What passes between the edge and a protocol: a request that was let in, the route it takes, and the reply.

A protocol is a name, its routes and its error table; it sees no ASGI, no keys and no limits but through `Request`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from starlette.routing import compile_path
from starlette.types import Message, Receive, Send

from deployments.router.caller import Caller
from deployments.router.json_body import parse_json_aside, render_json
from deployments.router.protocols.tables import ErrorTable, Headers
from workflows.errors import Cancelled

__all__ = ["JSON", "Protocol", "Reply", "Request", "Route", "RouteTable", "json_reply", "text_reply"]

JSON: Final = (b"content-type", b"application/json")


@dataclass(slots=True, eq=False)
class Reply:
    """A whole answer. `headers` come without content-length and request id: the edge adds them."""

    status: int
    body: bytes
    headers: Headers


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Caller):
    """One HTTP request behind the edge.

    Attributes:
        params: The path's `{...}` segments, in order.
        answered: Whether the status line is out, so that an error can only be told in the stream.
        unread: Whether a body was announced that is not here: then the connection ends with the answer, because
            otherwise the server would have to take all of it, and throw it away, to find the next request.
        closing: Asked when the answer begins: whether the connection ends with it, because the router is draining.
    """

    method: str
    route: Route
    params: Sequence[str]
    receive: Receive
    send: Send
    body: bytes = b""
    unread: bool = False
    answered: bool = False
    closing: Callable[[], bool] = bool

    @property
    def path(self) -> str:
        return self.route.path

    @property
    def protocol(self) -> str:
        return self.route.protocol.name

    @property
    def bytes_in(self) -> int:
        return len(self.body)

    @property
    def errors(self) -> ErrorTable:
        return self.route.protocol.errors

    async def json(self, size: int | None = None) -> Any:
        """The JSON value of the body, or of its first `size` bytes, parsed anew at every call.

        Raises BadJson and InvalidInput.
        """
        return await parse_json_aside(self.body if size is None else self.body[:size], self.limits)

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the status line and headers. Raises Cancelled if the caller has left.

        What every answer has is added here, to streams and errors as well: the request id, who has answered, and whatever else
        there will be (OpenAI's clients look for `x-ratelimit-*` once there are limits).
        """
        headers = [*headers, (b"x-request-id", self.id.encode())]
        headers += [(name.encode(), value.encode()) for name, value in self.marks()]
        if (b"connection", b"close") not in headers and (self.unread or self.closing()):
            headers.append((b"connection", b"close"))
        self.answered = True
        self.status = status
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, more: bool = False) -> None:
        """Send a part of the body, the last one unless `more`; waits while the caller reads slowly."""
        self.bytes_out += len(body)
        await self._put({"type": "http.response.body", "body": body, "more_body": more})

    async def _put(self, message: Message) -> None:
        try:
            await self.send(message)
        except OSError as cause:  # what servers raise for a connection that is gone
            raise Cancelled() from cause


Endpoint = Callable[[Request], Awaitable[Reply | None]]


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """A family of routes that share one error table. `prefix`: unknown paths below it get that table's 404."""

    name: str
    prefix: str
    errors: ErrorTable


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One method of one path.

    Attributes:
        path: Its segments are literal or `{name}`, which stands for one whole segment.
        endpoint: Answers; None as a reply says that it has sent the answer itself.
        access: Who may: anyone, any valid key, or an operator's key.
        body: `json`: application/json is required. `json_or_binary`: application/octet-stream will do as well,
            because binary data may follow the JSON, and so will a missing content-type, because this protocol's clients
            send none (but not from a browser's page). None: no body is read.
    """

    method: str
    path: str
    endpoint: Endpoint
    protocol: Protocol
    access: Literal["public", "key", "operator"] = "key"
    body: Literal["json", "json_or_binary"] | None = None


MAX_PATHS_KEPT: Final = 512
"""Callers choose the paths, and few of them differ."""


class RouteTable:
    """Paths to routes. The grammar of paths is Starlette's; a literal path goes before one with `{...}` segments."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            if by_path.setdefault(route.path, {}).setdefault(route.method, route) is not route:
                raise ValueError(f"two routes for {route.method} {route.path}")
        self._literal = {path: methods for path, methods in by_path.items() if "{" not in path}
        patterns = sorted(by_path.keys() - self._literal.keys(), key=lambda path: path.count("{"))
        self._patterns = [(compile_path(path)[0], by_path[path]) for path in patterns]
        self.find = lru_cache(MAX_PATHS_KEPT)(self._find)

    def _find(self, path: str) -> tuple[Mapping[str, Route], Sequence[str]]:
        """`find(path)`: its routes by method, none if there is no such path, and the values of its `{...}` segments."""
        if methods := self._literal.get(path):
            return methods, ()
        for pattern, methods in self._patterns:
            if found := pattern.fullmatch(path):
                return methods, found.groups()
        return {}, ()


def json_reply(value: Any, status: int = 200) -> Reply:
    """Raises BadOutput for what JSON cannot say."""
    return Reply(status, render_json(value), [JSON])


def text_reply(text: str, status: int = 200) -> Reply:
    return Reply(status, text.encode(), [(b"content-type", b"text/plain; charset=utf-8")])
