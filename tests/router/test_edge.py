"""The door: what is checked, in which order, and what every answer carries. Nobody gets past it by another way."""

import asyncio
import json
import re
from typing import Any

import pytest
from starlette.types import Message

from deployments.router.keys import Keys, mint_key
from deployments.router.request import Route, RouteTable
from tests.router.router_front import Front, ScriptedClient, Visit
from workflows.context import CallContext
from workflows.errors import WorkflowError

PATH = "/v1/workflows/echo/inference"
USER, USER_KEY = mint_key("user", workflows=["echo*"])
OPERATOR, OPERATOR_KEY = mint_key("boss", role="operator")
KEYS = Keys([USER_KEY, OPERATOR_KEY])
AS_USER = {"x-api-key": USER}


def front(**args: Any) -> Front:
    made = Front(**args)
    made.add("echo")
    return made


# ---- the order of checks --------------------------------------------------------------------------------------------


async def test_each_check_comes_before_the_next() -> None:
    """One request that is wrong in every way, put right step by step."""
    house = Front(KEYS, limits={"max_body_bytes": 200})
    house.add("echo", kind="tensors")
    house.add("secret")
    path, key, media, body = "/v1/workflows/none/inferences", "wrong", "text/plain", b"{" * 300
    steps: list[tuple[int, str]] = []

    async def step() -> None:
        answer = await house.request("POST", path, content=body, headers={"x-api-key": key, "content-type": media})
        steps.append((answer.status_code, answer.json()["error"]["code"]))

    await step()
    path = "/v1/workflows/none/inference"
    await step()
    key = USER
    await step()
    body = b"{"
    await step()
    media = "application/json"
    await step()
    body = b"{}"
    await step()
    path = "/v1/workflows/secret/inference"
    await step()
    path = PATH
    await step()
    assert steps == [
        (404, "no_route"),
        (401, "unauth"),
        (413, "too_large"),
        (415, "media"),
        (400, "parse"),
        (404, "no_model"),
        (404, "no_model"),
        (400, "invalid"),
    ]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "GET"])
async def test_other_methods_are_refused_and_the_right_one_is_named(method: str) -> None:
    answer = await front().request(method, PATH)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/workflows/", "/v1/workflows//inference", "/V2", "/v2/models/a/b/c", "//v2"]
)
async def test_paths_are_exact(path: str) -> None:
    answer = await front().get(f"http://localhost{path}")
    assert answer.status_code == 404
    assert "x-request-id" in answer.headers


def test_a_literal_path_goes_before_one_with_open_segments() -> None:
    async def nothing(request: Any) -> None: ...

    def route(path: str) -> Route:
        return Route("GET", path, nothing, protocol)

    protocol: Any = None
    table = RouteTable([route("/{y}"), route("/a/{x}/end"), route("/a/b/other"), route("/a")])
    assert table.find("/a/b/end")[1] == ("b",)
    assert table.find("/a")[0]["GET"].path == "/a"
    assert table.find("/c")[1] == ("c",)
    for nowhere in ("/a/b", "/a/b/c/end", "/a/b/end\n", "/a/b/end/", "//end", ""):
        assert table.find(nowhere) == ({}, ())
    with pytest.raises(ValueError, match="two routes"):
        RouteTable([route("/a"), route("/a")])


# ---- request ids ----------------------------------------------------------------------------------------------------


async def test_every_answer_has_an_id_of_ours() -> None:
    house = front()
    ids = [(await house.get(path)).headers["x-request-id"] for path in ("/health", "/v2", "/none", PATH)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)
    assert len(set(ids)) == len(ids)


async def test_a_callers_id_is_taken_if_it_is_plain_and_workflows_still_see_a_unique_one() -> None:
    house = Front()
    client = house.add("echo")
    for _ in range(2):
        answer = await house.post(PATH, {}, headers={"x-request-id": "trace-1.a_B"})
        assert answer.headers["x-request-id"] == "trace-1.a_B"
    first, second = (call.request_id for call in client.calls)
    assert first.startswith("trace-1.a_B.")
    assert first != second


