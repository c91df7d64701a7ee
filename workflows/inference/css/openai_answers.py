"""Answers in OpenAI's shapes, whole ones and events of streams, and what they mean in ours. Reads what `openai_forms` has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from workflows.errors import BadOutput
from workflows.inference.css.answers import Answer
from workflows.inference.css.finish import finish_reason
from workflows.inference.css.openai_forms import Choice, EmbeddingsForm, Logprobs, TextForm, ToolCallForm, UsageForm
from workflows.inference.css.providers import Takes
from workflows.tensors import Array
from workflows.types.embed import Embed, Embedding
from workflows.types.text import Alternative, Generate, TextChunk, Token, Usage
from workflows.types.tools import ToolCallPiece

__all__ = ["OpenAIReader", "read_embedding"]

IdOf = Callable[[str, bytes | None], int | None]
"""Of a token, by its text and by its bytes, where they are told."""


class OpenAIReader:
    """Reads one answer into `answer`: `push` for each event of a stream, or for a whole answer, once.

    Raises UpstreamFailure, or pydantic's ValidationError, for what is no answer.

    Args:
        id_of: A token's id, where it can be known; providers tell none.
    """

    def __init__(self, asked: Generate, takes: Takes, id_of: IdOf) -> None:
        self._asked = asked
        self._takes = takes
        self._id_of = id_of
        self.answer = Answer(asked)
        self._refused = False

    def push(self, event: Any) -> TextChunk | None:
        """The chunk that tells an event; None for one that tells nothing."""
        form = TextForm.model_validate(event)
        if form.usage is not None:  # some tell it with every event, and each time of all until then
            self.answer.usage = _usage(form.usage, self._takes) or self.answer.usage
        choice = next((choice for choice in form.choices if choice.index == 0), None)
        return None if choice is None else self._push(choice)

    def _push(self, choice: Choice) -> TextChunk | None:
        said = choice.delta or choice.message
        text, calls = choice.text, []
        if said is not None:
            text += said.content
            calls = [self._call(place, form) for place, form in enumerate(said.tool_calls)]
            if said.refusal:
                text, self._refused = text + said.refusal, True
        chunk = self.answer.push(text, self._tokens(choice.logprobs), calls)
        if choice.finish_reason:
            reason = finish_reason(choice.finish_reason, calls=self.answer.calls_tools)
            stop = choice.stop_reason if choice.stop_reason in self._asked.sampling.stop else None
            self.answer.finish("content_filter" if self._refused else reason, stop if isinstance(stop, str) else None)
        return chunk

    def _tokens(self, form: Logprobs | None) -> list[Token] | None:
        most = self._asked.top_logprobs
        return None if form is None or most is None else list(_tokens(form, most, self._id_of))

    def _call(self, place: int, form: ToolCallForm) -> ToolCallPiece:
        """Calls are told apart by their index; who gives none gives whole ones, each with an id or alone in its event."""
        key = form.index if form.index is not None else (form.id or object(), place)
        return self.answer.call(key, form.id, form.function.name, form.function.arguments)


def read_embedding(asked: Embed, form: EmbeddingsForm, tokens: int) -> Embedding:
    """The vector in an answer. Raises BadOutput for another length than was asked for."""
    vector = form.data[0].embedding
    if asked.dimensions is not None and vector.size != asked.dimensions:
        raise BadOutput(f"the upstream model gave {vector.size} dimensions, and {asked.dimensions} were asked for")
    if asked.normalize:
        vector = _at_length_1(vector)
    return Embedding(embedding=vector, tokens=tokens)


def _at_length_1(vector: Array) -> Array:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector if length == 0.0 else (vector / length).astype(np.float32)


def _usage(form: UsageForm, takes: Takes) -> Usage | None:
    if form.completion_tokens is None:
        return None
    prompt, completion = form.prompt_tokens, form.completion_tokens
    if takes.hidden_in_total and form.total_tokens is not None:
        completion = max(completion, form.total_tokens - prompt)
    details = form.prompt_tokens_details
    cached = form.prompt_cache_hit_tokens if details is None or details.cached_tokens is None else details.cached_tokens
    hidden = form.completion_tokens_details
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=None if hidden is None else hidden.reasoning_tokens,
    )


def _tokens(form: Logprobs, most: int, id_of: IdOf) -> Iterator[Token]:
    for token in form.content or ():
        ranked = [
            Alternative(id=id_of(other.token, other.raw), text=other.token, logprob=other.logprob)
            for other in token.top_logprobs[:most]
        ]
        yield Token(id=id_of(token.token, token.raw), text=token.token, logprob=token.logprob, top=ranked)
    columns = form.top_logprobs or [None] * len(form.tokens or ())
    for text, logprob, others in zip(form.tokens or (), form.token_logprobs or (), columns, strict=True):
        if logprob is None:
            raise ValueError("a token without its logprob")
        by_chance = sorted((others or {}).items(), key=lambda each: -each[1])
        top = [Alternative(id=id_of(other, None), text=other, logprob=chance) for other, chance in by_chance[:most]]
        yield Token(id=id_of(text, None), text=text, logprob=logprob, top=top)
