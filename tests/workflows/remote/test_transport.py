"""The HTTP client that SDKs are given, against an upstream that does what it should not."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.workflows.remote.contract_upstream import quiescence
from tests.workflows.remote.faulty_upstream import Exchange, FaultyUpstream, answer, parts, silence
from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import InvalidInput
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_exception
from workflows.remote.logs import keep_bodies_out
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import Secret, SecretRef
from workflows.remote.transport import http_client

KEY = Secret("sk-1")


@pytest.fixture
async def upstream() -> AsyncGenerator[FaultyUpstream]:
    async with FaultyUpstream() as server:
        server.plays(answer(200, {"text": "hello"}))
        yield server


@asynccontextmanager
async def client_of(url: str, *, clock: Clock = SYSTEM_CLOCK, **about: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    named = {name: about.pop(name) for name in ("key", "key_header", "key_prefix") if name in about}
    async with http_client(UpstreamPolicy.model_validate(about), url, clock=clock, **named) as client:
        yield client


async def failure_of(work: Any) -> UpstreamFailure:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of_exception says what it is
        await work
    failure = of_exception(caught.value)
    assert failure is not None
    return failure


async def test_the_key_is_put_in_last_and_nobody_elses(upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url, key=KEY) as client:
        theirs = ("X-Api-Key", "api-key", "x-goog-api-key", "Cookie", "Proxy-Authorization")
        headers = {"Authorization": "Bearer x", **dict.fromkeys(theirs, "x=x"), "X-Other": "kept"}
        await client.post(upstream.url + "/v1", headers=headers)
        assert "sk-1" not in repr(client.headers)
    (request,) = upstream.asked
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.headers["x-other"] == "kept"
    assert not {name.lower() for name in theirs} & request.headers.keys()


async def test_the_key_in_another_header(upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url, key=KEY, key_header="X-Api-Key", key_prefix="") as client:
        await client.post(upstream.url, headers={"Authorization": "Bearer x"})
    (request,) = upstream.asked
    assert request.headers["x-api-key"] == "sk-1"
    assert "authorization" not in request.headers


async def test_no_key_no_header(upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url) as client:
        await client.post(upstream.url, headers={"Authorization": "Bearer x"})
    assert "authorization" not in upstream.asked[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int, upstream: FaultyUpstream) -> None:
    async with FaultyUpstream() as other, client_of(upstream.url, key=KEY) as client:
        upstream.plays(answer(status, headers={"location": f"{other.url}/v1"}))
        failure = await failure_of(client.post(upstream.url, follow_redirects=True))
        assert (failure.kind, failure.status) == (FailureKind.MALFORMED, status)
        assert other.asked == []


async def test_a_request_to_another_origin_is_not_sent(upstream: FaultyUpstream) -> None:
    async with FaultyUpstream() as other, client_of(upstream.url, key=KEY) as client:
        for url in (other.url, upstream.url.replace("127.0.0.1", "localhost"), upstream.url.replace("http", "https")):
            assert (await failure_of(client.post(url))).kind is FailureKind.DENIED
        assert other.connections == 0
        assert upstream.asked == other.asked == []


def test_what_is_no_address_of_an_upstream() -> None:
    with pytest.raises(InvalidInput, match="base_url") as caught:
        http_client(UpstreamPolicy(), "http://user:pw@upstream")
    assert caught.value.param == "base_url"
    assert "pw" not in str(caught.value)


async def test_no_cookie_is_kept(upstream: FaultyUpstream) -> None:
    upstream.plays(answer(200, {}, {"set-cookie": "session=1"}))
    async with client_of(upstream.url) as client:
        for _ in range(2):
            await client.post(upstream.url)
        assert not client.cookies
    assert all("cookie" not in request.headers for request in upstream.asked)


async def test_nothing_is_taken_from_the_environment(
    upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with FaultyUpstream() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of(upstream.url) as client:
            await client.post(upstream.url)
        assert proxy.connections == 0
    assert "authorization" not in upstream.asked[0].headers


async def test_a_proxy_that_the_operator_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FaultyUpstream() as proxy:
        proxy.plays(answer(200, {}))
        monkeypatch.setenv("EGRESS", proxy.url)
        async with client_of("http://upstream.example", proxy=SecretRef(env="EGRESS")) as client:
            await client.post("http://upstream.example/v1")
        assert proxy.asked[0].target == "http://upstream.example/v1"


def test_a_proxy_or_authorities_that_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EGRESS", "gopher://me:secret@proxy")
    with pytest.raises(InvalidInput, match="proxy") as caught:
        http_client(UpstreamPolicy(proxy=SecretRef(env="EGRESS")), "http://upstream")
    assert "secret" not in str(caught.value)
    (tmp_path / "ca").write_text("no certificates")
    for name in ("ca", "absent"):
        with pytest.raises(InvalidInput, match="ca_file"):
            http_client(UpstreamPolicy(ca_file=str(tmp_path / name)), "http://upstream")


@pytest.mark.parametrize("size", [10_000, 10_001])
@pytest.mark.parametrize("chunked", [False, True])
async def test_how_long_an_answer_may_be(size: int, chunked: bool, upstream: FaultyUpstream) -> None:
    upstream.plays(parts([b"x" * size], kind="audio/wav") if chunked else answer(200, b"x" * size, kind="audio/wav"))
    async with client_of(upstream.url, max_body_bytes=10_000) as client:
        if size <= 10_000:
            assert len((await client.get(upstream.url)).content) == size
        else:
            assert (await failure_of(client.get(upstream.url))).kind is FailureKind.TOO_LARGE


async def test_an_answer_that_is_too_long_is_hung_up_on_by_itself(upstream: FaultyUpstream) -> None:
    """Whoever reads it may have left it lying."""
    upstream.plays(parts([b"x" * 2000], Exchange.until_left, kind="audio/wav"))
    async with client_of(upstream.url, max_body_bytes=1024) as client:
        response = await client.send(client.build_request("GET", upstream.url), stream=True)
        assert (await failure_of(response.aread())).kind is FailureKind.TOO_LARGE
        await upstream.until(lambda seen: seen.connections == 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_how_long_a_line_may_be(end: bytes, upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url, max_line_bytes=1024) as client:
        line = b"x" * 1000 + end
        upstream.plays(parts([line * 20, line[:500], line[500:], line]))
        assert len((await client.get(upstream.url)).content) == 22 * len(line)
        upstream.plays(parts([line, b"x" * 1000, b"x" * 100 + end]))
        assert (await failure_of(client.get(upstream.url))).kind is FailureKind.TOO_LARGE


async def test_a_long_body_of_an_error_is_not_read_to_its_end(upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url) as client:
        upstream.plays(answer(429, b"x" * 300_000, {"retry-after": "3"}))
        failure = await failure_of(client.get(upstream.url))
        assert (failure.kind, failure.retry_after_s) == (FailureKind.LIMITED, 3.0)
        upstream.plays(answer(400, {"error": {"param": "n"}}))
        response = await client.get(upstream.url)
        assert (response.status_code, response.json()) == (400, {"error": {"param": "n"}})


@pytest.mark.parametrize("packing", ["gzip", "GZIP", "identity, gzip", "br"])
async def test_a_packed_error_is_not_unpacked(packing: str, upstream: FaultyUpstream) -> None:
    """A few bytes would become as many as the upstream likes, and its bound is one of bytes that came."""
    upstream.plays(answer(429, gzip.compress(bytes(10_000_000)), {"content-encoding": packing, "retry-after": "3"}))
    async with client_of(upstream.url) as client:
        failure = await failure_of(client.get(upstream.url))
        assert (failure.kind, failure.retry_after_s) == (FailureKind.LIMITED, 3.0)


@pytest.mark.parametrize(
    "step",
    [
        answer(200, b"<p>", kind="text/html"),
        answer(200, b"<p>", kind="Text/HTML; charset=utf-8"),
        answer(200, b"\x1f\x8b", {"content-encoding": "gzip"}),
        answer(304),
    ],
)
async def test_what_no_api_answers(step: Any, upstream: FaultyUpstream) -> None:
    upstream.plays(step)
    async with client_of(upstream.url) as client:
        failure = await failure_of(client.get(upstream.url))
        assert (failure.kind, failure.retryable) == (FailureKind.MALFORMED, False)
        await upstream.until(lambda seen: seen.connections == 0)
    assert upstream.asked[0].headers["accept-encoding"] == "identity"


async def test_an_answer_that_never_begins(upstream: FaultyUpstream) -> None:
    clock = HandClock()
    upstream.plays(silence)
    async with client_of(upstream.url, clock=clock, first_byte_s=10.0) as client:
        task = asyncio.create_task(failure_of(client.get(upstream.url, timeout=0.001)))
        await upstream.until(lambda seen: seen.busy == 1)
        await _require_patience(10.0, task, clock, upstream)


async def test_an_answer_that_stops(upstream: FaultyUpstream) -> None:
    clock = HandClock()
    upstream.plays(parts([b"data: 1\n\n"], Exchange.until_left))
    async with (
        client_of(upstream.url, clock=clock, first_byte_s=1.0, between_tokens_s=10.0) as client,
        client.stream("GET", upstream.url) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == "data: 1"
        task = asyncio.create_task(failure_of(_rest(lines)))
        await quiescence()
        await _require_patience(10.0, task, clock, upstream)


async def _require_patience(
    seconds: float, task: asyncio.Task[UpstreamFailure], clock: HandClock, upstream: FaultyUpstream
) -> None:
    """The silence is given up after so long and not before, and the connection with it."""
    clock.advance(seconds - 0.1)
    await quiescence()
    assert not task.done()
    clock.advance(0.1)
    assert (await task).kind is FailureKind.SILENT
    await upstream.until(lambda seen: seen.connections == 0)


async def _rest(lines: Any) -> None:
    async for _ in lines:
        pass


async def test_a_slow_drip_keeps_an_answer_alive(upstream: FaultyUpstream) -> None:
    clock = HandClock()
    more = asyncio.Event()

    async def drip(exchange: Exchange) -> None:
        for _ in range(20):
            await more.wait()
            more.clear()
            await exchange.chunk(b"x")
        await exchange.last_chunk()

    upstream.plays(parts([b"x"], drip, kind="audio/wav"))
    got = b""
    async with (
        client_of(upstream.url, clock=clock, between_tokens_s=10.0) as client,
        client.stream("GET", upstream.url) as response,
    ):
        async for data in response.aiter_raw():
            got += data
            clock.advance(9.0)
            more.set()
    assert got == b"x" * 21


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_leaves_closes_the_connection(streamed: bool, upstream: FaultyUpstream) -> None:
    upstream.plays(parts([b"x"], Exchange.until_left) if streamed else silence)
    async with client_of(upstream.url) as client:
        task = asyncio.create_task(client.get(upstream.url))
        await upstream.until(lambda seen: seen.busy == 1)
        await quiescence()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.until(lambda seen: seen.connections == 0)


async def test_connections_are_used_again(upstream: FaultyUpstream) -> None:
    async with client_of(upstream.url) as client:
        for _ in range(5):
            await client.get(upstream.url)
        assert upstream.connections == 1
    await upstream.until(lambda seen: seen.connections == 0)


async def test_a_host_that_does_not_exist() -> None:
    async with client_of("http://upstream.invalid") as client:
        failure = await failure_of(client.get("http://upstream.invalid/"))
    assert (failure.kind, failure.retryable) == (FailureKind.REFUSED, True)


async def test_who_connects_to_nobody_waits_for_as_long_as_the_policy_says() -> None:
    """A listener whose queue is full, so that the kernel answers nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, suppress(BlockingIOError):
        address = listener.getsockname()
        held = [socket.socket() for _ in range(4)]
        for taken in held:
            taken.setblocking(False)
            taken.connect_ex(address)
        try:
            async with client_of(f"http://127.0.0.1:{address[1]}", connect_s=0.05) as client:
                failure = await failure_of(client.get(f"http://127.0.0.1:{address[1]}/"))
        finally:
            for taken in held:
                taken.close()
        assert failure.kind is FailureKind.REFUSED


async def test_a_certificate_of_nobody_is_refused_unless_the_operator_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = _certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # the environment's word is not the operator's
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with FaultyUpstream(tls=context) as upstream:
        upstream.plays(answer(200, {}))
        async with client_of(upstream.url) as client:
            failure = await failure_of(client.get(upstream.url))
            assert (failure.kind, failure.retryable) == (FailureKind.REFUSED, False)
            assert upstream.asked == []
        async with client_of(upstream.url, ca_file=str(cert)) as client:
            assert (await client.get(upstream.url)).status_code == 200


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstream")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.mark.parametrize("name", ["openai._base_client", "anthropic._base_client", "huggingface_hub.utils._http"])
def test_what_libraries_write_of_requests_is_kept_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    keep_bodies_out()
    keep_bodies_out()
    logger = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, name):
        logger.debug("Request options: a prompt")
        logger.info("seen")
    assert [record.getMessage() for record in caplog.records] == ["seen"]
