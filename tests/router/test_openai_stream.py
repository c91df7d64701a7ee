"""Streams of chat and text completions: events in order, several answers side by side, and every way that they can end."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from tests.router.openai_house import CHAT, TEXT, House, events, exact, token
from tests.router.played_client import nothing_left_behind
from tests.router.router_front import Script, ScriptedClient, Visit
from workflows.errors import BadOutput, Overloaded, ReplicaLost, WorkflowError

__all__ = ["nothing_left_behind"]

HELLO = {"model": "gpt", "messages": [{"role": "user", "content": "a b"}], "stream": True}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}


def piece(text: str) -> dict[str, Any]:
    return {"text": text, "finish_reason": None, "usage": None}


def end(text: str = "") -> dict[str, Any]:
    return {"text": text, "finish_reason": "length", "usage": USAGE}


class Steered:
    """A house whose model `m` says for each prompt what the test puts in: groups, exceptions, and None for the end."""

    def __init__(self, **limits: float) -> None:
        self.house = House(limits=limits)
        self.house.add("m", ScriptedClient(chunks=self._chunks), kind="generate")
        self.scripts: defaultdict[str, Script] = defaultdict(Script)

    @property
    def closed(self) -> list[str]:
        return [prompt for prompt, script in self.scripts.items() for _ in range(script.closed)]

    def put(self, prompt: str, *steps: Any) -> None:
        self.scripts[prompt].put(*steps)

    def _chunks(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        return self.scripts[input_data["prompt"]].chunks(input_data)

    def visit(self, *prompts: str, **fields: Any) -> Visit:
        return Visit(self.house.app, "POST", TEXT, {"model": "m", "prompt": prompts, "stream": True, **fields})


async def finished(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        await task


def said(visit: Visit) -> str:
    return b"".join(message.get("body", b"") for message in visit.rest()).decode()


async def test_a_chat_says_its_role_its_text_and_why_it_ends() -> None:
    house = House()
    answer = await house.post(CHAT, HELLO)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    found = events(answer.text)
    for event in found:
        exact(ChatCompletionChunk, event)
        assert "usage" not in event
    assert len({(event["id"], event["created"], event["model"]) for event in found}) == 1
    nothing = {"index": 0, "logprobs": None, "finish_reason": None}
    assert [choice for event in found for choice in event["choices"]] == [
        {**nothing, "delta": {"role": "assistant", "content": "", "refusal": None}},
        {**nothing, "delta": {"content": "a"}},
        {**nothing, "delta": {"content": "b"}},
        {**nothing, "delta": {}, "finish_reason": "stop"},
    ]
    assert house.lines.last["code"] == "ok"


async def test_usage_is_told_at_the_end_where_it_is_asked_for() -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    for path, kind, asked in ((CHAT, ChatCompletionChunk, HELLO), (TEXT, Completion, {**HELLO, "prompt": "a b"})):
        answer = await House().post(path, {**asked, "n": 2, "stream_options": options})
        *others, last = events(answer.text)
        for event in (*others, last):
            # OpenAI's own events have null here as well, as long as a text goes on; the client's type does not say so.
            ended = [{**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in event["choices"]]
            exact(kind, {**event, "choices": ended})
        assert {str(event["usage"]) for event in others} == {"None"}
        assert last["choices"] == []
        assert last["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": 6,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 1},
        }


async def test_tokens_are_told_before_the_text_that_is_held_back() -> None:
    async def pieces(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield [{**piece(""), "tokens": [token("a")]}]
        yield [{**end("ab"), "tokens": [token("b"), token("</s>", special=True)]}]

    house = House()
    house.add("gpt", ScriptedClient(chunks=pieces), kind="generate")
    answer = await house.post(CHAT, {**HELLO, "logprobs": True})
    choices = [choice for event in events(answer.text) for choice in event["choices"]]
    told = [choice for choice in choices if choice["logprobs"] is not None]
    assert [choice["delta"]["content"] for choice in told] == ["", "ab"]
    assert [[each["token"] for each in choice["logprobs"]["content"]] for choice in told] == [["a"], ["b"]]


async def test_tokens_that_are_not_shown_are_told_with_the_usage_of_all_answers() -> None:
    scene = Steered()
    hidden = {**USAGE, "completion_tokens": 9, "reasoning_tokens": 7}
    for prompt, usage in (("p", hidden), ("q", {**hidden, "reasoning_tokens": 0}), ("r", USAGE)):
        scene.put(prompt, [{**end("a"), "usage": usage}], None)
    visit = scene.visit("p", "q", "r", stream_options={"include_usage": True})
    await finished(visit.start())
    last = events(said(visit))[-1]
    exact(Completion, last)
    assert last["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 20,
        "total_tokens": 23,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }


@pytest.mark.parametrize("asked", [True, False])
async def test_chunks_that_say_nothing_are_not_told(asked: bool) -> None:
    scene = Steered()
    scene.put("p", [piece(""), piece("a")], [piece("")], [end()], None)
    visit = scene.visit("p", stream_options={"include_usage": asked})
    await finished(visit.start())
    found = events(said(visit))
    assert [choice["text"] for event in found for choice in event["choices"]] == ["a", ""]
    assert len(found) == 2 + asked


async def test_logprobs_come_with_their_chunks() -> None:
    answer = await House().post(CHAT, {**HELLO, "logprobs": True, "top_logprobs": 3})
    found = events(answer.text)
    told = [exact(ChatCompletionChunk, event).choices[0].logprobs for event in found]
    assert [None if each is None else [token.token for token in each.content] for each in told] == [
        None,
        ["a"],
        ["b"],
        None,
    ]
    answer = await House().post(TEXT, {"model": "gpt", "prompt": "ab c", "logprobs": 3, "stream": True})
    columns = [event["choices"][0]["logprobs"] for event in events(answer.text)]
    assert [each["tokens"] for each in columns] == [["ab"], ["c"], []]
    assert [each["text_offset"] for each in columns] == [[0], [2], []]
    assert columns[0]["top_logprobs"] == [{"ab": -0.5, "x": -2.0}]


async def test_answers_come_side_by_side_each_with_its_index() -> None:
    scene = Steered()
    visit = scene.visit("p", "q", stream_options={"include_usage": True})
    task = visit.start()
    scene.put("q", [piece("q1")])
    assert (await visit.next())["status"] == 200
    assert b'"index":1,"text":"q1"' in (await visit.next())["body"]
    scene.put("p", [piece("p1")])
    assert b'"index":0,"text":"p1"' in (await visit.next())["body"]
    scene.put("p", [end("p2")], None)
    assert b'"index":0,"text":"p2"' in (await visit.next())["body"]
    scene.put("q", [end("q2")], None)
    await finished(task)
    last, usage = events(said(visit))
    assert (last["choices"][0]["index"], last["choices"][0]["text"]) == (1, "q2")
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert sorted(scene.closed) == ["p", "q"]


@pytest.mark.parametrize(
    ("first", "status", "code"),
    [
        (Overloaded(), 503, "server_is_overloaded"),
        ([{"text": 1}], 500, "non_finite_output"),
        (KeyError("canary"), 500, "internal_error"),
    ],
    ids=str,
)
async def test_what_fails_before_the_first_chunk_is_an_http_error(first: Any, status: int, code: str) -> None:
    scene = Steered()
    scene.put("q", first)
    visit = scene.visit("p", "q")
    await finished(visit.start())
    start, body = visit.rest()
    assert start["status"] == status
    error = json.loads(body["body"])["error"]
    assert error["code"] == code
    assert "canary" not in error["message"]
    assert sorted(scene.closed) == ["p", "q"]


@pytest.mark.parametrize(
    ("late", "kind", "code"),
    [
        (ReplicaLost("gone", may_have_run=True), "server_error", "server_is_overloaded"),
        (BadOutput("no"), "server_error", "non_finite_output"),
        (WorkflowError("canary"), "server_error", "internal_error"),
        (KeyError("canary"), "server_error", "internal_error"),
    ],
    ids=str,
)
async def test_one_that_fails_later_fails_the_stream(late: Any, kind: str, code: str) -> None:
    scene = Steered()
    visit = scene.visit("p", "q")
    scene.put("p", [piece("a")])
    task = visit.start()
    await visit.next()
    await visit.next()
    scene.put("q", late)
    await finished(task)
    text = said(visit)
    assert text.startswith("data: ")
    assert text.endswith("}\n\n")
    error = json.loads(text.removeprefix("data: "))["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, None, code)
    assert "canary" not in text
    assert sorted(scene.closed) == ["p", "q"]


@pytest.mark.parametrize("last", [None, {**end(), "usage": None}], ids=["no end", "no usage"])
async def test_a_text_that_just_stops_is_not_whole(last: Any) -> None:
    scene = Steered()
    scene.put("p", [end("a")], None)
    scene.put("q", [piece("b")], *([] if last is None else [[last]]), None)
    visit = scene.visit("p", "q")
    await finished(visit.start())
    text = said(visit)
    assert "[DONE]" not in text
    assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "non_finite_output"
    assert scene.house.lines.last["code"] == "bad_output"


async def test_who_leaves_closes_all_streams() -> None:
    scene = Steered()
    visit = scene.visit("p", "q")
    scene.put("p", [piece("a")])
    task = visit.start()
    await visit.next()
    await visit.next()
    visit.leave()
    await finished(task)
    assert sorted(scene.closed) == ["p", "q"]
    assert not visit.rest()
    assert scene.house.lines.last["code"] == "cancelled"


async def test_who_reads_slowly_slows_all_streams_down() -> None:
    scene = Steered()
    for prompt in "pq":
        scene.put(prompt, *([[piece("x")]] * 50), [end()], None)
    visit = scene.visit("p", "q")
    visit.room.clear()
    task = visit.start()
    await scene.scripts["p"].begun.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert sum(script.asked for script in scene.scripts.values()) <= 8
    visit.room.set()
    await finished(task)
    found = events(said(visit))
    for index in (0, 1):
        mine = [event["choices"][0] for event in found if event["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "x" * 50
        assert mine[-1]["finish_reason"] == "length"


async def test_a_first_chunk_that_does_not_come_is_504() -> None:
    scene = Steered(stream_first_chunk_s=0.02)
    visit = scene.visit("p", "q")
    await finished(visit.start())
    start, body = visit.rest()
    assert start["status"] == 504
    assert json.loads(body["body"])["error"]["code"] == "deadline_exceeded"
    assert sorted(scene.closed) == ["p", "q"]
