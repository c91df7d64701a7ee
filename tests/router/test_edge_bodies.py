"""The edge: what a request may bring along, in its URL, headers and body."""

import json
from typing import Any

import pytest

from deployments.router.keys import Keys, mint_key
from tests.router.router_front import Front, Visit

PATH = "/v1/workflows/echo/inference"
USER, USER_KEY = mint_key("user", workflows=["echo*"])
OPERATOR, OPERATOR_KEY = mint_key("boss", role="operator")
KEYS = Keys([USER_KEY, OPERATOR_KEY])
AS_USER = {"x-api-key": USER}


def front(**args: Any) -> Front:
    made = Front(**args)
    made.add("echo")
    return made


async def test_sizes_are_bounded() -> None:
    house = front(limits={"max_header_bytes": 2000, "max_url_bytes": 300})
    assert (await house.get("/v2?" + "a" * 300)).status_code == 414
    assert (await house.get("/v2/" + "%41" * 101)).status_code == 414
    assert (await house.get("/v2", headers={"a": "b" * 2000})).status_code == 431
    assert (await house.get("/v2", headers={f"a{i}": "" for i in range(101)})).status_code == 431


async def test_a_body_that_says_it_is_too_large_is_not_even_received() -> None:
    visit = Visit(front(limits={"max_body_bytes": 10}).app, "POST", PATH, {}, [("content-length", "11")])
    visit.scope["headers"].append((b"expect", b"100-continue"))
    await visit.start()
    start = await visit.next()
    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]
    assert visit.untouched


@pytest.mark.parametrize("announced", [("content-length", "67108864"), ("transfer-encoding", "chunked")])
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/health", [], 200),
        ("POST", PATH, [], 401),
        ("POST", "/metrics", [("x-api-key", USER)], 405),
        ("GET", "/metrics", [("x-api-key", USER)], 403),
        ("POST", "/none", [], 404),
        ("POST", PATH, [("x-api-key", USER), ("content-encoding", "gzip")], 415),
    ],
)
async def test_who_announces_a_body_that_is_not_read_is_sent_away(
    method: str, path: str, headers: list[tuple[str, str]], status: int, announced: tuple[str, str]
) -> None:
    visit = Visit(Front(KEYS).app, method, path, {}, [*headers, announced])
    await visit.start()
    start = await visit.next()
    assert start["status"] == status
    assert (b"connection", b"close") in start["headers"]
    assert visit.untouched


async def test_a_refusal_without_a_body_or_after_it_keeps_the_connection() -> None:
    house = front()
    answers = [await house.post("/none"), await house.post(PATH, b"{"), await house.get("/v2/models/none")]
    assert [answer.status_code for answer in answers] == [404, 400, 404]
    assert not any("connection" in answer.headers for answer in answers)


async def test_a_body_in_pieces_is_counted_while_it_comes() -> None:
    async def pieces() -> Any:
        for _ in range(1000):
            yield b"[" * 10

    answer = await front(limits={"max_body_bytes": 99}).request(
        "POST", PATH, content=pieces(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_a_body_in_many_pieces_is_whole() -> None:
    text = json.dumps({"text": "a" * 5000}).encode()

    async def pieces() -> Any:
        for i in range(len(text)):
            yield text[i : i + 1]

    answer = await front().request("POST", PATH, content=pieces(), headers={"content-type": "application/json"})
    assert answer.json() == {"text": "a" * 5000}


@pytest.mark.parametrize("length", ["+5", "-1", "5_0", "0x5", "", "5, 5", "9" * 19, "²"])
async def test_a_content_length_is_one_plain_number(length: str) -> None:
    visit = Visit(front().app, "POST", PATH, {}, [("content-length", length)])
    await visit.start()
    assert (await visit.next())["status"] == 400


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity", "chunked, chunked", "gzip", ""])
async def test_a_body_comes_as_it_is_or_in_chunks(coding: str) -> None:
    visit = Visit(front().app, "POST", PATH, {}, [("transfer-encoding", coding)])
    await visit.start()
    start = await visit.next()
    assert start["status"] == 400
    assert (b"connection", b"close") in start["headers"]
    assert visit.untouched


async def test_a_body_that_does_not_come_in_time_is_given_up() -> None:
    visit = Visit(front(limits={"body_s": 0.02}).app, "POST", PATH, {})
    visit.silence()
    await visit.start()
    start, body = visit.rest()
    assert start["status"] == 408
    assert json.loads(body["body"])["error"]["code"] == "slow_body"


async def test_a_caller_who_leaves_while_sending_is_not_answered() -> None:
    house = front()
    visit = Visit(house.app, "POST", PATH, {})
    visit.silence()
    visit.leave()
    await visit.start()
    assert not visit.rest()
    assert (house.lines.last["status"], house.lines.last["code"]) == (499, "cancelled")


@pytest.mark.parametrize(
    "media", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
async def test_json_is_accepted_by_its_name(media: str) -> None:
    answer = await front().request("POST", PATH, content=b"{}", headers={"content-type": media})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/jsonp"},
        {"content-type": "multipart/form-data; boundary=a"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "identity, br"},
    ],
)
async def test_every_other_kind_of_body_is_refused(headers: dict[str, str]) -> None:
    answer = await front().request("POST", PATH, content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"


async def test_curls_default_gets_the_option_that_helps() -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await front().request("POST", PATH, content=b"{}", headers=headers)
    assert "-H 'Content-Type: application/json'" in answer.json()["error"]["message"]
