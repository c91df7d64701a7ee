"""Text as Hugging Face's text-generation-inference (TGI) asks for it and tells it, from and to the exchange types.

Knows no client and no connection: what comes here is parsed JSON. What cannot be asked for there is refused by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from workflows.errors import Unsupported
from workflows.inference.generation.stop_strings import StopStrings
from workflows.types.text import Alternative, FinishReason, Generate, Generated, Sampling, TextChunk, Token, Usage

__all__ = ["TgiAnswer", "TgiEvent", "TgiStream", "parameters_of", "prompt_of", "told_usage", "whole_answer"]

# What TGI has no parameter for, and what changes nothing.
_LACKING: Final[Mapping[str, Any]] = {"min_tokens": 0, "min_p": 0.0, "presence_penalty": 0.0, "logit_bias": {}}
_SHAPES: Final[Mapping[str, Any]] = {"top_k": None, "top_p": 1.0, "typical_p": 1.0}
_ALWAYS: Final[Mapping[str, Any]] = {"repetition_penalty": 1.0, "frequency_penalty": 0.0}


class _Told(BaseModel):
    """Servers tell more than is known here, and some of it as `null`."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class TgiToken(_Told):
    id: int | None = None
    text: str
    logprob: float | None = None
    special: bool = False


class TgiDetails(_Told):
    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int | None = Field(default=None, ge=0)
    input_length: int | None = Field(default=None, ge=0)
    seed: int | None = None
    tokens: list[TgiToken] | None = None
    top_tokens: list[list[TgiToken]] | None = None


class TgiAnswer(_Told):
    """A whole answer."""

    generated_text: str
    details: TgiDetails | None = None


class TgiEvent(_Told):
    """One token of a stream; only the last one has the whole text."""

    token: TgiToken
    top_tokens: list[TgiToken] | None = None
    generated_text: str | None = None
    details: TgiDetails | None = None


# ---- asking ------------------------------------------------------------------------------------------------------------


def prompt_of(asked: Generate) -> str:
    """Raises Unsupported for a conversation, which is asked for otherwise, and for tokens."""
    if asked.prompt is None:
        param = "messages" if asked.messages is not None else "prompt_tokens"
        raise Unsupported(f"{param}: the upstream takes a prompt as text", param=param)
    if not asked.prompt:
        raise Unsupported("prompt: the upstream takes no empty one", param="prompt")
    return asked.prompt


def parameters_of(asked: Generate) -> dict[str, Any]:
    """TGI's parameters, without those that would change nothing. Raises Unsupported."""
    said = asked.sampling
    for name, nothing in _LACKING.items():
        if getattr(said, name) != nothing:
            raise Unsupported(f"sampling.{name}: the upstream does not have this", param=f"sampling.{name}")
    parameters: dict[str, Any] = {"max_new_tokens": said.max_tokens, **_differing(said, _ALWAYS)}
    # Zero is greedy here; there, whatever shapes the draw makes it draw.
    if said.temperature > 0:
        parameters |= {"do_sample": True, **_differing(said, _SHAPES)}
        if said.temperature != 1.0:
            parameters["temperature"] = said.temperature
        if said.seed is not None:
            parameters["seed"] = said.seed
    if said.stop:
        parameters["stop"] = said.stop
    if asked.truncate is not None:
        parameters["truncate"] = asked.truncate
    if asked.top_logprobs:
        parameters["top_n_tokens"] = asked.top_logprobs
    form = asked.response_format
    if form is not None and form.type != "text":
        parameters["grammar"] = {"type": "json", "value": form.json_schema or {"type": "object"}}
    return parameters


def _differing(said: Sampling, names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, nothing in names.items() if (value := getattr(said, name)) != nothing}


# ---- answers -----------------------------------------------------------------------------------------------------------


