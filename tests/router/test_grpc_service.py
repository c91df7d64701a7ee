"""What models answer over gRPC, one request to a call."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc
import numpy as np
import pytest

from tests.router.grpc_front import RPCS, failure, infer_request, listening, text_request, until
from tests.router.router_front import Front, ScriptedClient
from workflows.card import Preserved
from workflows.context import CallContext
from workflows.errors import NotReady, UpstreamFailed

CODE = grpc.StatusCode
ABSENT: list[dict[str, Any]] = [{"name": "absent"}, {"name": ""}, {"name": "m", "version": "2"}]


async def continues(input_data: Any, call: CallContext) -> Any:
    """What a text workflow answers."""
    return {
        "text": input_data["prompt"] + "!",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": input_data["sampling"].get("max_tokens", 0)},
    }


async def test_health_and_metadata() -> None:
    front = Front()
    front.add("m", kind="tensors")
    front.add("text", kind="generate")
    front.add("broken", state="failed", reason="no file", with_card=False)
    async with listening(front) as it, it.caller() as caller:
        assert (await caller.ask("ServerLive")).live
        assert (await caller.ask("ServerReady")).ready
        assert (await caller.ask("ServerMetadata")).name == "infernet-serve"
        assert (await caller.ask("ModelReady", name="m", version="1")).ready
        assert not (await caller.ask("ModelReady", name="broken")).ready
        described = await caller.ask("ModelMetadata", name="text")
        assert (described.name, described.versions, described.platform) == ("text", ["1"], "infernet_generate")
        assert [(i.name, i.datatype, i.shape) for i in described.inputs] == [("text_input", "BYTES", [-1])]
        assert [output.name for output in described.outputs] == [
            "text_output",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
        ]
        error = await failure(caller.ask("ModelMetadata", name="broken"))
        assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "broken is failed: no file")
        for name in ("ModelReady", "ModelMetadata"):
            for fields in ABSENT:
                assert (await failure(caller.ask(name, **fields))).code() == CODE.NOT_FOUND


async def test_who_has_answered_is_told_in_metadata() -> None:
    async def fails(input_data: Any, call: CallContext) -> Any:
        raise UpstreamFailed

    front = Front()
    front.add("api", ScriptedClient(fails), kind="tensors")
    front.add("local", kind="tensors")
    kept = Preserved(contract="the same")
    for name, fallbacks in (("api", ["local"]), ("local", [])):
        entry = front.directory.find(name)
        assert entry.card is not None
        entry.card = entry.card.model_copy(update={"fallbacks": fallbacks, "preserves": kept})
    async with listening(front) as it, it.caller() as caller:
        for name, marks in (
            ("local", {"x-served-by": "local"}),
            ("api", {"x-served-by": "local", "x-degraded": "true"}),
        ):
            call = caller.call("ModelInfer", infer_request(name))
            assert (await call).model_name == name
            told = dict(await call.trailing_metadata())
            assert {key: told[key] for key in told.keys() & {"x-served-by", "x-degraded"}} == marks
    assert [line["served_by"] for line in map(json.loads, front.lines.texts)] == [["local"], ["local"]]


async def test_the_server_is_not_ready_while_it_drains() -> None:
    async with listening() as it, it.caller() as caller:
        it.edge.drain()
        assert not (await caller.ask("ServerReady")).ready
        assert (await caller.ask("ServerLive")).live


@pytest.mark.parametrize("raw", [True, False])
async def test_tensors_are_answered_as_they_came(raw: bool) -> None:
    seen: list[Any] = []

    async def keeps(input_data: Any, call: CallContext) -> Any:
        seen.append(input_data)
        return {"outputs": {"y": input_data["inputs"]["x"] * 2}, "parameters": {"seen": 1}}

    front = Front()
    front.add("m", ScriptedClient(keeps), kind="tensors", aliases=["org/m"])
    request = infer_request("org/m", id="a", model_version="1")
    request.parameters["p"].string_param = "q"
    request.outputs.add(name="y")
    if not raw:
        request.ClearField("raw_input_contents")
        request.inputs[0].contents.fp32_contents.extend([1.5, 2.5])
    async with listening(front) as it, it.caller() as caller:
        answer = await caller.call("ModelInfer", request)
    assert (seen[0]["outputs"], seen[0]["parameters"]) == (["y"], {"p": "q"})
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "a")
    assert answer.parameters["seen"].int64_param == 1
    (output,) = answer.outputs
    assert (output.name, output.datatype, output.shape) == ("y", "FP32", [1, 2])
    if raw:
        assert list(answer.raw_output_contents) == [np.array([3, 5], np.float32).tobytes()]
    else:
        assert (list(output.contents.fp32_contents), list(answer.raw_output_contents)) == ([3.0, 5.0], [])


async def test_ten_megabytes_go_there_and_back() -> None:
    front = Front()
    front.add("m", kind="tensors")
    numbers = np.arange(10 << 18, dtype=np.float32).reshape(-1, 2)
    async with listening(front) as it:
        options = {"grpc.max_receive_message_length": -1}
        async with it.caller(options=options) as caller:
            answer = await caller.call("ModelInfer", infer_request(array=numbers))
    assert answer.raw_output_contents[0] == numbers.tobytes()


async def test_texts_in_and_out_of_every_kind() -> None:
    front = Front()
    front.add("text", ScriptedClient(continues), kind="generate")
    front.add("json")
    async with listening(front) as it, it.caller() as caller:
        request = text_request("text", "a", "bé")
        request.parameters["max_tokens"].int64_param = 7
        answer = await caller.call("ModelInfer", request)
        found = {output.name: output for output in answer.outputs}
        assert list(found["text_output"].contents.bytes_contents) == [b"a!", "bé!".encode()]
        assert list(found["finish_reason"].contents.bytes_contents) == [b"stop", b"stop"]
        assert list(found["completion_tokens"].contents.int64_contents) == [7, 7]
        answer = await caller.call("ModelInfer", text_request("json", '{"a": 1}', field="input"))
        assert list(answer.outputs[0].contents.bytes_contents) == [b'{"a":1}']
        error = await failure(caller.call("ModelInfer", text_request("json", "{", field="input")))
        assert (error.code(), error.details()) == (
            CODE.INVALID_ARGUMENT,
            "tensor 'input': element 0 is no JSON document",
        )


async def test_a_wrong_request_is_told_what_is_wrong_and_never_runs() -> None:
    client = ScriptedClient()
    front = Front()
    front.add("m", client, kind="tensors")
    request = infer_request()
    request.raw_input_contents[0] += b"x"
    async with listening(front) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", request))
    assert (error.code(), error.details()) == (CODE.INVALID_ARGUMENT, "tensor 'x': expected 8 bytes, got 9")
    assert client.calls == []


async def test_a_model_that_never_was_ready_is_loading() -> None:
    front = Front()
    front.add("m", state="loading", with_card=False)
    async with listening(front) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", infer_request()))
    assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "m is loading")
    assert dict(error.trailing_metadata())["retry-after"] == str(int(NotReady(retry_after_s=2).retry_after_s or 0))


# ---- time and callers who leave --------------------------------------------------------------------------------------------


class Waiting:
    """A workflow that answers nothing, and says when it was given up."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.given_up = asyncio.Event()
        self.seconds: float | None = None
        self.client = ScriptedClient(self._answer)
        self.front = Front()
        self.front.add("m", self.client, kind="tensors")

    async def _answer(self, input_data: Any, call: CallContext) -> Any:
        self.seconds = call.seconds_left()
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert call.cancelled
            self.given_up.set()


