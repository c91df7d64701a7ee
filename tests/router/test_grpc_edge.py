"""Who is let in over gRPC, what is refused before anything is read, and what is counted and logged of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from deployments.router import grpc_edge
from deployments.router.keys import Key, Keys, mint_key
from deployments.router.protocols.open_inference.grpc_proto import SERVICE
from tests.router.grpc_front import Caller, failure, infer_request, listening, until
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import DeadlineExceeded, InvalidInput, NotReady, Overloaded, WorkflowError, error_types

CODE = grpc.StatusCode
INFER = f"/{SERVICE}/ModelInfer"


def keys_of(*keys: Key) -> Keys:
    return Keys(keys)


def house(client: ScriptedClient | None = None) -> Front:
    front = Front()
    front.add("m", client, kind="tensors")
    return front


# ---- keys ------------------------------------------------------------------------------------------------------------------


USER, USERS = mint_key("user", workflows=["m"])
OPERATOR, OPERATORS = mint_key("ops", "operator")
KEYS = keys_of(USERS, OPERATORS)


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", f"Bearer {USER}")],
        [("authorization", f"bearer {USER}")],
        [("x-api-key", USER)],
        [("x-api-key", USER), ("authorization", f"Bearer {USER}")],
    ],
)
async def test_a_key_opens(metadata: Any) -> None:
    front = house()
    async with listening(front, KEYS) as it, it.caller() as caller:
        await caller.call("ModelInfer", infer_request(), metadata)
    assert front.lines.last["key"] == "user"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer ")],
        [("authorization", USER)],
        [("authorization", f"Basic {USER}")],
        [("authorization", f"Bearer {USER}x")],
        [("authorization", f"Bearer {USER}"), ("authorization", f"Bearer {USER}")],
        [("x-api-key", USER), ("x-api-key", USER)],
        [("x-api-key", USER), ("authorization", f"Bearer {OPERATOR}")],
        [("x-api-key", "x" * 4000)],
        [("api-key", USER)],
        [("x-api-key-bin", USER.encode())],
    ],
)
async def test_without_a_right_key_there_is_one_answer(metadata: Any) -> None:
    front = house()
    async with listening(front, KEYS) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", infer_request(), metadata))
    assert (error.code(), error.details()) == (CODE.UNAUTHENTICATED, "a valid API key is needed")
    assert (front.lines.last["code"], front.lines.last["key"], front.lines.last["bytes_in"]) == ("unauth", "none", 0)


async def test_the_key_is_asked_for_before_any_message_is_taken() -> None:
    async with listening(house(), KEYS) as it, it.caller() as caller:
        call = caller.channel.stream_unary(INFER)()  # and no message is sent
        assert await call.code() == CODE.UNAUTHENTICATED


async def test_health_of_the_server_needs_no_key() -> None:
    async with listening(house(), KEYS) as it, it.caller() as caller:
        assert (await caller.ask("ServerLive")).live
        assert (await caller.ask("ServerReady")).ready
        for name in ("ServerMetadata", "ModelReady", "ModelMetadata"):
            assert (await failure(caller.ask(name))).code() == CODE.UNAUTHENTICATED


async def test_a_key_for_some_models_finds_no_others() -> None:
    front = house()
    front.add("other", kind="tensors")
    async with listening(front, KEYS) as it, it.caller() as caller:
        absent = await failure(caller.call("ModelInfer", infer_request("absent"), [("x-api-key", USER)]))
        other = await failure(caller.call("ModelInfer", infer_request("other"), [("x-api-key", USER)]))
        await caller.call("ModelInfer", infer_request("other"), [("x-api-key", OPERATOR)])
    assert (other.code(), other.details()) == (absent.code(), absent.details()) == (CODE.NOT_FOUND, "model not found")


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:40000", True),
        ("ipv4:127.8.9.1:40000", True),
        ("ipv6:%5B::1%5D:40000", True),
        ("ipv6:[::1]:40000", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:40000", True),
        ("unix:", True),
        ("ipv4:10.0.0.1:40000", False),
        ("ipv4:127.0.0.1.evil:40000", False),
        ("ipv6:%5B2001:db8::1%5D:40000", False),
        ("ipv6:%5B::ffff:10.0.0.1%5D:40000", False),
        ("", False),
        ("vsock:1:2", False),
    ],
)
def test_who_is_on_this_machine(peer: str, local: bool) -> None:
    assert grpc_edge._is_local(peer) is local


class FromElsewhere:
    """What gRPC says of a call from another machine, and what is said to it."""

    def __init__(self, metadata: Any = (), peer: str = "ipv4:10.0.0.1:40000") -> None:
        self.metadata = metadata
        self.come_from = peer
        self.said: tuple[Any, ...] = ()

    def invocation_metadata(self) -> Any:
        return self.metadata

    def peer(self) -> str:
        return self.come_from

    async def read(self) -> bytes:
        return b""

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.said = (CODE.OK, "")

    async def abort(self, code: Any, details: str, metadata: Any) -> None:
        self.said = (code, details)


async def test_without_keys_other_machines_are_refused() -> None:
    async def ask(it: Any, name: str, metadata: Any = ()) -> tuple[Any, ...]:
        context = FromElsewhere(metadata)
        details = SimpleNamespace(method=f"/{SERVICE}/{name}")
        await it.edge.service(details).stream_unary(None, context)
        return context.said

    async with listening(house()) as it:
        assert await ask(it, "ServerLive") == (CODE.OK, "")
        local_only = "without API keys this server answers its own machine only"
        assert await ask(it, "ServerMetadata") == (CODE.PERMISSION_DENIED, local_only)
    async with listening(house(), KEYS) as it:
        assert await ask(it, "ServerMetadata", [("x-api-key", USER)]) == (CODE.OK, "")


async def test_who_has_left_before_being_asked_is_not_taken_for_another_machine() -> None:
    front = house()
    async with listening(front) as it:
        context = FromElsewhere(peer="")
        await it.edge.service(SimpleNamespace(method=INFER)).stream_unary(None, context)
    assert context.said[0] == CODE.CANCELLED
    assert front.lines.last["code"] == "cancelled"


async def test_over_ipv6() -> None:
    async with listening(house(), host="::1") as it, it.caller() as caller:
        await caller.call("ModelInfer", infer_request())


# ---- what is no call -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/ModelConfig",
        "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
        "/inference.GRPCInferenceService/",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/ray.serve.RayServeAPIService/ListApplications",
    ],
)
async def test_there_is_no_other_method(path: str) -> None:
    front = house()
    async with listening(front, KEYS) as it, it.caller() as caller:
        error = await failure(caller.channel.unary_unary(path)(b"", metadata=[("application", "m")]))
    assert (error.code(), error.details()) == (CODE.UNIMPLEMENTED, "no such method")
    assert (front.lines.last["route"], front.lines.last["code"]) == ("", "no_route")


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x02\xff\xff", b"\x2a\x00" * 40_000])
async def test_what_is_no_message_is_refused(message: bytes) -> None:
    async with listening(house()) as it, it.caller() as caller:
        for name in ("ModelInfer", "ModelMetadata"):
            error = await failure(caller.call(name, message if name == "ModelInfer" else b"\xff"))
            assert error.code() == CODE.INVALID_ARGUMENT
            assert error.details() == "the request is not a message that this method takes"


async def test_a_call_without_a_message_is_refused() -> None:
    front = house()
    async with listening(front) as it, it.caller() as caller:
        call = caller.channel.stream_unary(INFER)()
        await call.done_writing()
        assert await call.code() == CODE.INVALID_ARGUMENT
    assert front.lines.last["code"] == "parse"


async def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    front = house()
    async with listening(front, limits={"body_s": 0.05}) as it, it.caller() as caller:
        call = caller.channel.stream_unary(INFER)()
        assert await call.code() == CODE.DEADLINE_EXCEEDED
        assert await call.details() == "the message did not arrive in time"
    assert front.lines.last["code"] == "slow_body"


async def test_a_message_that_is_too_large_is_refused() -> None:
    front = house()
    async with listening(front, limits={"max_body_bytes": 1000}) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", b"\x1a" + bytes(1000)))
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        await caller.call("ModelInfer", infer_request())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_refused(compression: Any) -> None:
    async with listening(house()) as it, it.caller() as caller:
        method = caller.channel.unary_unary(INFER)
        request = infer_request(id="x" * 200).SerializeToString()
        error = await failure(method(request, compression=compression))
        assert error.code() == CODE.UNIMPLEMENTED


async def test_large_metadata_are_refused() -> None:
    async with listening(house(), limits={"max_header_bytes": 8192}) as it, it.caller() as caller:
        error = await failure(caller.call("ModelInfer", infer_request(), [("x-large", "x" * 9000)]))
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        await caller.call("ModelInfer", infer_request(), [("x-large", "x" * 4000)])


async def test_calls_beyond_the_bound_are_refused_at_once() -> None:
    go = asyncio.Event()

    async def waits(input_data: Any, call: CallContext) -> Any:
        await go.wait()
        return {"outputs": input_data["inputs"]}

    front = house(ScriptedClient(waits))
    async with listening(front, grpc={"max_calls": 2}) as it, it.caller() as caller:
        first = [caller.call("ModelInfer", infer_request()) for _ in range(2)]
        await until(lambda: it.edge.running == 2)
        error = await failure(caller.call("ModelInfer", infer_request()))
        assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "too many calls are open")
        assert dict(error.trailing_metadata())["retry-after"] == "1"
        go.set()
        await asyncio.gather(*first)
        await until(lambda: it.edge.running == 0)
        await caller.call("ModelInfer", infer_request())


# ---- ids, headers, counts --------------------------------------------------------------------------------------------------


async def request_id(caller: Caller, metadata: Any) -> Any:
    call = caller.call("ModelInfer", infer_request(), metadata)
    await call
    return dict(await call.trailing_metadata())["x-request-id"]


async def test_every_answer_has_a_request_id() -> None:
    seen: list[str] = []

    async def keeps(input_data: Any, call: CallContext) -> Any:
        seen.append(call.request_id)
        return {"outputs": input_data["inputs"]}

    front = house(ScriptedClient(keeps))
    async with listening(front) as it, it.caller() as caller:
        assert await request_id(caller, [("x-request-id", "mine.1")]) == "mine.1"
        assert seen[0].startswith("mine.1.")
        for wrong in ("x" * 65, "a b", "[31m"):
            own = await request_id(caller, [("x-request-id", wrong)])
            assert len(own) == 32
            assert seen[-1] == own == front.lines.last["request_id"]
        error = await failure(caller.call("ModelInfer", infer_request("none"), [("x-request-id", "mine.2")]))
        assert dict(error.trailing_metadata())["x-request-id"] == "mine.2"
        answers = caller.conversation([("x-request-id", "mine.3")])
        assert dict(await answers.initial_metadata())["x-request-id"] == "mine.3"
        answers.cancel()


async def test_a_workflow_hears_of_the_trace_and_the_key_and_of_no_control_headers() -> None:
    client = ScriptedClient()
    front = house(client)
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    metadata = [
        ("x-api-key", USER),
        ("traceparent", trace),
        ("x-session-id", "s"),
        ("x-conversation-id", "c"),
        ("multiplexed_model_id", "x"),
        ("x-request-timeout-seconds", "0"),
    ]
    async with listening(front, KEYS) as it, it.caller() as caller:
        await caller.call("ModelInfer", infer_request(), metadata)
    (call,) = client.calls
    assert (call.key_id, call.traceparent, call.session_id) == ("user", trace, "c")


async def test_calls_are_counted_and_logged() -> None:
    front = house()
    async with listening(front) as it, it.caller() as caller:
        await caller.call("ModelInfer", infer_request())
        line = front.lines.last
        await failure(caller.call("ModelInfer", infer_request("none")))
        failed = front.lines.last
    expected = {"method": "POST", "route": INFER, "protocol": "open_inference_grpc", "key": "anyone"}
    assert expected.items() <= line.items()
    assert (line["workflow"], line["status"], line["code"]) == ("m", 0, "ok")
    assert line["bytes_in"] > 0
    assert line["bytes_out"] > 0
    assert (failed["workflow"], failed["status"], failed["code"]) == ("", CODE.NOT_FOUND.value[0], "no_model")
    text = front.metrics.exposition().decode()
    for workflow, code in (("m", "ok"), ("", "no_model")):
        labels = f'protocol="open_inference_grpc",replica="0",workflow="{workflow}"'
        assert any(f'code="{code}"' in row and labels in row for row in text.splitlines()), text


# ---- errors ----------------------------------------------------------------------------------------------------------------


async def error_for(error: Exception) -> tuple[Any, Front]:
    async def fails(input_data: Any, call: CallContext) -> Any:
        raise error

    front = house(ScriptedClient(fails))
    async with listening(front) as it, it.caller() as caller:
        return await failure(caller.call("ModelInfer", infer_request())), front


EXPECTED = {
    "invalid": CODE.INVALID_ARGUMENT,
    "context": CODE.INVALID_ARGUMENT,
    "forbidden": CODE.PERMISSION_DENIED,
    "no_model": CODE.NOT_FOUND,
    "conflict": CODE.ALREADY_EXISTS,
    "limited": CODE.RESOURCE_EXHAUSTED,
    "overload": CODE.UNAVAILABLE,
    "loading": CODE.UNAVAILABLE,
    "deadline": CODE.DEADLINE_EXCEEDED,
    "cancelled": CODE.CANCELLED,
    "upstream": CODE.UNAVAILABLE,
    "bad_output": CODE.INTERNAL,
    "internal": CODE.INTERNAL,
}


@pytest.mark.parametrize("kind", error_types(), ids=lambda kind: kind.__name__)
async def test_every_error_has_its_status(kind: type[WorkflowError]) -> None:
    error, front = await error_for(kind("no"))
    assert error.code() == EXPECTED[kind.code]
    assert error.details() == ("internal error" if kind.code == "internal" else "no")
    assert (front.lines.last["code"], front.lines.last["status"]) == (kind.code, error.code().value[0])


async def test_a_fault_of_ours_says_nothing_but_that_it_is_one(caplog: pytest.LogCaptureFixture) -> None:
    error, front = await error_for(KeyError("/secret/path"))
    assert (error.code(), error.details()) == (CODE.INTERNAL, "internal error")
    assert "secret" not in str(error.trailing_metadata())
    assert front.lines.last["code"] == "internal"
    (record,) = [record for record in caplog.records if record.name == grpc_edge.__name__]
    assert record.exc_info is not None
    assert "/secret/path" in caplog.text


async def test_when_to_try_again_is_said_twice() -> None:
    for wrong, after, pushback in (
        (Overloaded(retry_after_s=0.2), "1", "200"),
        (NotReady(retry_after_s=2), "2", "2000"),
    ):
        error, _ = await error_for(wrong)
        trailers = dict(error.trailing_metadata())
        assert (trailers["retry-after"], trailers["grpc-retry-pushback-ms"]) == (after, pushback)
    error, _ = await error_for(DeadlineExceeded(may_have_run=True))
    trailers = dict(error.trailing_metadata())
    assert (trailers["x-should-retry"], trailers["grpc-retry-pushback-ms"]) == ("false", "-1")
    error, _ = await error_for(InvalidInput())
    assert set(dict(error.trailing_metadata())) == {"x-request-id"}


async def test_a_message_may_hold_any_text() -> None:
    error, _ = await error_for(InvalidInput("é\n\x1b[31m\ud800" * 200))
    assert error.details() == ("é\n\x1b[31m?" * 200)[:512]
