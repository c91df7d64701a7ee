"""The HTTP client that SDKs are given: one origin, bounded answers, the policy's patience, and the key put in last.

An SDK never sees the key, so it cannot log it, put it into an exception or carry it elsewhere. Import this within
`do_setup`: it needs httpx2, which comes with the SDKs.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx2

from workflows.errors import InvalidInput
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_status
from workflows.remote.logs import keep_bodies_out
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import Secret

__all__ = ["http_client"]

_MAX_ERROR_BYTES: Final = 256 * 1024
_KEEP_S: Final = 15.0
# What an SDK, or a workflow, may have put into a request, and what only this module may send.
_OURS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization", "cookie")
_BY_LINES: Final = ("text/event-stream", "application/x-ndjson", "application/stream+json")


def http_client(
    policy: UpstreamPolicy,
    base_url: str,
    *,
    key: Secret | None = None,
    key_header: str = "authorization",
    key_prefix: str = "Bearer ",
    clock: Clock = SYSTEM_CLOCK,
) -> httpx2.AsyncClient:
    """For one upstream; close it in `do_teardown`. Blocks while it reads certificates and a proxy's URL.

    It follows no redirect, keeps no cookie, and takes nothing from the environment. What goes wrong in it is raised as
    UpstreamFailure, which `failures.of_exception` finds within whatever an SDK makes of it.

    Args:
        base_url: The operator's. A request to another origin is not sent.
        key: Put into `key_header`, after `key_prefix`.
    """
    keep_bodies_out()
    credentials = {} if key is None else {key_header.lower(): lambda: key_prefix + key.reveal()}
    transport = _Transport(_connections(policy), _origin(base_url), credentials, policy, clock)
    # The limits are the transport's: an SDK's own, or none, would be laid over those given here.
    return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, timeout=None)


def _connections(policy: UpstreamPolicy) -> httpx2.AsyncHTTPTransport:
    return httpx2.AsyncHTTPTransport(
        verify=ssl.create_default_context(cafile=policy.ca_file) if policy.ca_file else True,
        trust_env=False,
        proxy=None if policy.proxy is None else policy.proxy.read().reveal(),
        # As many as ask: who may is the gate's to say.
        limits=httpx2.Limits(
            max_connections=None, max_keepalive_connections=policy.max_concurrent, keepalive_expiry=_KEEP_S
        ),
        retries=0,
    )


def _origin(url: str) -> tuple[str, str, int]:
    """Raises InvalidInput for what is no address of an HTTP server, or holds a user, a password or a fragment."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        parsed = httpx2.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo or parsed.fragment:
        raise InvalidInput("base_url: give http:// or https://, a host and a path, and no user", param="base_url")
    return _origin_of(parsed)


def _origin_of(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        origin: tuple[str, str, int],
        credentials: Mapping[str, Callable[[], str]],
        policy: UpstreamPolicy,
        clock: Clock,
    ) -> None:
        self._inner = inner
        self._origin = origin
        self._credentials = credentials
        self._policy = policy
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if _origin_of(request.url) != self._origin:
            raise UpstreamFailure(FailureKind.DENIED, detail="a request to another address was not sent")
        sent = httpx2.Request(
            request.method,
            request.url,
            headers=self._headers(request.headers),
            stream=request.stream,
            extensions={**request.extensions, "timeout": {"connect": self._policy.connect_s}},
        )
        response = await self._answer(sent)
        try:
            body = self._checked(response)
        except UpstreamFailure:
            await response.aclose()
            raise
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "set-cookie"]
        return httpx2.Response(response.status_code, headers=headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _answer(self, sent: httpx2.Request) -> httpx2.Response:
        try:
            async with self._clock.limit(self._policy.first_byte_s) as limit:
                return await self._inner.handle_async_request(sent)
        except TimeoutError:
            if not limit.expired():
                raise
        raise UpstreamFailure(FailureKind.SILENT, detail="no answer began")

    def _headers(self, asked: httpx2.Headers) -> httpx2.Headers:
        headers = httpx2.Headers([(name, value) for name, value in asked.multi_items() if name not in _OURS])
        headers["accept-encoding"] = "identity"  # a packed answer's size is known too late
        for name, value in self._credentials.items():
            headers[name] = value()
        return headers

    def _checked(self, response: httpx2.Response) -> _Body:
        """The body, bounded. Raises UpstreamFailure for an answer of which nothing needs to be read."""
        status, headers = response.status_code, response.headers
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if 300 <= status < 400 or status < 200:
            raise UpstreamFailure(FailureKind.MALFORMED, status=status, detail="redirects are not followed")
        most = self._policy.max_body_bytes
        excess = UpstreamFailure(FailureKind.TOO_LARGE, status=status)
        if status >= 400:
            most = min(most, _MAX_ERROR_BYTES)
            excess = of_status(status, headers)
        elif headers.get("content-encoding", "identity").lower() != "identity":
            raise UpstreamFailure(FailureKind.MALFORMED, status=status, detail="packed, though it was asked not to be")
        elif content_type == "text/html":
            raise UpstreamFailure(FailureKind.MALFORMED, status=status, detail="a page instead of an answer")
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) < 20 and int(length) > most:
            raise excess
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        line = self._policy.max_line_bytes if content_type in _BY_LINES else None
        return _Body(stream, most, line, excess, self._policy.between_tokens_s, self._clock)


class _Body(httpx2.AsyncByteStream):
    """An answer's bytes as they come, until they are too many or do not come any more."""

    def __init__(
        self,
        inner: httpx2.AsyncByteStream,
        most: int,
        line: int | None,
        excess: UpstreamFailure,
        patience_s: float,
        clock: Clock,
    ) -> None:
        self._inner = inner
        self._most = most
        self._line = line
        self._excess = excess
        self._patience_s = patience_s
        self._clock = clock

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = line = 0
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    taken += len(chunk)
                    if taken > self._most:
                        raise self._excess
                    if self._line is not None:
                        line = _line_after(chunk, line, self._line)
                    yield chunk
        except UpstreamFailure:
            await self._inner.aclose()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _chunks(self) -> AsyncGenerator[bytes]:
        made: Any = aiter(self._inner)
        while True:
            try:
                async with self._clock.limit(self._patience_s) as limit:
                    chunk = await anext(made, None)
            except TimeoutError:
                if not limit.expired():
                    raise
                chunk = b""
            if chunk is None:
                return
            if limit.expired():
                raise UpstreamFailure(FailureKind.SILENT, detail="it stopped within its answer")
            yield chunk


def _line_after(chunk: bytes, line: int, most: int) -> int:
    """How long the line is that is open after `chunk`, `line` bytes of it before. Raises UpstreamFailure above `most`."""
    begin = 0
    while True:
        end = chunk.find(b"\n", begin)
        line += (len(chunk) if end < 0 else end) - begin
        if line > most:
            raise UpstreamFailure(FailureKind.TOO_LARGE, detail="an endless line")
        if end < 0:
            return line
        begin, line = end + 1, 0
