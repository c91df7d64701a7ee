"""A conversation's turns: texts and images, the calls of tools that a model has made, and what became of them."""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from workflows.types.exchange import Exchange, absent
from workflows.types.media import file_bytes
from workflows.types.tools import MAX_CALLS, CallId, ToolCall

__all__ = ["IMAGE_TYPES", "MAX_IMAGE_BYTES", "ImagePart", "ImageType", "Message", "Part", "RemoteImagePart", "TextPart"]

MAX_PARTS: Final = 256
MAX_IMAGE_BYTES: Final = 20 << 20
MAX_URL_CHARS: Final = 8192

ImageType = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
IMAGE_TYPES: Final[tuple[str, ...]] = ("image/png", "image/jpeg", "image/gif", "image/webp")
Detail = Literal["auto", "low", "high"]


def _image_bytes(value: Any) -> bytes:
    return file_bytes(value, MAX_IMAGE_BYTES)


def _as_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


ImageBytes = Annotated[
    bytes,
    PlainValidator(_image_bytes),
    PlainSerializer(_as_base64, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 4}),
]


class TextPart(Exchange):
    """A piece of a message's text."""

    kind: ClassVar[str] = "generate"
    type: Literal["text"] = "text"
    text: str


class ImagePart(Exchange):
    """An image that comes with the message.

    Attributes:
        data: The file's bytes; in JSON as base64.
        detail: How closely the model looks at it; None is as its server has it.
    """

    kind: ClassVar[str] = "generate"
    type: Literal["image"] = "image"
    media_type: ImageType
    data: ImageBytes
    detail: Detail | None = None

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{_as_base64(self.data)}"


class RemoteImagePart(Exchange):
    """An image that the model's own server is to fetch. Nothing here ever does; a workflow may refuse it."""

    kind: ClassVar[str] = "generate"
    type: Literal["remote_image"] = "remote_image"
    url: Annotated[str, Field(pattern=r"^https?://[!-~]+$", max_length=MAX_URL_CHARS)]
    detail: Detail | None = None


Part = Annotated[TextPart | ImagePart | RemoteImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
_PARTS: Final[TypeAdapter[Any]] = TypeAdapter(Parts)


def _content(value: Any, _: object) -> Any:
    """Not as the union does it, which calls every fault by two names."""
    return value if type(value) is str else _PARTS.validate_python(value)


Content = Annotated[str | Parts, WrapValidator(_content)]


class Message(Exchange):
    """One turn of a conversation.

    Attributes:
        content: Text, or parts that follow each other; may be missing where an assistant calls tools.
        tool_calls: What an assistant wanted run.
        tool_call_id: Of a tool's message: the call whose result it is.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "user", "content": "hello"}]})
    kind: ClassVar[str] = "generate"
    role: Literal["system", "user", "assistant", "tool"]
    content: Content = ""
    tool_calls: list[ToolCall] | None = Field(default=None, min_length=1, max_length=MAX_CALLS, exclude_if=absent)
    tool_call_id: CallId | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _as_its_role_has_it(self) -> Self:
        if self.role == "user" and self.content and self.tool_calls is None and self.tool_call_id is None:
            return self  # what most are
        if self.tool_calls is not None:
            if self.role != "assistant":
                raise ValueError("only an assistant has tool_calls")
        elif "content" not in self.model_fields_set:
            raise ValueError("content is missing")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a tool's message needs a tool_call_id, and no other has one")
        return self

    @property
    def text(self) -> str:
        """Its texts, put together with nothing between them."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[ImagePart | RemoteImagePart]:
        if isinstance(self.content, str):
            return []
        return [part for part in self.content if not isinstance(part, TextPart)]
