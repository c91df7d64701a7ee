"""What chat requests bring beside text, as models: images, tools, calls of them, and the form of the answer.

Each says of itself what a workflow is asked. Images are not looked at here: they travel as they came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from workflows.types.conversation import IMAGE_TYPES, MAX_IMAGE_BYTES, MAX_PARTS, MAX_URL_CHARS
from workflows.types.media import base64_chars
from workflows.types.tools import (
    MAX_ARGUMENT_CHARS,
    MAX_CALLS,
    MAX_TOOLS,
    CallId,
    Description,
    FunctionName,
    JsonSchema,
    choice_or,
)

__all__ = ["ToolAsked", "ToolChoiceAsked", "Tools", "Turn", "WantedForm", "tools_said"]

_ROLES: Final[Mapping[str, str]] = {"developer": "system"}
"""Roles that models know by another name."""
_DETAILS: Final = ("auto", "low", "high")
_HEAD: Final = re.compile(r"data:(image/[a-z]+);base64,", re.IGNORECASE)
_MAX_HEAD_CHARS: Final = 64
_WEB: Final = re.compile(r"https?://[!-~]+")
_SAME_TYPE: Final[Mapping[str, str]] = {"image/jpg": "image/jpeg"}
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_URL: Final = r"^(data:image/(png|jpe?g|gif|webp);base64,[A-Za-z0-9+/]+={0,2}|https?://[!-~]+)$"
_PART: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "object", "properties": {"type": {"const": "text"}, "text": _TEXT}, "required": ["type", "text"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {
                    "type": "object",
                    "properties": {"url": {**_TEXT, "pattern": _URL}, "detail": {"enum": [*_DETAILS, None]}},
                    "required": ["url"],
                },
            },
            "required": ["type", "image_url"],
        },
    ]
}
_CONTENT: Final[dict[str, Any]] = {
    "anyOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": MAX_PARTS, "items": _PART}, {"type": "null"}]
}
_SAID: Final[dict[str, Any]] = {"type": ["string", "array"]}
_NO_CALLS: Final[dict[str, Any]] = {"maxItems": 0}
_TURNS: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "properties": {
                "role": {"enum": ["system", "developer", "user"]},
                "content": _SAID,
                "tool_calls": _NO_CALLS,
            },
            "required": ["content"],
        },
        {
            "properties": {"role": {"const": "tool"}, "content": _SAID, "tool_calls": _NO_CALLS, "tool_call_id": _TEXT},
            "required": ["content", "tool_call_id"],
        },
        {"properties": {"role": {"const": "assistant"}, "content": _SAID}, "required": ["content"]},
        {
            "properties": {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}},
            "required": ["tool_calls"],
        },
    ]
}
"""What a turn needs, by its role."""


def _content(value: Any, info: ValidationInfo) -> Any:
    """A message's text or its parts, as workflows take them. Texts alone are put together, with nothing between them."""
    if isinstance(value, str) or (value is None and info.data.get("tool_calls") is not None):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("a string, or a list of parts is needed")
    if len(value) > MAX_PARTS:
        raise ValueError(f"no more than {MAX_PARTS} parts in one message")
    parts = [_part(part) for part in value]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "".join(texts) if len(texts) == len(parts) else parts


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError("each part must be an object with a type")
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError("a part's text must be a string")
        return {"type": "text", "text": part["text"]}
    if part["type"] != "image_url":
        raise ValueError("parts of other types than text and image_url are not supported here")
    image = part.get("image_url")
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        raise ValueError("a part's image_url must be an object with a url")
    detail = image.get("detail")
    if detail is not None and detail not in _DETAILS:
        raise ValueError("an image's detail is auto, low or high")
    return _image(image["url"], {} if detail is None else {"detail": detail})


def _image(url: str, more: dict[str, Any]) -> dict[str, Any]:
    """From a data URL the image; any other is for the model's own server, if the workflow lets it."""
    if head := _HEAD.match(url[:_MAX_HEAD_CHARS]):
        named = head[1].lower()
        media_type = _SAME_TYPE.get(named, named)
        if media_type not in IMAGE_TYPES:
            raise ValueError(f"images are of one of the types {', '.join(IMAGE_TYPES)}")
        if not 0 < len(url) - head.end() <= base64_chars(MAX_IMAGE_BYTES):
            raise ValueError(f"an image has 1 to {MAX_IMAGE_BYTES} bytes")
        return {"type": "image", "media_type": media_type, "data": url[head.end() :], **more}
    if len(url) > MAX_URL_CHARS or not _WEB.fullmatch(url):
        raise ValueError("an image's url is a data URL in base64, or begins with http:// or https://")
    return {"type": "remote_image", "url": url, **more}