def whole_answer(asked: Generate, answer: TgiAnswer, usage: Usage) -> Generated:
    """Raises ValueError for one that does not tell what was asked for."""
    details, told = answer.details, None
    if asked.top_logprobs is not None:
        if details is None or details.tokens is None:
            raise ValueError("no tokens")
        tops: list[Any] = details.top_tokens or [None] * len(details.tokens)
        told = [_token(asked, token, top) for token, top in zip(details.tokens, tops, strict=True)]
    stops = StopStrings(asked.sampling.stop, include=asked.include_stop)
    text = stops.push(answer.generated_text) + stops.flush()
    return Generated(
        text=(asked.prompt or "") + text if asked.echo else text,
        finish_reason=_reason(details, stops),
        usage=usage,
        stop_string=stops.found,
        seed=None if details is None or asked.sampling.temperature == 0 else details.seed,
        tokens=told,
    )


async def told_usage(
    details: TgiDetails | None, headers: Mapping[str, str], count: Callable[[], Awaitable[Usage]]
) -> Usage:
    """Tokens as the server tells them, in its details or in the head of its answer; what it does not tell is counted.

    Args:
        headers: By lower-case names.
    """
    read = None if details is None else details.input_length
    made = None if details is None else details.generated_tokens
    read = _number(headers.get("x-prompt-tokens")) if read is None else read
    made = _number(headers.get("x-generated-tokens")) if made is None else made
    if read is not None and made is not None:
        return Usage(prompt_tokens=read, completion_tokens=made)
    counted = await count()
    told = {"prompt_tokens": read, "completion_tokens": made}
    return counted.model_copy(update={name: number for name, number in told.items() if number is not None})


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 10 else None


class TgiStream:
    """One stream being read: `chunk` for each event, in order.

    Attributes:
        last: The event that ended the answer, once it came.
        text: All that was generated.
    """

    def __init__(self, asked: Generate) -> None:
        self._asked = asked
        self._stops = StopStrings(asked.sampling.stop, include=asked.include_stop)
        self._first = (asked.prompt or "") if asked.echo else ""
        self._texts: list[str] = []
        self.last: TgiEvent | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def chunk(self, event: TgiEvent) -> TextChunk | None:
        """What an event tells, None if nothing, or if it is the last one, which `end` tells. Raises ValueError."""
        if self.last is not None:
            raise ValueError("an event after the last one")
        if event.generated_text is not None:
            self.last = event
            return None
        text = self._text(event)
        tokens = self._tokens(event)
        return TextChunk(text=text, tokens=tokens) if text or tokens else None

    def end(self, usage: Usage) -> TextChunk:
        """The last chunk. Raises ValueError if the last event never came."""
        if self.last is None:
            raise ValueError("the stream ended before the answer did")
        event, details = self.last, self.last.details
        text = self._text(event)
        return TextChunk(
            text=text + self._stops.flush(),
            finish_reason=_reason(details, self._stops),
            usage=usage,
            stop_string=self._stops.found,
            seed=None if details is None or self._asked.sampling.temperature == 0 else details.seed,
            tokens=self._tokens(event),
        )

    def _text(self, event: TgiEvent) -> str:
        piece = "" if event.token.special else event.token.text
        self._texts.append(piece)
        first, self._first = self._first, ""
        return first + self._stops.push(piece)

    def _tokens(self, event: TgiEvent) -> list[Token] | None:
        if self._asked.top_logprobs is None:
            return None
        return [_token(self._asked, event.token, event.top_tokens)]


def _reason(details: TgiDetails | None, stops: StopStrings) -> FinishReason:
    return "length" if details is not None and details.finish_reason == "length" and not stops.stopped else "stop"


def _token(asked: Generate, token: TgiToken, top: list[TgiToken] | None) -> Token:
    if token.id is None or token.logprob is None:
        raise ValueError("a token without its id or its chance")
    best = sorted(top or (), key=lambda other: -(other.logprob or 0.0))[: asked.top_logprobs or 0]
    return Token(
        id=token.id,
        text=token.text,
        logprob=token.logprob,
        special=token.special,
        top=[
            Alternative(id=other.id, text=other.text, logprob=other.logprob, special=other.special)
            for other in best
            if other.id is not None and other.logprob is not None
        ],
    )