@pytest.mark.parametrize("wished", ["", "x" * 65, "a b", "\xff\xfe", "a\tb", "\x1b[31m", 'a"b', "a/b"])
async def test_any_other_id_is_replaced(wished: str) -> None:
    visit = Visit(front().app, "GET", "/health", headers=[("x-request-id", wished)])
    await visit.start()
    headers = dict((await visit.next())["headers"])
    assert re.fullmatch(rb"[0-9a-f]{32}", headers[b"x-request-id"])


# ---- who calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-api-key", "")],
        [("x-api-key", USER + "x")],
        [("x-api-key", USER.upper())],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Bearer {USER} ")],
        [("authorization", f"Basic {USER}")],
        [("authorization", USER)],
        [("authorization", f"Bearer {USER}"), ("authorization", f"Bearer {USER}")],
        [("x-api-key", USER), ("x-api-key", USER)],
        [("authorization", f"Bearer {USER}"), ("x-api-key", OPERATOR)],
        [("authorization", "Basic abc"), ("x-api-key", USER)],
        [("x-api-key", "\xe9" * 20)],
        [("x-api-key", "a" * 20_000)],
        [("x-api-key", "' OR 1=1--")],
        [("cookie", f"key={USER}")],
    ],
)
async def test_without_exactly_one_valid_key_everybody_hears_the_same(headers: list[tuple[str, str]]) -> None:
    house = Front(KEYS)
    house.add("echo")
    visit = Visit(house.app, "POST", PATH, {}, headers)
    await visit.start()
    start, body = visit.rest()
    assert start["status"] == 401
    assert dict(start["headers"])[b"www-authenticate"] == b"Bearer"
    error = json.loads(body["body"])["error"]
    del error["request_id"]
    assert error == {"code": "unauth", "message": "a valid API key is needed", "retryable": False}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {USER}"},
        {"authorization": f"bearer {USER}"},
        AS_USER,
        {**AS_USER, "authorization": f"Bearer {USER}"},
    ],
)
async def test_a_key_opens_by_either_header(headers: dict[str, str]) -> None:
    house = Front(KEYS)
    house.add("echo")
    assert (await house.post(PATH, {}, headers=headers)).status_code == 200


async def test_every_route_but_the_public_ones_needs_a_key() -> None:
    house = Front(KEYS)
    for route in house.app.table.routes:
        path = re.sub(r"\{\w+\}", "echo", route.path)
        answer = await house.request(route.method, path, headers={"content-type": "application/json"})
        public = path in {"/health", "/-/healthz", "/v2/health/live", "/v2/health/ready", "/docs"}
        assert answer.status_code == (200 if public else 401), path


async def test_operators_routes_are_not_for_users() -> None:
    house = Front(KEYS)
    for path in ("/metrics", "/-/routes"):
        assert (await house.get(path, headers=AS_USER)).status_code == 403
        assert (await house.get(path, headers={"x-api-key": OPERATOR})).status_code == 200
    assert (await house.get("/openapi.json", headers=AS_USER)).status_code == 200


async def test_a_key_reaches_only_its_workflows_also_by_alias_and_sees_no_others() -> None:
    house = Front(KEYS)
    house.add("echo-2")
    client = house.add("secret", aliases=["echo-alias"])
    told = {**AS_USER, "x-request-id": "same"}
    for name in ("secret", "echo-alias"):
        for path in ("/v1/workflows/{}", "/v2/models/{}", "/v2/models/{}/ready"):
            gated, absent = [await house.get(path.format(asked), headers=told) for asked in (name, "none")]
            assert (gated.status_code, gated.content, gated.headers) == (404, absent.content, absent.headers)
        gated, absent = [await house.post(PATH.replace("echo", asked), {}, headers=told) for asked in (name, "none")]
        assert (gated.status_code, gated.content, gated.headers) == (404, absent.content, absent.headers)
    listed = (await house.get("/v1/workflows", headers=AS_USER)).json()["workflows"]
    assert [entry["name"] for entry in listed] == ["echo-2"]
    assert "secret" not in (await house.get("/openapi.json", headers=AS_USER)).text
    assert not client.calls