async def test_who_cancels_stops_the_work() -> None:
    waiting = Waiting()
    async with listening(waiting.front) as it, it.caller() as caller:
        call = caller.call("ModelInfer", infer_request())
        asking = asyncio.ensure_future(failure_or_cancelled(call))
        await waiting.began.wait()
        call.cancel()
        async with asyncio.timeout(5):
            await waiting.given_up.wait()
            await asking
            await until(lambda: waiting.front.lines.texts != [])
    line = waiting.front.lines.last
    assert (line["code"], line["status"], line["workflow"]) == ("cancelled", CODE.CANCELLED.value[0], "m")


async def failure_or_cancelled(call: Any) -> None:
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await call


async def test_who_is_gone_with_the_connection_stops_the_work() -> None:
    waiting = Waiting()
    async with listening(waiting.front) as it:
        async with it.caller() as caller:
            asking = asyncio.ensure_future(failure_or_cancelled(caller.call("ModelInfer", infer_request())))
            await waiting.began.wait()
        async with asyncio.timeout(5):
            await waiting.given_up.wait()
            await asking


async def test_the_deadline_of_a_call_is_kept() -> None:
    waiting = Waiting()
    async with listening(waiting.front) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", infer_request(), timeout=0.3))
        assert error.code() == CODE.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            await waiting.given_up.wait()
        await until(lambda: waiting.front.lines.texts != [])
    assert waiting.front.lines.last["code"] == "deadline"
    assert waiting.seconds is not None
    assert 0 < waiting.seconds <= 0.3


@pytest.mark.parametrize("how", ["parameter", "header"])
async def test_a_caller_may_shorten_its_deadline(how: str) -> None:
    waiting = Waiting()
    request = infer_request()
    if how == "parameter":
        request.parameters["timeout"].int64_param = 50_000
    metadata = [("x-deadline-s", "0.05")] if how == "header" else []
    async with listening(waiting.front) as it, it.caller() as caller:
        began = time.monotonic()
        error = await failure(caller.call("ModelInfer", request, metadata))
    assert (error.code(), error.details()) == (CODE.DEADLINE_EXCEEDED, "deadline exceeded")
    assert dict(error.trailing_metadata())["x-should-retry"] == "false"
    assert time.monotonic() - began < 5
    assert waiting.seconds is not None
    assert waiting.seconds <= 0.05


async def test_the_servers_own_deadline_holds_for_callers_without_one() -> None:
    waiting = Waiting()
    async with listening(waiting.front, limits={"deadline_s": 0.05}) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", infer_request(), timeout=None))
    assert error.code() == CODE.DEADLINE_EXCEEDED


@pytest.mark.parametrize("name", [name for name in RPCS if name not in ("ModelInfer", "ModelStreamInfer")])
async def test_a_request_without_tensors_is_small(name: str) -> None:
    a_parameter = b"\x1a\x07\x0a\x01%c\x12\x02\x08\x01"
    many = b"".join(a_parameter % (65 + index % 26) for index in range(10_000))
    async with listening(Front()) as it, it.caller() as caller:
        error = await failure(caller.call(name, many))
    assert (error.code(), error.details()) == (CODE.RESOURCE_EXHAUSTED, "a request of this method may take 65536 bytes")
