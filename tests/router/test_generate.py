"""The generate extension: plain text in and out, whole or as a stream with its own end."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import ReplicaLost

PATH = "/v2/models/m/generate"
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
SEEN: list[Any] = []


async def whole(input_data: Any, call: CallContext) -> Any:
    SEEN.append(input_data)
    return {"text": "ab", "finish_reason": "length", "usage": USAGE}


async def pieces(input_data: Any) -> AsyncGenerator[list[Any]]:
    SEEN.append(input_data)
    yield [{"text": "a", "finish_reason": None, "usage": None}]
    if input_data["prompt"] == "break":
        raise ReplicaLost(may_have_run=True)
    yield [
        {"text": "b", "finish_reason": None, "usage": None},
        {"text": "", "finish_reason": "length", "usage": USAGE},
    ]


def house() -> Front:
    SEEN.clear()
    made = Front()
    made.add("m", ScriptedClient(whole, pieces), kind="generate")
    made.add("whole", ScriptedClient(whole), kind="generate")
    made.add("tensors", kind="tensors")
    return made


def events(text: str) -> list[Any]:
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_a_whole_text(version: str) -> None:
    body = {"id": "x", "text_input": "hi", "parameters": {"max_tokens": 2, "stop": ["."], "stream": False}}
    answer = await house().post(f"/v2/models/m{version}/generate", body)
    assert answer.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "x",
        "text_output": "ab",
        "finish_reason": "length",
    }
    assert SEEN == [{"prompt": "hi", "sampling": {"max_tokens": 2, "stop": ["."]}}]


@pytest.mark.parametrize("stream", [True, False, None])
async def test_a_stream_says_when_it_is_done(stream: bool | None) -> None:
    parameters = {} if stream is None else {"stream": stream}
    answer = await house().post(f"{PATH}_stream", {"text_input": "hi", "parameters": parameters})
    assert answer.headers["content-type"] == "text/event-stream"
    said = {"model_name": "m", "model_version": "1"}
    assert events(answer.text) == [
        {**said, "text_output": "a", "done": False},
        {**said, "text_output": "b", "done": False},
        {**said, "text_output": "", "done": True, "finish_reason": "length"},
    ]


async def test_a_stream_that_breaks_says_so_and_is_never_done() -> None:
    front = house()
    answer = await front.post(f"{PATH}_stream", {"text_input": "break"})
    first, last = events(answer.text)
    assert (first["text_output"], first["done"]) == ("a", False)
    assert last == {"error": "the replica that held this request is gone"}
    assert front.lines.last["code"] == "overload"


async def test_the_time_limit_is_the_callers() -> None:
    front = house()
    client = ScriptedClient(whole, pieces)
    front.add("m", client, kind="generate")
    for path in (PATH, f"{PATH}_stream"):
        await front.post(path, {"text_input": "hi", "parameters": {"timeout": 1_500_000}})
    assert all(0 < (call.seconds_left() or 0) <= 1.5 for call in client.calls)
    assert len(client.calls) == 2


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (PATH, {"text_input": 1}, "text_input must be a string"),
        (PATH, {}, "text_input must be a string"),
        (PATH, {"text_input": "a", "text": "b"}, "the body has an unknown field 'text'"),
        (PATH, [], "the body must be a JSON object"),
        (PATH, {"text_input": "a", "parameters": []}, "parameters must be a JSON object"),
        (PATH, {"text_input": "a", "parameters": {"stream": 1}}, "stream must be true or false"),
        (PATH, {"text_input": "a", "parameters": {"stream": True}}, "a stream comes from generate_stream"),
        (PATH, {"text_input": "a", "parameters": {"sequence_id": 1}}, "the parameter 'sequence_id' is not supported"),
        (PATH, {"text_input": "a", "id": 1}, "id must be a string of at most 256 characters"),
        (
            "/v2/models/tensors/generate",
            {"text_input": "a"},
            "this workflow takes tensors inputs, and generates no text",
        ),
        ("/v2/models/whole/generate_stream", {"text_input": "a"}, "this workflow does not stream"),
    ],
)
async def test_what_is_refused(path: str, body: Any, message: str) -> None:
    answer = await house().post(path, body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})
    assert not SEEN
