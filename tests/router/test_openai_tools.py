"""Tools, images and answers in JSON through OpenAI's protocol: what a workflow is asked, and how its calls are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from deployments.router.protocols.openai.chat import chat_inputs
from deployments.router.protocols.openai.requests import ChatRequest
from tests.router.openai_house import CHAT, House, events, exact
from tests.router.router_front import ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput
from workflows.types import Generate
from workflows.types.conversation import MAX_IMAGE_BYTES
from workflows.types.media import base64_chars

USER = {"role": "user", "content": "how is it in Bern?"}
WEATHER = {"name": "weather", "description": "How it is.", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": WEATHER}
TIME = {"type": "function", "function": {"name": "time"}}
ASKED = {"model": "gpt", "messages": [USER]}
CALL = {"id": "call-1", "name": "weather", "arguments": '{"city": "Bern"}'}
TOLD = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5}


class Calling(House):
    """Its workflow `caller` calls the same tool whatever it is asked: in pieces, or whole."""

    def __init__(self) -> None:
        super().__init__()
        self.add("caller", ScriptedClient(self.called, self.calling), kind="generate")

    async def called(self, input_data: Any, call: CallContext) -> Any:
        self.seen.append(Generate.model_validate(input_data))
        return {"text": "", "finish_reason": "tool_calls", "usage": USAGE, "tool_calls": [CALL]}

    async def calling(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        self.seen.append(Generate.model_validate(input_data))
        nothing = {"text": "", "finish_reason": None, "usage": None}
        yield [{**nothing, "text": "wait"}]
        yield [{**nothing, "tool_calls": [{"index": 0, "id": "call-1", "name": "weather", "arguments": ""}]}]
        more = [{"index": 0, "id": None, "name": None, "arguments": part} for part in ('{"city":', ' "Bern"}')]
        yield [{**nothing, "tool_calls": [piece]} for piece in more]
        last = {"index": 1, "id": "call-2", "name": "time", "arguments": "{}"}
        yield [{**nothing, "tool_calls": [last], "finish_reason": "tool_calls", "usage": USAGE}]


async def seen(**fields: Any) -> dict[str, Any]:
    """What the workflow is asked, beside its sampling."""
    house = House()
    answer = await house.post(CHAT, {**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    (asked,) = house.seen
    del asked["sampling"]
    return dict(asked)


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"tools": [TOOL]}, {"tools": [WEATHER]}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tools": [WEATHER], "tool_choice": "required"}),
        ({"tools": [TIME], "tool_choice": "none"}, {"tools": [{"name": "time"}], "tool_choice": "none"}),
        ({"tools": [TIME], "tool_choice": "auto"}, {"tools": [{"name": "time"}], "tool_choice": "auto"}),
        ({"tools": [TIME], "parallel_tool_calls": False}, {"tools": [{"name": "time"}], "parallel_tool_calls": False}),
        (
            {"tools": [TOOL, TIME], "tool_choice": {"type": "function", "function": {"name": "time"}}},
            {"tools": [WEATHER, {"name": "time"}], "tool_choice": {"name": "time"}},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tools": None, "tool_choice": "none"}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            {"response_format": {"type": "json_schema", "name": "x", "json_schema": SCHEMA, "strict": True}},
        ),
    ],
)
async def test_what_the_workflow_is_asked(fields: dict[str, Any], asked: dict[str, Any]) -> None:
    assert await seen(**fields) == {"messages": [USER], **asked}


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ({"url": "data:image/png;base64,aGVq"}, {"type": "image", "media_type": "image/png", "data": "aGVq"}),
        (
            {"url": "data:IMAGE/JPG;base64,aGVq", "detail": "low"},
            {"type": "image", "media_type": "image/jpeg", "data": "aGVq", "detail": "low"},
        ),
        ({"url": "https://host/a.png"}, {"type": "remote_image", "url": "https://host/a.png"}),
    ],
)
async def test_images_travel_as_parts(image: dict[str, Any], part: dict[str, Any]) -> None:
    house = Calling()
    content = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": image}]
    messages = [{"role": "user", "content": content}]
    answer = await house.post(CHAT, {"model": "caller", "messages": messages})
    assert answer.status_code == 200, answer.text
    (message,) = house.seen[0].messages
    assert message == type(message).model_validate(
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}
    )


async def test_calls_and_their_results_are_part_of_a_conversation() -> None:
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [TOLD]},
        {"role": "tool", "content": [{"type": "text", "text": "sunny"}], "tool_call_id": "call-1"},
        {"role": "assistant", "content": "It is sunny.", "tool_calls": []},
        {"role": "user", "content": "thanks"},
    ]
    assert (await seen(messages=turns, tools=[TOOL]))["messages"] == [
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call-1"},
        {"role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": "thanks"},
    ]


def image(url: Any, **more: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools.0.function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": 1}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (image("file:///etc/passwd"), "messages.0.content"),
        (image("data:image/svg;base64,aGVq"), "messages.0.content"),
        (image("data:text/html;base64,aGVq"), "messages.0.content"),
        (image("data:image/png;base64,"), "messages.0.content"),
        (image("https://a b"), "messages.0.content"),
        (image("https://" + "a" * 9000), "messages.0.content"),
        (image(5), "messages.0.content"),
        (image("https://a/b", detail="all"), "messages.0.content"),
    ],
)
async def test_what_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    house = House()
    answer = await house.post(CHAT, {**ASKED, **fields})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert not house.seen


def test_a_picture_is_no_longer_than_its_bytes_in_base64() -> None:
    most = base64_chars(MAX_IMAGE_BYTES)
    for size, taken in ((most, True), (most + 1, False)):
        with nullcontext() if taken else pytest.raises(InvalidInput, match="an image has 1 to"):
            chat_inputs(image("data:image/png;base64," + "A" * size), 1)


TEXT_PART = {"type": "text", "text": "a"}
DESCRIBED: list[tuple[bool, dict[str, Any]]] = [
    (True, USER),
    (True, {"role": "user", "content": [TEXT_PART]}),
    (False, {"role": "user", "content": None}),
    (False, {"role": "user", "content": "a", "tool_calls": [TOLD]}),
    (True, {"role": "assistant", "content": None, "tool_calls": [TOLD]}),
    (True, {"role": "assistant", "content": "a", "tool_calls": []}),
    (False, {"role": "assistant", "content": None, "tool_calls": []}),
    (True, {"role": "tool", "content": "a", "tool_call_id": "call-1"}),
    (False, {"role": "tool", "content": "a"}),
    (False, {"role": "tool", "content": "a", "tool_call_id": None}),
    (True, image("https://host/a")["messages"][0]),
    (True, image("data:image/jpg;base64,aGVq")["messages"][0]),
    (False, image("data:image/svg;base64,aGVq")["messages"][0]),
    (False, image("file:///etc/passwd")["messages"][0]),
]


@pytest.mark.parametrize(("taken", "turn"), DESCRIBED)
def test_turns_are_taken_as_they_are_described(taken: bool, turn: dict[str, Any]) -> None:
    body = {"messages": [turn]}
    assert Draft202012Validator(ChatRequest.model_json_schema()).is_valid(body) is taken
    with nullcontext() if taken else pytest.raises(InvalidInput):
        chat_inputs(body, 1)


async def test_calls_are_told_whole() -> None:
    answer = await Calling().post(CHAT, {**ASKED, "model": "caller", "tools": [TOOL]})
    body = answer.json()
    exact(ChatCompletion, body)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [TOLD]}


async def test_calls_are_told_in_pieces() -> None:
    asked = {**ASKED, "model": "caller", "tools": [TOOL, TIME], "stream": True}
    answer = await Calling().post(CHAT, asked)
    told = events(answer.text)
    for event in told:
        exact(ChatCompletionChunk, event)
    deltas = [event["choices"][0]["delta"] for event in told]
    assert deltas == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "wait"},
        {
            "tool_calls": [
                {"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "Bern"}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call-2", "type": "function", "function": {"name": "time", "arguments": "{}"}}
            ]
        },
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in told] == [None] * 6 + ["tool_calls"]


@pytest.mark.parametrize("calls", ["x", {"a": 1}, [5], [{"id": "a"}]])
async def test_calls_that_are_none_are_a_bad_output(calls: Any) -> None:
    house = House()

    async def whole(input_data: Any, call: CallContext) -> Any:
        return {"text": "", "finish_reason": "tool_calls", "usage": USAGE, "tool_calls": calls}

    house.add("odd", ScriptedClient(whole), kind="generate")
    answer = await house.post(CHAT, {**ASKED, "model": "odd", "tools": [TOOL]})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "non_finite_output"
