"""Streams: real errors before the first chunk, in-band ones after it, and a generator that never stays open."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from starlette.types import Message

from tests.router.router_front import Front, Script, ScriptedClient, Visit
from workflows.errors import BadOutput, Overloaded, ReplicaLost, UpstreamFailed

PATH = "/v1/workflows/m/stream"


def scene(**limits: float) -> tuple[Front, Script]:
    house, script = Front(limits=limits), Script()
    house.add("m", ScriptedClient(chunks=script.chunks))
    return house, script


def text_of(messages: list[Message]) -> str:
    return b"".join(message.get("body", b"") for message in messages).decode()


async def finish(task: asyncio.Task[None], script: Script) -> None:
    """The request ends, and its generator was closed by then."""
    async with asyncio.timeout(5):
        await task
    assert script.closed


async def test_every_group_is_one_write_and_the_end_is_marked() -> None:
    house, script = scene()
    script.put(["a", "b\n"], [{"c": None}], None)
    visit = Visit(house.app, "POST", PATH, {})
    await finish(visit.start(), script)
    start, *body = visit.rest()
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"x-request-id" in headers
    assert [message["body"] for message in body] == [
        b'data: "a"\n\ndata: "b\\n"\n\n',
        b'data: {"c":null}\n\n',
        b"data: [DONE]\n\n",
    ]
    assert [message["more_body"] for message in body] == [True, True, False]
    assert (house.lines.last["chunks"], house.lines.last["code"]) == (3, "ok")


async def test_a_chunk_is_sent_before_the_next_is_there() -> None:
    house, script = scene()
    script.put(["first"])
    visit = Visit(house.app, "POST", PATH, {})
    task = visit.start()
    assert (await visit.next())["status"] == 200
    assert (await visit.next())["body"] == b'data: "first"\n\n'
    script.put(None)
    await finish(task, script)
    assert text_of(visit.rest()) == "data: [DONE]\n\n"


async def test_an_empty_stream_is_only_an_end() -> None:
    house, script = scene()
    script.put(None)
    visit = Visit(house.app, "POST", PATH, {})
    await finish(visit.start(), script)
    assert text_of(visit.rest()) == "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (Overloaded(), 503),
        (UpstreamFailed(), 502),
        ([float("nan")], 500),
        ([np.array([np.inf])], 500),
        (KeyError(), 500),
    ],
    ids=str,
)
async def test_what_fails_before_the_first_chunk_is_an_http_error(first: Any, status: int) -> None:
    house, script = scene()
    script.put(first)
    visit = Visit(house.app, "POST", PATH, {})
    await finish(visit.start(), script)
    start, body = visit.rest()
    assert start["status"] == status
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert json.loads(body["body"])["error"]["request_id"] == house.lines.last["request_id"]


@pytest.mark.parametrize(
    ("late", "code"),
    [
        (UpstreamFailed("gone"), "upstream"),
        (ReplicaLost(), "overload"),
        (BadOutput(), "bad_output"),
        ([float("nan")], "bad_output"),
        (KeyError("canary"), "internal"),
    ],
    ids=str,
)
async def test_what_fails_later_is_an_event_without_an_end_mark(late: Any, code: str) -> None:
    house, script = scene()
    script.put(["a"], late)
    visit = Visit(house.app, "POST", PATH, {})
    await finish(visit.start(), script)
    messages = visit.rest()
    events = text_of(messages).split("\n\n")
    assert events[0] == 'data: "a"'
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == code
    assert events[2:] == [""]
    assert messages[-1]["more_body"] is False
    assert "canary" not in text_of(messages)
    assert house.lines.last["code"] == code


@pytest.mark.parametrize("first", [[], [["a"]]])
async def test_a_caller_who_leaves_closes_the_stream(first: list[Any]) -> None:
    house, script = scene()
    script.put(*first)
    visit = Visit(house.app, "POST", PATH, {})
    task = visit.start()
    await script.begun.wait()
    for _ in first:
        await visit.next()
        await visit.next()
    visit.leave()
    await finish(task, script)
    assert not visit.rest()
    assert (house.lines.last["code"], house.lines.last["status"]) == ("cancelled", 200 if first else 499)


async def test_a_caller_who_leaves_while_a_chunk_cannot_be_written_closes_the_stream() -> None:
    house, script = scene()
    script.put(["a"], ["b"])
    visit = Visit(house.app, "POST", PATH, {})
    task = visit.start()
    await visit.next()
    await visit.next()
    visit.room.clear()
    visit.leave()
    await finish(task, script)


async def test_a_slow_reader_slows_the_stream_down() -> None:
    house, script = scene()
    script.put(*([["x"]] * 50), None)
    visit = Visit(house.app, "POST", PATH, {})
    visit.room.clear()
    task = visit.start()
    await script.begun.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert script.asked <= 2
    visit.room.set()
    await finish(task, script)
    assert text_of(visit.rest()).count('"x"') == 50


async def test_a_send_that_raises_closes_the_stream() -> None:
    house, script = scene()
    script.put(["a"], ["b"])
    visit = Visit(house.app, "POST", PATH, {})

    async def broken(message: Message) -> None:
        raise ConnectionResetError

    async def received() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    await finish(asyncio.create_task(house.app(visit.scope, received, broken)), script)
    assert house.lines.last["code"] == "cancelled"


async def test_a_stopping_server_closes_the_stream() -> None:
    house, script = scene()
    script.put(["a"])
    visit = Visit(house.app, "POST", PATH, {})
    task = visit.start()
    await visit.next()
    await visit.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.closed


async def test_a_first_chunk_that_does_not_come_is_504() -> None:
    house, script = scene(stream_first_chunk_s=0.02)
    visit = Visit(house.app, "POST", PATH, {})
    await finish(visit.start(), script)
    start, _ = visit.rest()
    assert start["status"] == 504
    assert (b"x-should-retry", b"false") in start["headers"]


@pytest.mark.parametrize(("limit", "header"), [(0.03, []), (600.0, [("x-deadline-s", "0.03")])])
async def test_a_stream_has_an_end(limit: float, header: list[tuple[str, str]]) -> None:
    house, script = scene(stream_s=limit)
    script.put(["a"])
    visit = Visit(house.app, "POST", PATH, {}, header)
    await finish(visit.start(), script)
    text = text_of(visit.rest())
    assert '"code":"deadline"' in text
    assert "[DONE]" not in text


async def test_what_does_not_stream_says_so() -> None:
    house = Front()
    house.add("m")
    answer = await house.post(PATH, {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
    house, _ = scene()
    assert (await house.post(PATH, [1])).status_code == 400


async def test_usage_in_the_last_chunk_is_counted() -> None:
    house, script = scene()
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    script.put([{"text": "a", "finish_reason": None, "usage": None}], [{"text": "b", "usage": usage}], None)
    await house.post(PATH, {})
    text = house.metrics.exposition().decode()
    assert 'infernet_tokens_total{direction="prompt",key="anyone",replica="0",workflow="m"} 3.0' in text
    assert 'infernet_tokens_total{direction="completion",key="anyone",replica="0",workflow="m"} 2.0' in text
