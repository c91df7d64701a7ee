"""Conversations with images and tools, and the form of answers: what is taken, what is refused, and how calls fold."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from workflows.types import (
    Generate,
    Generated,
    ImagePart,
    Message,
    RemoteImagePart,
    ResponseFormat,
    TextChunk,
    TextPart,
    Tool,
    ToolCall,
    ToolCallPiece,
    ToolName,
    Usage,
)
from workflows.types.conversation import MAX_IMAGE_BYTES

PIXEL = b"\x89PNG\r\n\x1a\n"
IMAGE: dict[str, Any] = {"type": "image", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
USER = {"role": "user", "content": "hi"}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"id": "call-1", "name": "weather", "arguments": '{"city": "Bern"}'}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


BODIES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]},
    {"messages": [{"role": "user", "content": [{"type": "remote_image", "url": "https://host/cat.png"}]}]},
    {
        "messages": [
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "sunny", "tool_call_id": "call-1"},
        ],
        "tools": [WEATHER],
        "parallel_tool_calls": False,
    },
    *({"messages": [USER], "tools": [WEATHER], "tool_choice": choice} for choice in ("auto", "none", "required")),
    {"messages": [USER], "tools": [WEATHER, {"name": "time"}], "tool_choice": {"name": "time"}},
    {"prompt": "a", "response_format": {"type": "json_object"}},
    {"prompt": "a", "response_format": {"type": "json_schema", "name": "x", "json_schema": deep(32), "strict": True}},
]


@pytest.mark.parametrize("body", BODIES)
def test_a_request_is_the_same_after_json_and_after_its_plain_form(body: dict[str, Any]) -> None:
    adapter = TypeAdapter(Generate)
    asked = adapter.validate_python(body)
    assert adapter.validate_python(asked.model_dump()) == asked
    assert adapter.validate_json(asked.model_dump_json()) == asked
    assert adapter.validate_python(json.loads(asked.model_dump_json())) == asked


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"messages": [{"role": "user"}]}, ("messages", 0)),
        ({"messages": [{"role": "user", "content": 5}]}, ("messages", 0, "content")),
        ({"messages": [{"role": "user", "content": []}]}, ("messages", 0, "content")),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, ("messages", 0, "content", 0)),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 257}]},
            ("messages", 0, "content"),
        ),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]}, ("messages", 0)),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, ("messages", 0, "tool_calls")),
        ({"messages": [{"role": "tool", "content": "a"}]}, ("messages", 0)),
        ({"messages": [{**USER, "tool_call_id": "a"}]}, ("messages", 0)),
        ({"messages": [USER], "tool_choice": "auto"}, ()),
        ({"messages": [USER], "tools": []}, ("tools",)),
        ({"messages": [USER], "tools": [{"name": f"t{index}"} for index in range(129)]}, ("tools",)),
        ({"messages": [USER], "tools": [WEATHER, WEATHER]}, ()),
        ({"messages": [USER], "tools": [WEATHER], "tool_choice": {"name": "time"}}, ()),
        ({"messages": [USER], "tools": [WEATHER], "tool_choice": "any"}, ("tool_choice",)),
        ({"messages": [USER], "tools": [WEATHER], "tool_choice": ["auto"]}, ("tool_choice",)),
        ({"messages": [USER], "tools": [WEATHER], "tool_choice": {"name": 1}}, ("tool_choice", "name")),
        ({"prompt": "a", "tools": [WEATHER]}, ()),
        ({"messages": [USER], "tools": [{"name": "a b"}]}, ("tools", 0, "name")),
        ({"prompt": "a", "response_format": {"type": "json_schema"}}, ("response_format",)),
        ({"prompt": "a", "response_format": {"type": "text", "name": "a"}}, ("response_format",)),
    ],
)
def test_what_makes_no_sense_is_refused_in_its_place(body: dict[str, Any], place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        Generate.model_validate(body)
    assert [error["loc"] for error in refused.value.errors()] == [place]


@pytest.mark.parametrize(
    "schema",
    [
        deep(33),
        {"a": [None] * 5000},
        {"a": "x" * (65 << 10)},
        {"x" * (65 << 10): 1},
        {"a": float("nan")},
        {"a": {1: 2}},
        {"a": b"x"},
        {"a": (1,)},
        [],
    ],
)
def test_a_schema_is_json_of_a_bounded_size(schema: Any) -> None:
    with pytest.raises(ValidationError):
        Tool(name="a", parameters=schema)


def test_a_schema_that_holds_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["not"] = schema
    with pytest.raises(ValidationError, match="32 levels deep"):
        Tool(name="a", parameters=schema)


# ---- images ---------------------------------------------------------------------------------------------------------------


def test_an_image_is_bytes_or_their_base64() -> None:
    part = ImagePart(media_type="image/png", data=PIXEL)
    assert ImagePart.model_validate(IMAGE) == part
    assert part.data_url == f"data:image/png;base64,{IMAGE['data']}"
    assert part.model_dump()["data"] == PIXEL
    assert json.loads(part.model_dump_json())["data"] == IMAGE["data"]


@pytest.mark.parametrize("data", ["", b"", "!", "aGV", "aGVq\n", 5, None, "ä", b"x" * (MAX_IMAGE_BYTES + 1)])
def test_what_is_no_image_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError):
        ImagePart.model_validate({**IMAGE, "data": data})


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValidationError, match="at most"):
        ImagePart.model_validate({**IMAGE, "data": "!" * (MAX_IMAGE_BYTES // 3 * 4 + 5)})


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "file:///etc/passwd", "data:image/png;base64,aGVq", "https://a b", "http://"]
)
def test_a_remote_image_is_on_the_web(url: str) -> None:
    with pytest.raises(ValidationError):
        RemoteImagePart(url=url)


def test_a_message_tells_its_texts_and_its_images() -> None:
    picture = ImagePart(media_type="image/png", data=PIXEL)
    message = Message(role="user", content=[TextPart(text="what "), picture, TextPart(text="is it?")])
    assert (message.text, message.images) == ("what is it?", [picture])
    plain = Message(role="user", content="hi")
    assert (plain.text, plain.images) == ("hi", [])


# ---- calls in answers ---------------------------------------------------------------------------------------------------

USAGE = Usage(prompt_tokens=1, completion_tokens=3)
END = TextChunk(text="", finish_reason="tool_calls", usage=USAGE)


def piece(index: int, arguments: str = "", **said: str) -> TextChunk:
    return TextChunk(text="", tool_calls=[ToolCallPiece(index=index, arguments=arguments, **said)])


def test_calls_that_came_in_pieces_are_folded() -> None:
    chunks = [
        TextChunk(text="wait"),
        piece(1, "{", id="b", name="time"),
        piece(0, id="a", name="weather"),
        piece(0, '{"city": '),
        piece(1, "}"),
        piece(0, '"Bern"}'),
        END,
    ]
    whole = Generated.fold(chunks)
    assert (whole.text, whole.finish_reason) == ("wait", "tool_calls")
    assert whole.tool_calls == [
        ToolCall(id="a", name="weather", arguments='{"city": "Bern"}'),
        ToolCall(id="b", name="time", arguments="{}"),
    ]


def test_calls_of_the_last_chunk_count() -> None:
    last = END.model_copy(update={"tool_calls": [ToolCallPiece(index=0, id="a", name="weather", arguments="{}")]})
    assert Generated.fold([last]).tool_calls == [ToolCall(id="a", name="weather", arguments="{}")]


def test_where_nothing_is_called_nothing_is_told() -> None:
    whole = Generated.fold([TextChunk(text="a", finish_reason="stop", usage=USAGE)])
    assert whole.tool_calls is None
    assert "tool_calls" not in whole.model_dump()
    assert "tool_calls" not in TextChunk(text="a").model_dump()


@pytest.mark.parametrize(
    "chunks",
    [
        [piece(0, "{}", id="a")],
        [piece(0, "{}", name="weather")],
        [piece(0, id="a", name="weather"), piece(0, id="b")],
        [piece(0, id="a", name="weather"), piece(0, name="time")],
    ],
)
def test_half_a_call_does_not_fold(chunks: list[TextChunk]) -> None:
    with pytest.raises(ValueError, match="tool call"):
        Generated.fold([*chunks, END])


def test_choices_and_formats_are_typed() -> None:
    asked = Generate(
        messages=[Message(role="user", content="hi")],
        tools=[Tool(name="weather")],
        tool_choice=ToolName(name="weather"),
        response_format=ResponseFormat(type="json_object"),
    )
    assert isinstance(asked.tool_choice, ToolName)
