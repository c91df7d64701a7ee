"""The likeliest parts of a text, from scores of where an answer begins and ends. Numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflows.tensors import Array

__all__ = ["Span", "likely_spans"]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `last`, both of them in it, and the chance that the answer is just these."""

    first: int
    last: int
    score: float


def likely_spans(
    starts: Array, ends: Array, allowed: Sequence[bool], null: int | None, *, most: int, longest: int
) -> tuple[list[Span], float]:
    """The likeliest spans, the best first, and how likely it is that there is no answer.

    Args:
        starts: A logit for each token: that the answer begins with it.
        ends: The same for its end.
        allowed: Which tokens are of the text that the answer is in.
        null: The token that stands for "no answer", which takes its share of the chances; None where there is none.
        most: How many spans to give.
        longest: In tokens.
    """
    counted = np.array(allowed)
    within = np.flatnonzero(counted)
    if null is not None:
        counted[null] = True
    if not within.size:
        return [], 1.0
    begins, finishes = _chances(starts, counted), _chances(ends, counted)
    no_answer = 0.0 if null is None else float(begins[null] * finishes[null])
    # Row n has the spans that begin with the nth token of the text, by their length.
    width = min(longest, int(within[-1] - within[0]) + 1)
    last = np.lib.stride_tricks.sliding_window_view(np.pad(finishes, (0, width)), width)[within]
    there = np.lib.stride_tricks.sliding_window_view(np.pad(np.array(allowed), (0, width)), width)[within]
    scores = np.where(there, begins[within, None] * last, -1.0)
    flat = scores.ravel()
    count = min(most, flat.size)
    likely = np.argpartition(-flat, count - 1)[:count]
    best = likely[np.argsort(-flat[likely], kind="stable")]
    spans = [Span(int(within[at // width]), int(within[at // width] + at % width), float(flat[at])) for at in best]
    return [span for span in spans if span.score >= 0], no_answer


def _chances(logits: Array, counted: Array) -> Array:
    """Of the tokens that count; the others have none."""
    grown = np.where(counted, np.exp(logits.astype(np.float64) - logits[counted].max()), 0.0)
    chances: Array = grown / grown.sum()
    return chances
