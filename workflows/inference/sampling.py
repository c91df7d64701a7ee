"""Which token comes next, from a model's scores for all of them. Knows no model; every request has its own random numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from workflows.errors import BadOutput
from workflows.types import Sampling

if TYPE_CHECKING:
    import torch

__all__ = ["TokenChooser"]

GREEDY_BELOW: Final = 1e-5  # a score difference divided by less may not be a float32 any more


class TokenChooser:
    """Chooses as `Sampling` says: temperature first, then `top_k`, then `top_p` of what is left.

    A temperature below 1e-5 is greedy, as 0 is.

    Args:
        sampling: The request's wishes.
        generator: This request's own, on the device of the scores. With a `seed` it is set here, so that an answer
            depends on nothing but the request; the same seed gives other tokens on another kind of device.
    """

    def __init__(self, sampling: Sampling, generator: torch.Generator) -> None:
        self._sampling = sampling
        self._generator = generator
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)

    def __call__(self, scores: torch.Tensor) -> int:
        """The next token's id; `scores` has shape (vocabulary,). Raises BadOutput where they are not numbers."""
        scores = scores.float()
        best = float(scores.max())
        if not math.isfinite(best):
            raise BadOutput("the model gave no usable next token")
        if self._sampling.temperature < GREEDY_BELOW:
            return int(scores.argmax())
        scores = (scores - best) / self._sampling.temperature
        scores, ids = self._candidates(scores)
        chances = scores.softmax(-1)
        if self._sampling.top_p < 1.0:
            # A token is out once those before it already make up top_p; the first one always stays.
            out = chances.cumsum(-1) - chances >= self._sampling.top_p
            out[0] = False  # also where top_p is less than float32 can say, and becomes 0
            chances = chances.masked_fill(out, 0.0)
        return int(ids[chances.multinomial(1, generator=self._generator)])

    def _candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores that may win, best first, and whose they are."""
        top_k = self._sampling.top_k
        if top_k is not None and top_k < scores.shape[0]:
            best = scores.topk(top_k)
            return best.values, best.indices
        ranked = scores.sort(descending=True, stable=True)
        return ranked.values, ranked.indices
