"""gRPC over TLS: who is trusted by whom, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from deployments.config import GrpcArgs, TlsArgs
from deployments.router.grpc_listener import GrpcListener
from deployments.router.keys import Keys, mint_key
from deployments.router.tls import server_credentials
from tests.router.certificates import Authority, Signed
from tests.router.grpc_front import failure, infer_edge, infer_request, listening
from tests.router.router_front import Front

CODE = grpc.StatusCode


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def house() -> Front:
    front = Front()
    front.add("m", kind="tensors")
    return front


def args(server: Signed, **more: Any) -> dict[str, Any]:
    return {"tls": {"cert_file": server.cert_file, "key_file": server.key_file, **more}}


async def test_calls_are_encrypted(authority: Authority) -> None:
    trusting = grpc.ssl_channel_credentials(authority.own.cert)
    async with listening(house(), grpc=args(authority.sign("server"))) as it:
        async with it.caller(trusting) as caller:
            assert (await caller.call("ModelInfer", infer_request())).model_name == "m"
        async with it.caller() as plain:
            assert (await failure(plain.ask("ServerLive"))).code() == CODE.UNAVAILABLE
        async with it.caller(grpc.ssl_channel_credentials()) as elsewhere:
            assert (await failure(elsewhere.ask("ServerLive"))).code() == CODE.UNAVAILABLE


async def test_callers_may_need_a_certificate_and_need_their_key_all_the_same(
    authority: Authority, tmp_path: Path
) -> None:
    client, (secret, key) = authority.sign("client"), mint_key("user")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").sign("client")
    server = args(authority.sign("server"), client_ca_file=authority.own.cert_file)
    async with listening(house(), Keys([key]), grpc=server) as it:
        known = grpc.ssl_channel_credentials(authority.own.cert, client.key, client.cert)
        async with it.caller(known) as caller:
            assert (await caller.ask("ServerLive")).live
            assert (await failure(caller.ask("ServerMetadata"))).code() == CODE.UNAUTHENTICATED
            await caller.ask("ServerMetadata", [("x-api-key", secret)])
        for wrong in (
            grpc.ssl_channel_credentials(authority.own.cert),
            grpc.ssl_channel_credentials(authority.own.cert, stranger.key, stranger.cert),
        ):
            async with it.caller(wrong) as caller:
                assert (await failure(caller.ask("ServerLive"))).code() == CODE.UNAVAILABLE


async def test_a_listener_without_its_files_does_not_start(authority: Authority) -> None:
    tls = TlsArgs(cert_file="/nowhere/cert.pem", key_file=authority.own.key_file)
    listening_args = GrpcArgs(port=0, tls=tls)
    edge, limits = infer_edge(house(), listening_args)
    listener = GrpcListener(edge, "127.0.0.1", listening_args, limits=limits, owner="us")
    with pytest.raises(ValueError, match=r"^cert_file: cannot read /nowhere/cert\.pem: No such file or directory$"):
        await listener.start(1)


def test_files_that_are_not_what_they_should_be(authority: Authority, tmp_path: Path) -> None:
    server, other = authority.sign("server"), authority.sign("other")
    hidden = authority.sign("hidden", password=b"secret")
    noise = tmp_path / "noise.pem"
    noise.write_bytes(b"\x00noise")
    wrong = [
        (server.cert_file, other.key_file, None, "key_file: "),
        (str(noise), server.key_file, None, "key_file: "),
        (server.cert_file, str(noise), None, "key_file: "),
        (hidden.cert_file, hidden.key_file, None, "key_file: "),
        (server.cert_file, "/nowhere", None, "key_file: cannot read /nowhere"),
        (server.cert_file, str(tmp_path), None, "key_file: cannot read"),
        (server.cert_file, server.key_file, str(noise), "client_ca_file: "),
        (server.cert_file, server.key_file, "/nowhere", "client_ca_file: cannot read /nowhere"),
    ]
    for cert, key, ca, said in wrong:
        with pytest.raises(ValueError, match=f"^{said}") as caught:
            server_credentials(TlsArgs(cert_file=cert, key_file=key, client_ca_file=ca))
        assert "\n" not in str(caught.value)
    server_credentials(TlsArgs(**vars(server), client_ca_file=authority.own.cert_file))
