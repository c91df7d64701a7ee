"""Which token comes next, from a model's scores for all of them. Knows no model; every request has its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from workflows.errors import BadOutput
from workflows.inference.generation.engine import Made, Order
from workflows.types import Sampling

__all__ = ["GREEDY_BELOW", "TokenChooser", "is_greedy"]

GREEDY_BELOW: Final = 1e-5  # a score difference divided by less may not be a float32 any more
_DRAWN_BITS: Final = 32
_NO_CHANCE: Final = -9999.0  # the logarithm of none, in a number that JSON has


def is_greedy(sampling: Sampling) -> bool:
    """Whether nothing is drawn: a temperature below 1e-5 is greedy, as 0 is."""
    return sampling.temperature < GREEDY_BELOW


class TokenChooser:
    """Chooses one request's tokens as its `Sampling` says, in that order of steps.

    The random numbers are Python's, drawn one for each token from the request's seed: what is chosen depends on nothing
    but the request and the scores, on every kind of device.

    Attributes:
        plain: Whether the best score wins and nothing else is asked for: then nobody need call this.
    """

    def __init__(self, torch: Any, order: Order, vocabulary: int, device: Any) -> None:
        sampling = order.sampling
        self._torch = torch
        self._sampling = sampling
        self._random = Random(order.seed)  # noqa: S311 - it keeps no secret
        self._greedy = is_greedy(sampling)
        self._filters = sampling.top_k is not None or (sampling.top_p, sampling.min_p, sampling.typical_p) != (1, 0, 1)
        self._top = order.top_logprobs
        self._made = 0
        self._ends = torch.tensor(sorted(order.ends), dtype=torch.long, device=device) if order.ends else None
        self._biased = self._biases = self._seen = self._counts = None
        if sampling.logit_bias:
            self._biased = torch.tensor([int(token) for token in sampling.logit_bias], device=device)
            self._biases = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=device)
        if sampling.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(order.prompt, device=device)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = torch.zeros(vocabulary, dtype=torch.float32, device=device)
        changed = sampling.min_tokens or any(part is not None for part in (self._biased, self._seen, self._counts))
        self.plain = self._greedy and self._top is None and not changed

    def __call__(self, scores: Any) -> Made:
        """The next token. `scores`, shape (vocabulary,) and float32, are changed in place.

        Raises BadOutput where they are not numbers.
        """
        chances = None if self._top is None else scores.log_softmax(-1)
        self._adjust(scores)
        best = scores.max()
        if not self._torch.isfinite(best):
            raise BadOutput("the model gave no usable next token")
        token = int(scores.argmax()) if self._greedy else self._drawn(scores - best)
        self._note(token)
        if chances is None:
            return Made(token)
        chances.clamp_(min=_NO_CHANCE)
        return Made(token, float(chances[token]), self._best(chances))

    def _adjust(self, scores: Any) -> None:
        sampling = self._sampling
        if self._seen is not None:
            by = sampling.repetition_penalty
            repeated = self._torch.where(scores > 0, scores / by, scores * by)
            scores.copy_(self._torch.where(self._seen, repeated, scores))
        if self._counts is not None:
            scores.sub_(self._counts, alpha=sampling.frequency_penalty)
            scores.sub_((self._counts > 0).float(), alpha=sampling.presence_penalty)
        if self._biased is not None:
            scores[self._biased] += self._biases
        if self._made < sampling.min_tokens and self._ends is not None:
            scores[self._ends] = float("-inf")

    def _drawn(self, scores: Any) -> int:
        scores = scores / self._sampling.temperature
        if not self._filters:
            return self._place(scores.softmax(-1))
        chances, ids = self._candidates(scores)
        return int(ids[self._place(chances)])

    def _candidates(self, scores: Any) -> tuple[Any, Any]:
        """The chances of the tokens that may win, best first, and whose they are."""
        sampling = self._sampling
        if sampling.top_k is not None and sampling.top_k < scores.shape[0]:
            best = scores.topk(sampling.top_k)
        else:
            best = scores.sort(descending=True, stable=True)
        chances, ids = best.values.softmax(-1), best.indices
        if sampling.top_p < 1.0:
            chances = self._reaching(chances, sampling.top_p)
        if sampling.min_p > 0.0:
            chances = chances.masked_fill(chances < chances[0] * sampling.min_p, 0.0)
        if sampling.typical_p < 1.0:
            chances = self._typical(chances)
        return chances, ids

    def _typical(self, chances: Any) -> Any:
        chances = chances / chances.sum()
        surprise = -chances.log()
        expected = self._torch.where(chances > 0, chances * surprise, 0.0).sum()
        order = (surprise - expected).abs().argsort(stable=True)
        kept = self._torch.zeros_like(chances)
        kept[order] = self._reaching(chances[order], self._sampling.typical_p)
        return kept

    @staticmethod
    def _reaching(chances: Any, share: float) -> Any:
        """The first chances that together reach `share`, at least one; the others are 0."""
        # A token is out once those before it already make up the share.
        out = chances.cumsum(-1) - chances >= share
        out[0] = False  # also where the share is less than float32 can say, and becomes 0
        return chances.masked_fill(out, 0.0)

    def _place(self, chances: Any) -> int:
        """A place drawn as the chances say; they need not add up to 1. One that has none is never drawn."""
        sums = chances.double().cumsum(-1)
        drawn = self._random.getrandbits(_DRAWN_BITS) / (1 << _DRAWN_BITS)  # exact, and less than 1 also times the sum
        return int((sums <= sums[-1] * drawn).sum())

    def _note(self, token: int) -> None:
        self._made += 1
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1

    def _best(self, chances: Any) -> Sequence[tuple[int, float]]:
        if not self._top:
            return ()
        best = chances.topk(min(self._top, chances.shape[0]))
        return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
