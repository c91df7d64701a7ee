"""What those who follow OpenAI answer, as far as it is read: strict where they agree, and open to what they add.

`null` is as if a field were not there. What is none of this raises pydantic's ValidationError, which means a broken answer.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from workflows.tensors import Array

__all__ = ["Choice", "EmbeddingsForm", "Logprobs", "TextForm", "ToolCallForm", "UsageForm"]

MAX_CHOICES: Final = 8
MAX_FLOATS: Final = 1 << 20


def _or_empty(value: Any) -> Any:
    return [] if value is None else value


def _text(value: Any) -> Any:
    """The text of a content in parts; those that are none, thoughts for example, are no part of the answer."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) for part in value):
        raise ValueError("a part of a content is no object")
    texts = [part.get("text") for part in value if part.get("type") == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a part's text is none")
    return "".join(texts)


def _vector(value: Any) -> Array:
    """Numbers, or their base64 as little-endian float32."""
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        elif isinstance(value, list) and {float, int} >= set(map(type, value)):
            vector = np.asarray(value, np.float32)
        else:
            raise ValueError("no vector")
    except (binascii.Error, OverflowError) as error:
        raise ValueError("no vector") from error
    if not 0 < vector.size <= MAX_FLOATS or not np.isfinite(vector).all():
        raise ValueError("no vector of finite numbers")
    return vector


class _Form(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, arbitrary_types_allowed=True)


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Text = Annotated[str, BeforeValidator(_text)]


class _PromptDetails(_Form):
    cached_tokens: Count | None = None


class _CompletionDetails(_Form):
    reasoning_tokens: Count | None = None


class UsageForm(_Form):
    """Tokens, and as DeepSeek says it, how many of the prompt were known."""

    prompt_tokens: Count
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: Count | None = None


class _FunctionForm(_Form):
    name: str | None = None
    arguments: Text = ""


class ToolCallForm(_Form):
    """A call, or a piece of it. Who tells whole ones leaves out the index."""

    index: Count | None = None
    id: str | None = None
    function: _FunctionForm


class _Said(_Form):
    """A message, or what is new of it."""

    content: Text = ""
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCallForm], BeforeValidator(_or_empty)] = []


def _bytes_or_none(value: Any) -> bytes | None:
    """A list of numbers; what is none is no reason to refuse the answer, which does not need it."""
    try:
        return bytes(value) if isinstance(value, list) else None
    except (TypeError, ValueError):
        return None


class _TopForm(_Form):
    token: str
    logprob: float
    raw: Annotated[bytes | None, PlainValidator(_bytes_or_none), Field(alias="bytes")] = None
    """What the token is, where its text is half a character."""


class _TokenForm(_TopForm):
    top_logprobs: Annotated[list[_TopForm], BeforeValidator(_or_empty)] = []


class Logprobs(_Form):
    """In both shapes: one object for each token, or a list for each of their properties."""

    content: list[_TokenForm] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(_Form):
    """An answer or what is new of it, in all its shapes: `message` whole, `delta` in a stream, `text` of a completion.

    Attributes:
        stop_reason: As vLLM says which stop string it was.
    """

    index: Count = 0
    message: _Said | None = None
    delta: _Said | None = None
    text: Text = ""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: Logprobs | None = None


class TextForm(_Form):
    """An answer, or an event of a stream. The one that tells the usage may have no choices."""

    choices: Annotated[list[Choice], BeforeValidator(_or_empty), Field(max_length=MAX_CHOICES)] = []
    usage: UsageForm | None = None


class _EmbeddingForm(_Form):
    embedding: Annotated[Array, PlainValidator(_vector)]


class EmbeddingsForm(_Form):
    """The vector of the one text that was sent."""

    data: Annotated[list[_EmbeddingForm], Field(min_length=1, max_length=1)]
    usage: UsageForm | None = None
