"""Kind `generate`: text that a language model makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workflows.types.conversation import Message
from workflows.types.exchange import Exchange, absent
from workflows.types.tools import (
    MAX_TOOLS,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolCallPiece,
    ToolChoice,
    ToolName,
    whole_calls,
)

__all__ = [
    "MAX_TOKENS",
    "Alternative",
    "FinishReason",
    "Generate",
    "Generated",
    "Sampling",
    "TextChunk",
    "Token",
    "TokenIds",
    "Usage",
]

MAX_TOKENS: Final = 1 << 20
MAX_STOP_STRINGS: Final = 16
MAX_MESSAGES: Final = 2048
MAX_BIASES: Final = 1024
MAX_ALTERNATIVES: Final = 20

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS)]
_WRITTEN_ID: Final = r"^(0|[1-9][0-9]{0,9})$"


class Sampling(Exchange):
    """How the next token is chosen. `temperature` 0 is greedy; with a `seed`, sampling is repeatable.

    In this order: penalties and `logit_bias`, `min_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`.
    What changes nothing is the default of each.

    Attributes:
        max_tokens: The answer's longest; None is as long as there is room for.
        min_tokens: No token that ends the answer is chosen, and no stop string heeded, before so many were made.
        min_p: Tokens with less than this share of the best one's chance are out.
        typical_p: Only the tokens whose surprise is nearest to the expected one, which together have this chance.
        repetition_penalty: Divides the scores of tokens that are in prompt or answer (multiplies negative ones).
        presence_penalty: Taken from the scores of tokens that are in the answer.
        frequency_penalty: The same for each time that they are in it.
        logit_bias: Added to the scores of tokens, by their id in decimal.
        stop: Texts that end the answer, and are not part of it.
    """

    kind: ClassVar[str] = "generate"
    max_tokens: int | None = Field(default=128, ge=1, le=MAX_TOKENS)
    min_tokens: int = Field(default=0, ge=0, le=MAX_TOKENS)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    typical_p: float = Field(default=1.0, gt=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[Annotated[str, Field(pattern=_WRITTEN_ID)], Annotated[float, Field(ge=-100.0, le=100.0)]] = Field(
        default_factory=dict, max_length=MAX_BIASES
    )
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS
    )


class Generate(Exchange):
    """Text to continue (`prompt`, or `prompt_tokens`), or a conversation to answer (`messages`): exactly one of them.

    Attributes:
        prompt_tokens: Ids as the model's own tokenizer makes them; nothing is added to them.
        echo: Begin the answer with the text of the prompt.
        truncate: Read no more than the last so many tokens of the prompt; None refuses one that is too long.
        include_stop: Give the stop string that ended the answer with it, as far as its last token.
        top_logprobs: Tell every token by itself (`tokens`), with its log probability and those of this many of the most
            probable ones in its place; None tells the text only.
        tools: What the model may ask for; `tool_choice` None is `auto` where there are some.
        parallel_tool_calls: Whether one answer may call several; None is as the model's server has it.
        response_format: None is any text.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Once upon a time"}]})
    kind: ClassVar[str] = "generate"
    prompt: str | None = None
    prompt_tokens: TokenIds | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    sampling: Sampling = Field(default_factory=Sampling)
    echo: bool = False
    truncate: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    include_stop: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.prompt, self.prompt_tokens, self.messages)) != 1:
            raise ValueError("give one of prompt, prompt_tokens and messages")
        if (self.tools, self.tool_choice, self.parallel_tool_calls) != (None, None, None):
            self._check_tools()
        return self

    def _check_tools(self) -> None:
        if self.tools is None:
            raise ValueError("tool_choice and parallel_tool_calls need tools")
        if self.messages is None:
            raise ValueError("tools need messages")
        names = {tool.name for tool in self.tools}
        if len(names) < len(self.tools):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, ToolName) and self.tool_choice.name not in names:
            raise ValueError("tool_choice names none of the tools")


class Usage(Exchange):
    """Tokens read and tokens made, as the model's own tokenizer counts them.

    Attributes:
        cached_tokens: Those of the prompt that were still known from an earlier request.
        reasoning_tokens: Those that were made and are not shown.
        estimated: Whether they are a guess: a remote model did not tell them, and nobody could count them.
    """

    kind: ClassVar[str] = "generate"
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    cached_tokens: int | None = Field(default=None, ge=0, exclude_if=absent)
    reasoning_tokens: int | None = Field(default=None, ge=0, exclude_if=absent)
    estimated: bool | None = Field(default=None, exclude_if=absent)


class Alternative(Exchange):
    """A token that might have been chosen, and the natural logarithm of its chance. `id` is None where nobody tells it."""

    kind: ClassVar[str] = "generate"
    id: TokenId | None = None
    text: str
    logprob: float
    special: bool = False


class Token(Exchange):
    """One token of an answer.

    Attributes:
        id: None where a remote model tells its tokens as texts alone.
        text: What it decodes to by itself; half a character is a replacement character.
        logprob: Of its chance, its natural logarithm, by the model's own scores: before penalties, temperature and what
            follows.
        special: Whether it stands for no text, as one that ends the answer.
        top: The most probable tokens in its place, best first, as many as were asked for.
    """

    kind: ClassVar[str] = "generate"
    id: TokenId | None = None
    text: str
    logprob: float
    special: bool = False
    top: list[Alternative] = Field(default_factory=list)


class TextChunk(Exchange):
    """A piece of generated text. Only the last chunk of a stream has a `finish_reason` and the `usage` of the whole.

    Attributes:
        stop_string: In the last chunk: the stop string that ended the answer, where one did.
        seed: In the last chunk, where tokens were drawn: what repeats them.
        tokens: Where they were asked for: those that were made since the chunk before, the last one in the last chunk.
            Their text may be ahead of `text`, which holds back what may become a stop string.
        tool_calls: What became known of the model's calls since the chunk before.
    """

    kind: ClassVar[str] = "generate"
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stop_string: str | None = Field(default=None, exclude_if=absent)
    seed: int | None = Field(default=None, ge=0, exclude_if=absent)
    tokens: list[Token] | None = Field(default=None, exclude_if=absent)
    tool_calls: list[ToolCallPiece] | None = Field(default=None, exclude_if=absent)


class Generated(Exchange):
    """A whole generated text; see `TextChunk`."""

    kind: ClassVar[str] = "generate"
    text: str
    finish_reason: FinishReason
    usage: Usage
    stop_string: str | None = Field(default=None, exclude_if=absent)
    seed: int | None = Field(default=None, ge=0, exclude_if=absent)
    tokens: list[Token] | None = Field(default=None, exclude_if=absent)
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=absent)

    @classmethod
    def fold(cls, chunks: Iterable[TextChunk]) -> Generated:
        """Join a stream. Raises ValueError if it ended without a finish reason or usage, or with half a tool call."""
        texts: list[str] = []
        tokens: list[Token] | None = None
        pieces: list[ToolCallPiece] = []
        last: TextChunk | None = None
        for last in chunks:
            texts.append(last.text)
            if last.tokens is not None:
                tokens = [] if tokens is None else tokens
                tokens.extend(last.tokens)
            if last.tool_calls is not None:
                pieces += last.tool_calls
        if last is None or last.finish_reason is None or last.usage is None:
            raise ValueError("the stream ended without a finish reason")
        told: dict[str, Any] = {"stop_string": last.stop_string, "seed": last.seed, "tokens": tokens}
        told["tool_calls"] = whole_calls(pieces) if pieces else None
        return cls(text="".join(texts), finish_reason=last.finish_reason, usage=last.usage, **told)
