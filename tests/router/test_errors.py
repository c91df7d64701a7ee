"""Every error has exactly one answer in every protocol: status, headers and body."""

import json
from typing import Any

import pytest

from deployments.router import refusals
from deployments.router.protocols.tables import GRPC, NATIVE, OPEN_INFERENCE, OPENAI, TGI, ErrorTable, GrpcErrorTable
from deployments.router.refusals import MethodNotAllowed, TooLarge, Unauthenticated, UnsupportedMediaType
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import (
    BadOutput,
    Cancelled,
    Conflict,
    ContextTooLong,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    RateLimited,
    ReplicaLost,
    Unloaded,
    Unsupported,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
    error_types,
)

TABLES = [NATIVE, OPEN_INFERENCE, OPENAI, TGI, GRPC]
TREE = [kind for kind in error_types() if kind.__module__ == "workflows.errors"]
REFUSALS: list[type[WorkflowError]] = [getattr(refusals, name) for name in refusals.__all__]
ANSWERS: list[tuple[WorkflowError, int, str, bool]] = [
    (InvalidInput("no"), 400, "invalid", False),
    (ContextTooLong("no"), 400, "context", False),
    (Unsupported("no"), 400, "invalid", False),
    (PermissionDenied("no"), 403, "forbidden", False),
    (ModelNotFound("no"), 404, "no_model", False),
    (Conflict("no"), 409, "conflict", False),
    (RateLimited("no"), 429, "limited", True),
    (BadOutput("no"), 500, "bad_output", False),
    (UpstreamFailed("no"), 502, "upstream", False),
    (Overloaded("no"), 503, "overload", True),
    (ReplicaLost("no"), 503, "overload", True),
    (NotReady("no"), 503, "loading", True),
    (Unloaded("no"), 503, "loading", False),
    (DeadlineExceeded("no"), 504, "deadline", False),
    (UpstreamSilent("no"), 504, "deadline", False),
]


class OwnProblem(WorkflowError):
    """What somebody's workflow might raise: no table knows its code."""

    code = "own"


@pytest.mark.parametrize("table", TABLES, ids=["native", "open inference", "OpenAI", "TGI", "gRPC"])
def test_every_code_is_in_every_table_and_no_other(table: ErrorTable | GrpcErrorTable) -> None:
    assert set(table.statuses) == {kind.code for kind in TREE + REFUSALS}


def test_the_answers_above_cover_the_tree() -> None:
    told = {type(error) for error, *_ in ANSWERS}
    assert set(TREE) - told == {WorkflowError, Cancelled}


@pytest.mark.parametrize(("error", "status", "code", "retryable"), ANSWERS, ids=lambda value: type(value).__name__)
async def test_both_protocols_say_the_same_in_their_own_way(
    error: WorkflowError, status: int, code: str, retryable: bool
) -> None:
    async def fails(input_data: Any, call: CallContext) -> Any:
        raise error

    house = Front()
    house.add("m", ScriptedClient(fails), kind="tensors")
    native = await house.post(
        "/v1/workflows/m/inference", {"inputs": {"x": {"dtype": "int8", "shape": [0], "data": []}}}
    )
    oip = await house.post(
        "/v2/models/m/infer", {"inputs": [{"name": "x", "datatype": "INT8", "shape": [0], "data": []}]}
    )
    request_id = native.headers["x-request-id"]
    assert native.json() == {"error": {"code": code, "message": "no", "request_id": request_id, "retryable": retryable}}
    assert oip.json() == {"error": "no"}
    for answer in (native, oip):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert ("retry-after" in answer.headers) is retryable
    assert house.lines.last["code"] == code


def test_retry_after_is_a_whole_number_of_at_least_one_second() -> None:
    for seconds, said in ((0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.2, b"2"), (30.0, b"30")):
        assert (b"retry-after", said) in NATIVE.headers(Overloaded(retry_after_s=seconds))
    assert NATIVE.headers(NotReady(retry_after_s=None)) == []


def test_headers_that_belong_to_an_error() -> None:
    assert NATIVE.headers(Unauthenticated()) == [(b"www-authenticate", b"Bearer")]
    assert NATIVE.headers(MethodNotAllowed(["POST", "GET"])) == [(b"allow", b"GET, POST")]
    assert NATIVE.headers(TooLarge()) == [(b"connection", b"close")]
    assert (b"accept-encoding", b"identity") in NATIVE.headers(UnsupportedMediaType())
    assert NATIVE.headers(DeadlineExceeded()) == []
    for kind in (DeadlineExceeded, UpstreamSilent):
        assert NATIVE.headers(kind(may_have_run=True)) == [(b"x-should-retry", b"false")]


async def test_messages_are_cut_and_never_break_the_answer() -> None:
    async def fails(input_data: Any, call: CallContext) -> Any:
        raise InvalidInput('\x1b[31m"\n\ud800é' * 500)

    house = Front()
    house.add("m", ScriptedClient(fails))
    answer = await house.post("/v1/workflows/m/inference", {})
    assert len(answer.json()["error"]["message"]) == 512
    assert "é" in answer.text
    assert "\x1b" not in answer.text
    assert "\n" not in answer.text


async def test_an_unknown_kind_of_error_is_internal() -> None:
    async def fails(input_data: Any, call: CallContext) -> Any:
        raise OwnProblem("secret")

    house = Front()
    house.add("m", ScriptedClient(fails))
    answer = await house.post("/v1/workflows/m/inference", {})
    assert answer.status_code == 500
    assert "secret" not in json.dumps(answer.json())
    assert house.lines.last["code"] == "internal"


async def test_an_error_below_v2_speaks_open_inference_also_where_there_is_no_route() -> None:
    assert (await Front().get("/v2/none")).json() == {"error": "no such path"}
    assert (await Front().get("/none")).json()["error"]["code"] == "no_route"