async def test_of_an_alias_that_several_carry_a_key_gets_the_one_it_may_use() -> None:
    house = Front(KEYS)
    clients = {name: house.add(name, aliases=["echo-alias", "both", "aaa"]) for name in ("another", "echo-2", "zzz")}
    house.add("both")
    for key, alias, name in (
        (USER, "echo-alias", "echo-2"),
        (OPERATOR, "echo-alias", "another"),
        (USER, "both", "echo-2"),
    ):
        assert (await house.post(PATH.replace("echo", alias), {}, headers={"x-api-key": key})).status_code == 200
        assert len(clients[name].calls) == 1, name
        clients[name].calls.clear()
    assert not any(client.calls for client in clients.values())


async def test_new_keys_count_at_once() -> None:
    house = Front(KEYS)
    house.app.keys = Keys([OPERATOR_KEY])
    assert (await house.get("/v2", headers=AS_USER)).status_code == 401


@pytest.mark.parametrize("path", ["/", "/v2", PATH])
async def test_websockets_are_closed_before_they_are_accepted(path: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Front(KEYS).app({"type": "websocket", "path": path, "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_websocket_upgrade_over_plain_http_is_refused_as_well() -> None:
    for path in ("/v2", PATH, "/none", "/health"):
        answer = await front().get(path, headers={"upgrade": "WebSocket", "connection": "upgrade"})
        assert answer.status_code == 403


# ---- what goes wrong ------------------------------------------------------------------------------------------------


async def test_a_fault_of_ours_says_nothing_and_is_logged_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(input_data: Any, call: CallContext) -> Any:
        raise WorkflowError("/usr/lib/secret.so: pid 12") from ValueError("canary")

    house = Front()
    house.add("echo", ScriptedClient(broken))
    answer = await house.post(PATH, {})
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 500
    expected = {"code": "internal", "message": "internal error", "request_id": request_id, "retryable": False}
    assert answer.json() == {"error": expected}
    assert request_id in caplog.text
    assert "canary" in caplog.text


async def test_an_output_of_the_wrong_kind_is_the_models_fault() -> None:
    async def broken(input_data: Any, call: CallContext) -> Any:
        return [1]

    house = Front()
    house.add("echo", ScriptedClient(broken), kind="tensors")
    answer = await house.post(PATH, {"inputs": {"x": {"dtype": "bool", "shape": [], "data": [True]}}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bad_output")


async def test_an_unforeseen_exception_is_a_bare_500(caplog: pytest.LogCaptureFixture) -> None:
    house = front()
    house.directory._entries["echo"].card = object()  # type: ignore[assignment]  # a fault of our own
    answer = await house.post(PATH, {})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error"
    assert "AttributeError" in caplog.text


async def test_a_stopping_server_ends_requests_without_an_answer() -> None:
    house = Front()
    begun = asyncio.Event()

    async def slow(input_data: Any, call: CallContext) -> Any:
        begun.set()
        await asyncio.Future()

    house.add("echo", ScriptedClient(slow))
    visit = Visit(house.app, "POST", PATH, {})
    task = visit.start()
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.lines.last["code"] == "cancelled"


async def test_while_draining_every_answer_ends_its_connection_and_nothing_is_ready() -> None:
    house = front()
    house.app.draining = True
    for path, status in (
        ("/v2", 200),
        ("/none", 404),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 503),
        ("/-/healthz", 503),
    ):
        answer = await house.get(path)
        assert answer.status_code == status
        assert answer.headers["connection"] == "close"
    assert (await house.post(PATH, {})).status_code == 200


async def test_lifespan_is_acknowledged() -> None:
    incoming: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await Front().app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
