"""The seam between a workflow and what runs its language model: token ids in, token ids out. No text, no tokenizer.

`ContinuousEngine` is one such; an engine that lives in another library takes its place behind the same three methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from workflows.types import Sampling

__all__ = ["Answer", "Engine", "Made", "Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """What one request wants of an engine.

    Attributes:
        prompt: At least one token.
        max_tokens: The longest answer; prompt and answer together are at most the engine's `context_tokens`.
        sampling: How tokens are chosen. Its `max_tokens`, `stop` and `seed` are not for the engine.
        seed: Of this request's random numbers.
        ends: Tokens that end the answer.
        top_logprobs: As in `Generate`.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    seed: int
    ends: frozenset[int]
    top_logprobs: int | None = None


class Made(NamedTuple):
    """One token of an answer. Its `logprob`, and the `top` ones with theirs, only where they were asked for."""

    id: int
    logprob: float = 0.0
    top: Sequence[tuple[int, float]] = ()


class Answer(Protocol):
    """The tokens of one answer, the one that ended it included. Raises what went wrong in place of the next token.

    Attributes:
        cached_tokens: How many tokens of the prompt were known from earlier requests; None where the engine cannot tell,
            and before the first token.
    """

    @property
    def cached_tokens(self) -> int | None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Made: ...

    def close(self) -> None:
        """No more tokens are wanted: what the engine holds for this answer is freed within two of its steps."""


class Engine(Protocol):
    """Runs a language model for many requests at once. Belongs to the event loop that starts it.

    Attributes:
        context_tokens: Prompt and answer together are at most this long. Known once the engine has started.
    """

    @property
    def context_tokens(self) -> int: ...

    async def start(self) -> None: ...

    def answer(self, order: Order) -> Answer:
        """Begin an answer, as soon as there is room; in the order in which they were asked for."""

    async def stop(self) -> None:
        """Give everything back; answers that are still open fail."""
