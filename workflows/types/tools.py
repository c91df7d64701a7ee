"""Tools that a model may call, its calls of them, and the form that an answer must have. Runs no tool."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, WrapValidator, model_validator

from workflows.types.exchange import Exchange

__all__ = [
    "MAX_CALLS",
    "MAX_TOOLS",
    "CallId",
    "FunctionName",
    "JsonSchema",
    "ResponseFormat",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolChoice",
    "ToolName",
    "choice_or",
    "whole_calls",
]

MAX_TOOLS: Final = 128
MAX_CALLS: Final = 128
MAX_SCHEMA_DEPTH: Final = 32
MAX_SCHEMA_PARTS: Final = 4096
MAX_SCHEMA_CHARS: Final = 64 << 10
MAX_ARGUMENT_CHARS: Final = 1 << 20
MAX_DESCRIPTION_CHARS: Final = 16 << 10

_CHOICES: Final = ("none", "auto", "required")
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Whether it is plain JSON of a size that every reader can bear. What it means is for the model's server to say."""
    parts, chars = 0, 0
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        parts += len(level)
        if parts > MAX_SCHEMA_PARTS:
            raise ValueError(f"a schema has at most {MAX_SCHEMA_PARTS} parts")
        below: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is dict:
                if not all(type(key) is str for key in part):
                    raise ValueError("the keys of a schema must be strings")
                chars += sum(map(len, part))
                below += part.values()
            elif kind is list:
                below += part
            elif kind is str:
                chars += len(part)
            elif kind not in _LEAVES or (kind is float and not math.isfinite(part)):
                raise ValueError("a schema holds nothing but JSON")
        if chars > MAX_SCHEMA_CHARS:
            raise ValueError(f"a schema has at most {MAX_SCHEMA_CHARS} characters")
        if not below:
            return schema
        level = below
    raise ValueError(f"a schema is nested at most {MAX_SCHEMA_DEPTH} levels deep")


FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
JsonSchema = Annotated[dict[str, Any], AfterValidator(_bounded)]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)]


class Tool(Exchange):
    """A function that the model may ask the caller to run.

    Attributes:
        parameters: JSON Schema of its arguments, an object; None is a function without any.
        strict: Whether the arguments must match the schema to the letter; None is as the model's server has it.
    """

    kind: ClassVar[str] = "generate"
    name: FunctionName
    description: Description | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class ToolName(Exchange):
    """The one tool that the model must call."""

    kind: ClassVar[str] = "generate"
    name: FunctionName


def choice_or(tool: type[BaseModel]) -> WrapValidator:
    """Reads a choice, or a tool in this form. Not as a union does it, which calls every fault by the names of its types."""

    def read(value: Any, _: object) -> Any:
        if isinstance(value, dict | tool):
            return tool.model_validate(value)
        if isinstance(value, str) and value in _CHOICES:
            return value
        raise ValueError(f"one of {', '.join(_CHOICES)} is needed, or a tool")

    return WrapValidator(read)


ToolChoice = Annotated[Literal["auto", "none", "required"] | ToolName, choice_or(ToolName)]
"""Whether the model calls tools: as it likes, never, at least one, or this one."""


class ResponseFormat(Exchange):
    """The form of an answer: any text, a JSON object, or JSON that matches a schema.

    Attributes:
        name: Of the schema, for the model to read.
        json_schema: For type `json_schema`, and no other.
        strict: Whether the answer must match it to the letter; None is as the model's server has it.
    """

    kind: ClassVar[str] = "generate"
    type: Literal["text", "json_object", "json_schema"]
    name: FunctionName | None = None
    description: Description | None = None
    json_schema: JsonSchema | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.type == "json_schema":
            if self.name is None or self.json_schema is None:
                raise ValueError("json_schema needs a name and the json_schema itself")
        elif (self.name, self.description, self.json_schema, self.strict) != (None, None, None, None):
            raise ValueError("only json_schema has a name, a description, a schema and strict")
        return self


class ToolCall(Exchange):
    """A tool that the model wants run.

    Attributes:
        id: By which the message with its result refers to it.
        arguments: JSON, as far as the model wrote JSON.
    """

    kind: ClassVar[str] = "generate"
    id: CallId
    name: FunctionName
    arguments: str = Field(max_length=MAX_ARGUMENT_CHARS)


class ToolCallPiece(Exchange):
    """What a chunk tells of a call: the whole of it, or its beginning and later more of its arguments.

    Attributes:
        index: Which call of the answer it is, from 0.
        id: In a call's first piece, as `name`.
        arguments: What follows the arguments of the pieces before.
    """

    kind: ClassVar[str] = "generate"
    index: int = Field(ge=0, lt=MAX_CALLS)
    id: CallId | None = None
    name: FunctionName | None = None
    arguments: str = Field(default="", max_length=MAX_ARGUMENT_CHARS)


def whole_calls(pieces: Iterable[ToolCallPiece]) -> list[ToolCall]:
    """The calls that the pieces of a stream make together, by index. Raises ValueError for one that never said its name
    and id, or said them twice and differently."""
    names: dict[int, tuple[str | None, str | None]] = {}
    arguments: dict[int, list[str]] = {}
    for piece in pieces:
        said = names.get(piece.index, (None, None))
        names[piece.index] = _same(said[0], piece.id), _same(said[1], piece.name)
        arguments.setdefault(piece.index, []).append(piece.arguments)
    calls = []
    for index, (call_id, name) in sorted(names.items()):
        if call_id is None or name is None:
            raise ValueError("a tool call has no id or no name")
        calls.append(ToolCall(id=call_id, name=name, arguments="".join(arguments[index])))
    return calls


def _same(said: str | None, again: str | None) -> str | None:
    if said is not None and again is not None and said != again:
        raise ValueError("a tool call changed its id or its name")
    return said if again is None else again
