"""Which token comes next, from a model's scores for all of them. Knows no model; every request has its own random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from workflows.errors import BadOutput
from workflows.inference.generation.engine import Made, Order
from workflows.types import Sampling

__all__ = ["GREEDY_BELOW", "TokenChooser", "is_greedy", "limited"]

Numbers = npt.NDArray[Any]

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
        self._limits = (sampling.top_p, sampling.min_p, sampling.typical_p) != (1.0, 0.0, 1.0)
        self._top = order.top_logprobs
        self._made = 0
        self._ends = self._biased = self._biases = self._seen = self._counts = None
        if sampling.min_tokens and order.ends:
            self._ends = torch.tensor(sorted(order.ends), device=device)
        if sampling.logit_bias:
            self._biased = torch.tensor([int(token) for token in sampling.logit_bias], device=device)
            self._biases = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=device)
        if sampling.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self._seen[torch.tensor(order.prompt, device=device)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._counts = torch.zeros(vocabulary, dtype=torch.float32, device=device)
        changed = any(part is not None for part in (self._ends, self._biased, self._seen, self._counts))
        self.plain = self._greedy and self._top is None and not changed

    def __call__(self, scores: Any) -> Made:
        """The next token. `scores`, shape (vocabulary,) and float32, are changed in place.

        Raises BadOutput where they are not numbers.
        """
        chances = None if self._top is None else scores.log_softmax(-1)
        self._adjust(scores)
        token = self._best(scores) if self._greedy else self._drawn(scores)
        self._note(token)
        if chances is None:
            return Made(token)
        chances.clamp_(min=_NO_CHANCE)
        return Made(token, float(chances[token]), self._most_probable(chances))

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
        if self._ends is not None and self._made < sampling.min_tokens:
            scores[self._ends] = float("-inf")

    def _drawn(self, scores: Any) -> int:
        """A token drawn from what the limits leave. What is large is done where the scores are, the rest on the CPU."""
        top_k = self._sampling.top_k
        ids: Numbers | None = None
        if top_k is not None and top_k < scores.shape[0]:
            best = scores.topk(top_k)
            values, ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
        else:
            values = scores.cpu().numpy()
        highest = values.max()
        _require_number(highest)
        with np.errstate(over="ignore", under="ignore"):  # what is far below the best has no chance
            chances = np.exp((values - highest) / self._sampling.temperature)
        place = self._place(limited(chances, self._sampling) if self._limits else chances)
        return place if ids is None else int(ids[place])

    def _place(self, chances: Numbers) -> int:
        """A place drawn as the chances say; they need not add up to 1. One that has none is never drawn."""
        sums = chances.cumsum(dtype=np.float64)
        drawn = self._random.getrandbits(_DRAWN_BITS) / (1 << _DRAWN_BITS)  # exact, and less than 1 also times the sum
        return int(np.searchsorted(sums, sums[-1] * drawn, side="right"))

    def _note(self, token: int) -> None:
        self._made += 1
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts[token] += 1

    @staticmethod
    def _best(scores: Any) -> int:
        best = scores.max(-1)
        _require_number(float(best.values))
        return int(best.indices)

    def _most_probable(self, chances: Any) -> Sequence[tuple[int, float]]:
        if not self._top:
            return ()
        best = chances.topk(min(self._top, chances.shape[0]))
        return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def limited(chances: Numbers, sampling: Sampling) -> Numbers:
    """The chances that `top_p`, then `min_p`, then `typical_p` leave, and 0 for the others. They need not add up to 1."""
    if sampling.top_p < 1.0:
        # Those that are left out here would not reach the rest of the share together: they need not be ranked.
        ranked = np.flatnonzero(chances >= (1.0 - sampling.top_p) * chances.sum() / len(chances))
        ranked = ranked[np.argsort(-chances[ranked], kind="stable")]
        chances = _only(chances, ranked[: _reaching(chances[ranked], sampling.top_p * chances.sum())])
    if sampling.min_p > 0.0:
        chances = np.where(chances < sampling.min_p * chances.max(), 0.0, chances)
    if sampling.typical_p < 1.0:
        possible = np.flatnonzero(chances)
        share = chances[possible] / chances.sum()
        surprise = -np.log(share)
        ranked = np.argsort(np.abs(surprise - (share * surprise).sum()), kind="stable")
        chances = _only(chances, possible[ranked[: _reaching(share[ranked], sampling.typical_p)]])
    return chances


def _reaching(chances: Numbers, share: float) -> int:
    """How many of the first chances it takes to reach the share, at least one: each is out once those before it do."""
    return int(np.searchsorted(chances.cumsum(dtype=np.float64), share)) + 1


def _only(chances: Numbers, places: Numbers) -> Numbers:
    kept = np.zeros_like(chances)
    kept[places] = chances[places]
    return kept


def _require_number(best: float) -> None:
    """The best of scores among which one is not a number is not a number."""
    if not math.isfinite(best):
        raise BadOutput("the model gave no usable next token")
