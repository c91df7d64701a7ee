"""What OpenAI's clients ask, as models: how it is checked, and how it is described. Knows no workflow.

Unknown fields are ignored, and `null` is as if a field were not there. What is known and would change the answer, but
is not done here, is refused by its name: see `CHAT_REFUSED` and `COMPLETION_REFUSED`, which say what may stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from deployments.router.protocols.openai.turns import ToolChoiceAsked, Tools, Turn, WantedForm
from workflows.errors import InvalidInput, Unsupported
from workflows.types.text import MAX_ALTERNATIVES, MAX_BIASES, MAX_MESSAGES, MAX_STOP_STRINGS, MAX_TOKENS

__all__ = [
    "CHAT_REFUSED",
    "COMPLETION_REFUSED",
    "EMBEDDINGS_REFUSED",
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingsRequest",
    "GenerationRequest",
    "Name",
    "OpenAIRequest",
    "Source",
    "read",
]

MAX_SAMPLES: Final = 128
MAX_NAME_CHARS: Final = 1024
"""Of what names a model, a user or a conversation."""
_TOKEN: Final[dict[str, Any]] = {"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 31}
_TOKENS: Final[dict[str, Any]] = {"type": "array", "items": _TOKEN, "minItems": 1, "maxItems": MAX_TOKENS}
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_SOURCES: Final[dict[str, Any]] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}
Source = str | list[int]
"""A text, or the same as the model's own tokens."""
Asked = TypeVar("Asked", bound=BaseModel)


def read(kind: type[Asked], body: Any, refused: Mapping[str, tuple[Any, ...]], most: int | None = None) -> Asked:
    """The request in a body, of at most so many texts. Raises InvalidInput naming the field."""
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object")
    for name, allowed in refused.items():
        value = body.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise Unsupported(f"{name}: this is not supported here", param=name)
    try:
        return kind.model_validate(body, context=most)
    except ValidationError as error:
        problem = _first_problem(error)
    raise problem  # out here, without a cause: pydantic's own error shows what was sent


def _first_problem(error: ValidationError) -> InvalidInput:
    """pydantic's first complaint; the keys of `logit_bias` are the only part of a path that a caller chooses."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = first["loc"][:1] if first["loc"][0] == "logit_bias" else first["loc"]
    param = ".".join(map(str, place))
    of_ours = first["type"] == "model_type"  # pydantic says the name of the class
    message = "an object is needed" if of_ours else first["msg"].removeprefix("Value error, ")
    return InvalidInput(f"{param}: {message}", param=param)


# ---- parts that pydantic does not know ------------------------------------------------------------------------------------


def _texts_or_tokens(value: Any, info: ValidationInfo) -> list[Source]:
    """Of a text, a list of texts, one of tokens, or one of those: each by itself, unless there are too many to look at."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("a string, a list of strings, a list of tokens, or a list of those is needed")
    if info.context is not None and len(value) > info.context and type(value[0]) is not int:
        raise ValueError(f"no more than {info.context} in one request")
    kinds = set(map(type, value))
    if kinds == {str}:
        return value
    if kinds == {int}:
        return [_tokens(value)]
    if kinds == {list}:
        return [_tokens(tokens) for tokens in value]
    raise ValueError("all of its members must be strings, or all tokens, or all lists of tokens")


def _tokens(value: list[Any]) -> list[int]:
    if not 0 < len(value) <= MAX_TOKENS or set(map(type, value)) != {int} or min(value) < 0 or max(value) >= 1 << 31:
        raise ValueError(f"a list of tokens holds 1 to {MAX_TOKENS} numbers from 0 to {(1 << 31) - 1}")
    return value


def _few(value: Any) -> Any:
    """Says no before a million of them are each complained of."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"there are more than {MAX_BIASES}")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _off_is_none(value: Any) -> Any:
    """vLLM's clients say -1 or 0 for no limit at all."""
    return None if type(value) is int and value in (-1, 0) else value


Sources = Annotated[list[Source], PlainValidator(_texts_or_tokens), WithJsonSchema(_SOURCES)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
_STOP: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 256}
Stop = Annotated[
    list[StopString] | None,
    Field(max_length=MAX_STOP_STRINGS),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOP_STRINGS}, {"type": "null"}]}
    ),
]
TopK = Annotated[
    Count | None,
    BeforeValidator(_off_is_none),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": -1, "maximum": MAX_TOKENS}, {"type": "null"}]}),
]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")], Bias] | None,
    Field(max_length=MAX_BIASES),
    BeforeValidator(_few),
]


# ---- requests ------------------------------------------------------------------------------------------------------------


class OpenAIRequest(BaseModel):
    """What may come in a body."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class StreamOptions(OpenAIRequest):
    """What a stream tells beside its text."""

    include_usage: bool | None = None
    """Whether a last event without choices tells the usage."""
    include_obfuscation: bool | None = None
    """Changes nothing: there is none."""


class GenerationRequest(OpenAIRequest):
    """What chat and text completions have in common: the fields of OpenAI, and some of vLLM and TGI."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    """How many answers; of a seed, answer number i has seed + i."""
    max_tokens: Count | None = None
    stop: Stop = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    user: Name | None = None
    """Whose conversation this is, where nothing says which one it is."""
    prompt_cache_key: Name | None = None
    """Which conversation this is: it prefers the replica that had it before."""
    top_k: TopK = None
    """As vLLM has it, with -1 or 0 for all."""
    min_p: Share | None = None
    typical_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Count | None = None
    """Read no more than the last so many tokens of the prompt."""


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: list[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Count | None = None
    """Goes before `max_tokens`; without either, the answer is as long as there is room for."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    tools: Tools = None
    """What the model may call; what it calls, the caller runs."""
    tool_choice: ToolChoiceAsked | None = None
    parallel_tool_calls: bool | None = None
    """Whether one answer may hold several calls."""
    response_format: WantedForm | None = None


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: Sources
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    """No more and no less than `n`."""


class EmbeddingsRequest(OpenAIRequest):
    """`POST /v1/embeddings`."""

    model: Name | None = None
    input: Sources
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: Name | None = None


# ---- what is refused -----------------------------------------------------------------------------------------------------

_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "service_tier": ("auto", "default"),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "prompt_logprobs": (),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "priority": (0,),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
CHAT_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "store": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "tool_prompt": (),
    **_REFUSED,
}
"""Fields that would change the answer, and the values that leave it as it is."""
COMPLETION_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    **_REFUSED,
}
EMBEDDINGS_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "truncate_prompt_tokens": (),
    "input_type": (),
    "priority": (0,),
}
