"""The chunks of one answer, from its tokens: text, stop strings, what is told of each token. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workflows.inference.generation.engine import Made
from workflows.inference.generation.incremental_text import IncrementalText
from workflows.inference.generation.stop_strings import StopStrings
from workflows.types import Alternative, FinishReason, TextChunk, Token, Usage

__all__ = ["Decoder", "Plan", "Writer"]


class Decoder(Protocol):
    """What a tokenizer can do for an answer."""

    def text(self, tokens: Sequence[int]) -> str:
        """Of tokens in their order, without special ones."""

    def shown(self, token: int) -> str:
        """One token by itself, special or not."""

    def is_special(self, token: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What the writer has to know of a request.

    Attributes:
        prompt_tokens: How many tokens were read.
        seed: To be told, where tokens are drawn.
        tells_tokens: Whether every token is told by itself; then the last chunk has the last one, too.
        max_tokens: After so many the answer ends by itself.
    """

    prompt_tokens: int
    ends: frozenset[int]
    stop: Sequence[str] = ()
    include_stop: bool = False
    min_tokens: int = 0
    seed: int | None = None
    tells_tokens: bool = False
    max_tokens: int | None = None


class Writer:
    """Writes one answer: `push` for each token until `stopped`, then `last`.

    Attributes:
        stopped: Whether the answer has come to its end by an end token or a stop string.
    """

    def __init__(self, plan: Plan, decoder: Decoder) -> None:
        self._plan = plan
        self._decoder = decoder
        self._text = IncrementalText(decoder.text)
        self._stops = StopStrings(plan.stop, include=plan.include_stop)
        self._made = 0
        self._told: list[Token] = []
        self._last_piece = ""
        self.stopped = False

    def push(self, made: Made) -> TextChunk | None:
        """The next chunk; None where there is nothing to tell yet: half a character, or what may become a stop string."""
        self._made += 1
        plan = self._plan
        if plan.tells_tokens:
            self._told.append(self._token(made))
        if made.id in plan.ends:
            self.stopped = True
            return None
        piece = self._heeding_stops(self._text.push(made.id))
        self.stopped = self._stops.stopped
        if plan.tells_tokens:
            if self.stopped or self._made == plan.max_tokens:
                self._last_piece = piece
                return None
        elif not piece:
            return None
        return TextChunk(text=piece, tokens=self._taken())

    def last(self, cached_tokens: int | None) -> TextChunk:
        """What is left, and the end."""
        rest = self._last_piece + self._heeding_stops(self._text.flush()) + self._stops.flush()
        reason: FinishReason = "stop" if self.stopped or self._stops.stopped else "length"
        return TextChunk(
            text=rest,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=self._plan.prompt_tokens,
                completion_tokens=self._made,
                cached_tokens=cached_tokens or None,
            ),
            stop_string=self._stops.found,
            seed=self._plan.seed,
            tokens=self._taken(),
        )

    def _heeding_stops(self, piece: str) -> str:
        """What of a new piece is certain. What came before `min_tokens` were made is no part of any stop string."""
        return piece if self._made < self._plan.min_tokens else self._stops.push(piece)

    def _taken(self) -> list[Token] | None:
        if not self._plan.tells_tokens:
            return None
        told, self._told = self._told, []
        return told

    def _token(self, made: Made) -> Token:
        text, special = self._decoder.shown(made.id), self._is_special(made.id)
        return Token(id=made.id, text=text, logprob=made.logprob, special=special, top=list(map(self._other, made.top)))

    def _other(self, candidate: tuple[int, float]) -> Alternative:
        token, logprob = candidate
        text, special = self._decoder.shown(token), self._is_special(token)
        return Alternative(id=token, text=text, logprob=logprob, special=special)

    def _is_special(self, token: int) -> bool:
        return token in self._plan.ends or self._decoder.is_special(token)
