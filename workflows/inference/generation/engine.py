"""The seam between a workflow and what runs its language model: token ids in, token ids out. No text, no tokenizer.

`ContinuousEngine` is one such, `ProcessEngine` has one in a process of its own; an engine that lives in another library
takes their place behind the same three methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from workflows.errors import WorkflowError
from workflows.types import Sampling

__all__ = ["Answer", "Engine", "Made", "News", "Order"]


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


class News(NamedTuple):
    """What became of an answer since it was last heard of.

    Attributes:
        made: Its new tokens.
        cached_tokens: As in `Answer`.
        ended: Whether this is the last that is heard of it.
        error: Why there are no more tokens.
    """

    made: Sequence[Made]
    cached_tokens: int | None = None
    ended: bool = False
    error: WorkflowError | None = None


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

    Attributes: known once the engine has started.
        context_tokens: Prompt and answer together are at most this long.
        vocabulary: The model knows the tokens below this number.
        ends: Tokens that end an answer, as the model's own files say.
        device: What the model is on, as torch names it.
    """

    @property
    def context_tokens(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def ends(self) -> frozenset[int]: ...

    @property
    def device(self) -> str: ...

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of its work, not counting those in which it had no answers to give; 0 while it has none.

        At any time. Those who give up waiting for an engine that hangs, one after the other, add up.
        """

    async def start(self) -> None: ...

    def answer(self, order: Order) -> Answer:
        """Begin an answer, as soon as there is room; in the order in which they were asked for."""

    async def stop(self) -> None:
        """Give everything back; answers that are still open fail."""
