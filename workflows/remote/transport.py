"""The HTTP client that SDKs are given: one origin, bounded answers, the policy's patience, and the key put in last.

An SDK never sees the key, so it cannot log it, put it into an exception or carry it elsewhere. Import this within
`do_setup`: it needs httpx2, which comes with the SDKs.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast

import httpx2

from workflows.errors import InvalidInput
from workflows.remote.address import PORTS, Origin, origin_of
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_status
from workflows.remote.logs import keep_bodies_out
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import Secret, SecretRef

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
    UpstreamFailure, which `failures.of_exception` finds within whatever an SDK makes of it. Raises InvalidInput for an
    address or settings that are none.

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
        verify=True if policy.ca_file is None else _authorities(policy.ca_file),
        trust_env=False,
        proxy=None if policy.proxy is None else _proxy(policy.proxy),
        # As many as ask: who may is the gate's to say.
        limits=httpx2.Limits(
            max_connections=None, max_keepalive_connections=policy.max_concurrent, keepalive_expiry=_KEEP_S
        ),
        retries=0,
    )


def _authorities(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=Path(file).expanduser())
    except OSError:  # an SSLError is one
        raise InvalidInput("upstream.ca_file: cannot be read as certificates", param="upstream.ca_file") from None


def _proxy(said: SecretRef) -> httpx2.Proxy:
    try:
        return httpx2.Proxy(said.read().reveal())
    except (ValueError, httpx2.InvalidURL):  # whose words may hold the proxy's password
        raise InvalidInput("upstream.proxy: no URL of a proxy", param="upstream.proxy") from None


def _origin(url: str) -> Origin:
    try:
        return origin_of(url)
    except ValueError as error:
        raise InvalidInput(f"base_url: {error}", param="base_url") from None


def _origin_of(url: httpx2.URL) -> Origin:
    return Origin(url.scheme, url.host.lower(), url.port or PORTS.get(url.scheme, 0))


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        origin: Origin,
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
            if limit.expired():
                raise UpstreamFailure(FailureKind.SILENT, detail="no answer began") from None
            raise

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
        packed = headers.get("content-encoding", "identity").lower() != "identity"
        most = self._policy.max_body_bytes
        excess = UpstreamFailure(FailureKind.TOO_LARGE, status=status)
        if status >= 400:
            most = min(most, _MAX_ERROR_BYTES)
            excess = of_status(status, headers)
            if packed:  # what it would unpack to has no bound, and the status says enough
                raise excess
        elif packed:
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
        finally:
            await self._inner.aclose()  # now, and not when somebody thinks of it

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _chunks(self) -> AsyncGenerator[bytes]:
        made = cast("AsyncGenerator[bytes]", aiter(self._inner))  # which is what it is
        async with aclosing(made):
            while True:
                try:
                    async with self._clock.limit(self._patience_s) as limit:
                        chunk = await anext(made, None)
                except TimeoutError:
                    if limit.expired():
                        raise UpstreamFailure(FailureKind.SILENT, detail="it stopped within its answer") from None
                    raise
                if chunk is None:
                    return
                yield chunk


def _line_after(chunk: bytes, line: int, most: int) -> int:
    """How long the line is that is open after `chunk`, `line` bytes of it before. Raises UpstreamFailure above `most`."""
    begin = 0
    chunk = chunk.replace(b"\r", b"\n")
    while True:
        end = chunk.find(b"\n", begin)
        line += (len(chunk) if end < 0 else end) - begin
        if line > most:
            raise UpstreamFailure(FailureKind.TOO_LARGE, detail="an endless line")
        if end < 0:
            return line
        begin, line = end + 1, 0
