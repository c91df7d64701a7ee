"""Exchange types: the few shapes of data on which protocols and workflows meet. Protocols make them, workflows take them.

| kind       | input      | output          | stream chunk |
|------------|------------|-----------------|--------------|
| `tensors`  | `Tensors`  | `TensorsResult` |              |
| `generate` | `Generate` | `Generated`     | `TextChunk`  |
| `embed`    | `Embed`    | `Embedding`     |              |
| `json`     | any other pydantic model or JSON value, served by the native protocol as it is |||

A type that can be put together from a stream's chunks has a class method `fold`. Validation is strict: "5" is no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, Array, element_kind, tensor_from_json, tensor_to_json

__all__ = [
    "Embed",
    "Embedding",
    "Exchange",
    "Generate",
    "Generated",
    "Message",
    "Sampling",
    "Tensor",
    "Tensors",
    "TensorsResult",
    "TextChunk",
    "Usage",
    "Vector",
    "fold",
]

MAX_FIELDS = 64
MAX_STOP_STRINGS = 16
MAX_MESSAGES = 2048
MAX_TOKENS = 1 << 20
FinishReason = Literal["stop", "length"]


class _TensorForm:
    """Lets pydantic carry a numpy array: `{"dtype", "shape", "data"}` in JSON, the array itself in Python."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda array: {**tensor_to_json(array), "data": array.ravel().tolist()}, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "object",
            "properties": {
                "dtype": {"enum": list(DTYPES)},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array", "description": "row-major elements, flat or nested as `shape` says"},
            },
            "required": ["dtype", "shape", "data"],
            "additionalProperties": False,
        }

    @staticmethod
    def parse(value: object) -> Array:
        if isinstance(value, np.ndarray):
            kind = element_kind(value.dtype)
            if kind not in "biufOUS" or (kind == "O" and not _holds_text(value)):
                raise ValueError("an array of numbers, booleans or text is needed")
            return value
        if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data"}:
            raise ValueError("a tensor has exactly the fields dtype, shape and data")
        try:
            return tensor_from_json("", value["dtype"], value["shape"], value["data"])
        except InvalidInput as error:
            raise ValueError(error.message.removeprefix("tensor '': ")) from error


class _VectorForm:
    """A one-dimensional array that is a plain list of numbers in JSON."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda array: array.tolist(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "array", "items": {"type": "number"}}

    @staticmethod
    def parse(value: object) -> Array:
        if isinstance(value, np.ndarray):
            if value.ndim != 1 or element_kind(value.dtype) not in "iuf":
                raise ValueError("a vector has one dimension, of numbers")
            return value
        if not isinstance(value, list):
            raise ValueError("a vector is a list of numbers")
        try:
            return tensor_from_json("", "float32", [len(value)], value)
        except InvalidInput as error:
            raise ValueError(error.message.removeprefix("tensor '': ")) from error


def _holds_text(array: Array) -> bool:
    return all(isinstance(item, str | bytes) for item in array.ravel().tolist())


Tensor = Annotated[Array, _TensorForm]
Vector = Annotated[Array, _VectorForm]


class Exchange(BaseModel):
    """The base of all exchange types: strict, closed and immutable. Their errors do not show what was sent."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )
    kind: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: object) -> object:
        """Says no before a million unknown fields are each complained of."""
        if isinstance(value, Mapping) and len(value) > MAX_FIELDS:
            raise ValueError("too many fields")
        return value


class Tensors(Exchange):
    """Named arrays for a tensor model.

    Attributes:
        inputs: Arrays by the model's own input names, none where it takes none. Where the model batches, the leading axis
            counts rows.
        outputs: The outputs wanted, in this order; None means all, in the model's order.
        parameters: Whatever else the model understands; a workflow refuses what it does not know.
    """

    kind: ClassVar[str] = "tensors"
    inputs: dict[str, Tensor] = Field(max_length=1024)
    outputs: list[str] | None = Field(default=None, min_length=1, max_length=1024)
    parameters: dict[str, Any] = Field(default_factory=dict)


class TensorsResult(Exchange):
    """Named arrays from a tensor model, in the order asked for."""

    kind: ClassVar[str] = "tensors"
    outputs: dict[str, Tensor]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Sampling(Exchange):
    """How the next token is chosen. `temperature` 0 is greedy; with a `seed`, sampling is repeatable."""

    kind: ClassVar[str] = "generate"
    max_tokens: int = Field(default=128, ge=1, le=MAX_TOKENS)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS
    )


class Message(Exchange):
    """One turn of a conversation."""

    kind: ClassVar[str] = "generate"
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Generate(Exchange):
    """Text to continue (`prompt`), or a conversation to answer (`messages`): exactly one of the two."""

    kind: ClassVar[str] = "generate"
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    sampling: Sampling = Field(default_factory=Sampling)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class Usage(Exchange):
    """Tokens read and tokens made, as the model's own tokenizer counts them."""

    kind: ClassVar[str] = "generate"
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class TextChunk(Exchange):
    """A piece of generated text. Only the last chunk of a stream has a `finish_reason` and the `usage` of the whole."""

    kind: ClassVar[str] = "generate"
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Generated(Exchange):
    """A whole generated text."""

    kind: ClassVar[str] = "generate"
    text: str
    finish_reason: FinishReason
    usage: Usage

    @classmethod
    def fold(cls, chunks: Iterable[TextChunk]) -> Generated:
        """Join a stream. Raises ValueError if it ended without a finish reason or usage."""
        texts: list[str] = []
        last: TextChunk | None = None
        for last in chunks:
            texts.append(last.text)
        if last is None or last.finish_reason is None or last.usage is None:
            raise ValueError("the stream ended without a finish reason")
        return cls(text="".join(texts), finish_reason=last.finish_reason, usage=last.usage)


class Embed(Exchange):
    """A text to place in a vector space."""

    kind: ClassVar[str] = "embed"
    text: str


class Embedding(Exchange):
    """Where the text landed: `embedding` is float32 of shape (dimensions,); `tokens` counts what the model read."""

    kind: ClassVar[str] = "embed"
    embedding: Vector
    tokens: int = Field(ge=0)


def fold(output_type: object, chunks: Iterable[Any]) -> Any:
    """One answer from a stream's chunks, as the output type says: by its own `fold`, or joined where it is text or bytes,
    or gathered in a list, tuple or set.

    Of what is none of these, an `Any` for example, text is joined and the rest a list.
    """
    declared = _bare(output_type)
    own = getattr(declared, "fold", None)
    if callable(own):
        return own(chunks)
    parts = list(chunks)
    kind = get_origin(declared) or declared
    if isinstance(kind, type):
        if issubclass(kind, str):
            return "".join(parts)
        if issubclass(kind, bytes):
            return b"".join(parts)
        if kind in (tuple, set, frozenset):
            return kind(parts)
        if issubclass(kind, Iterable) and not issubclass(kind, BaseModel | Mapping):
            return parts
    return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else parts


def _bare(declared: Any) -> Any:
    """A type without what is said about it: `Annotated[str, ...]`, `str | None`, an alias or a new type of `str`."""
    if get_origin(declared) is Annotated:
        return _bare(get_args(declared)[0])
    meant = getattr(declared, "__value__", None) or getattr(declared, "__supertype__", None)
    if meant is not None:
        return _bare(meant)
    if get_origin(declared) in (Union, UnionType):
        members = [member for member in get_args(declared) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else declared
    return declared
