"""What gRPC itself must not write into our logs."""

from __future__ import annotations

import asyncio
import logging
import struct

import pytest

from deployments.router.grpc_logs import quieten
from deployments.router.keys import Keys, mint_key
from tests.router.grpc_front import infer_request, listening, until
from tests.router.raw_http2 import RawHttp2
from tests.router.router_front import Front

INFER = b"/inference.GRPCInferenceService/ModelInfer"
SECRET = b"\xffsecret"
GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")


async def test_what_is_no_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    front = Front()
    front.add("m", kind="tensors")
    message = infer_request().SerializeToString()
    _, key = mint_key("user")
    async with listening(front, Keys([key])) as it:
        reader, writer = await asyncio.open_connection(*it.listener.address)
        raw = RawHttp2(reader, writer)
        assert b"grpc-status\x0216" in await raw.ask(INFER, message, [(b"x-api-key", SECRET)])
        assert front.lines.last["code"] == "unauth"
        assert b"grpc-status" in await raw.ask(b"/" + SECRET, message)
        writer.close()
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_who_leaves_while_the_answer_is_on_its_way_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    front = Front()
    front.add("m", kind="tensors")
    async with listening(front) as it:
        reader, writer = await asyncio.open_connection(*it.listener.address)
        no_window = struct.pack(">HI", 4, 0)
        raw = RawHttp2(reader, writer, no_window)
        asking = asyncio.create_task(raw.ask(INFER, infer_request().SerializeToString()))
        await until(lambda: bool(front.lines.texts))
        assert it.edge.running == 1
        writer.transport.abort()
        await until(lambda: it.edge.running == 0)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asking
    assert "Traceback" not in caplog.text


def test_what_grpc_has_to_say_of_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    quieten()
    try:
        raise RuntimeError
    except RuntimeError:
        GRPC_LOG.exception("a fault")
    GRPC_LOG.warning("a warning")
    assert [record.message for record in caplog.records] == ["a fault", "a warning"]