def _no_other_answers(value: Any) -> Any:
    """What a message brings beside; clients that send an answer back send its empty fields with it."""
    if isinstance(value, dict):
        for name in ("function_call", "audio", "refusal"):
            if value.get(name) not in (None, [], ""):
                raise ValueError(f"{name} is not supported here")
    return value


def _none_if_empty(value: Any) -> Any:
    return None if value == [] else value


Content = Annotated[Any, PlainValidator(_content), WithJsonSchema(_CONTENT)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


# ---- tools ---------------------------------------------------------------------------------------------------------------


class _Function(_Part):
    name: FunctionName
    description: Description | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class ToolAsked(_Part):
    """A function that the model may call."""

    type: Literal["function"]
    function: _Function


class _Named(_Part):
    name: FunctionName


class ToolChosen(_Part):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: _Named


Tools = Annotated[
    Annotated[list[ToolAsked], Field(max_length=MAX_TOOLS)] | None,
    BeforeValidator(_none_if_empty),
]


ToolChoiceAsked = Annotated[Literal["none", "auto", "required"] | ToolChosen, choice_or(ToolChosen)]


class _Called(_Part):
    name: FunctionName
    arguments: Annotated[str, Field(max_length=MAX_ARGUMENT_CHARS)]


class CallMade(_Part):
    """A call that the model has made before."""

    id: CallId
    type: Literal["function"]
    function: _Called

    def said(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.function.name, "arguments": self.function.arguments}


# ---- turns and answers ---------------------------------------------------------------------------------------------------


class Turn(_Part):
    """One turn of a conversation."""

    model_config = ConfigDict(json_schema_extra=_TURNS)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[
        Annotated[list[CallMade], Field(max_length=MAX_CALLS)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """What the assistant has called."""
    content: Content = Field(default=None, validate_default=True)
    """Only an assistant that calls tools needs none."""
    tool_call_id: CallId | None = None
    """Of a tool's turn, and needed there: the call whose result it is."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, value: Any) -> Any:
        return _no_other_answers(value)

    @model_validator(mode="after")
    def _as_its_role_has_it(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only an assistant has tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a tool's message needs a tool_call_id")
        return self

    def said(self) -> dict[str, Any]:
        """As workflows take it."""
        said = {"role": _ROLES.get(self.role, self.role)}
        if self.content is not None:
            said["content"] = self.content
        if self.tool_calls is not None:
            return {**said, "tool_calls": [call.said() for call in self.tool_calls]}
        return {**said, "tool_call_id": self.tool_call_id} if self.role == "tool" else said


class _Schema(_Part):
    name: FunctionName
    description: Description | None = None
    schema_: Annotated[JsonSchema, Field(alias="schema")]
    strict: bool | None = None


class WantedForm(_Part):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None
    """Where the type is `json_schema`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    def said(self) -> dict[str, Any] | None:
        """As workflows take it; None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_object" or self.json_schema is None:
            return {"type": "json_object"}
        schema = self.json_schema
        said = {"type": self.type, "name": schema.name, "json_schema": schema.schema_}
        return {**said, **_known(description=schema.description, strict=schema.strict)}


def tools_said(tools: list[ToolAsked] | None, choice: ToolChoiceAsked | None, parallel: bool | None) -> dict[str, Any]:
    """What a workflow is asked, as fields of its input. Raises ValueError for a choice that there is not."""
    if tools is None:
        if choice not in (None, "none", "auto"):
            raise ValueError("tool_choice: there are no tools to choose from")
        return {}
    names = {tool.function.name for tool in tools}
    if len(names) < len(tools):
        raise ValueError("tools: two of them have the same name")
    said: dict[str, Any] = {"tools": [tool.function.model_dump(exclude_none=True) for tool in tools]}
    if isinstance(choice, ToolChosen):
        if choice.function.name not in names:
            raise ValueError("tool_choice: none of the tools has that name")
        said["tool_choice"] = {"name": choice.function.name}
    elif choice is not None:
        said["tool_choice"] = choice
    return {**said, **_known(parallel_tool_calls=parallel)}


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
