"""From scores of tokens to things found in a text: tokens joined to words, words to entities, windows to one text.

Numbers and names only: no model and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from workflows.tensors import Array

__all__ = ["Found", "Piece", "Strategy", "found_in", "without_overlaps"]

Strategy = Literal["none", "simple", "first", "average", "max"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of the text, not one that marks its beginning or end.

    Attributes:
        scores: One per class.
        start, end: Characters of the text.
        index: Its place among the tokens.
        continues: Whether the word that it belongs to began before it.
    """

    token: str
    scores: Array
    start: int
    end: int
    index: int
    continues: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A token, a word or several that have one class.

    Attributes:
        tokens: What it is made of.
        index: The place of a single token.
    """

    label: str
    score: float
    tokens: tuple[str, ...]
    start: int
    end: int
    index: int | None = None


def found_in(
    pieces: Sequence[Piece], names: Mapping[int, str], strategy: Strategy, joined: Callable[[Sequence[str]], str]
) -> list[Found]:
    """What there is in a text, or in one window of it.

    Args:
        names: Of the classes.
        joined: What tokens of one word are together, as a token.
    """
    if strategy in ("none", "simple"):
        found = [_of_token(piece, names) for piece in pieces]
        return found if strategy == "none" else _grouped(found)
    words: list[list[Piece]] = []
    for piece in pieces:
        if piece.continues and words:
            words[-1].append(piece)
        else:
            words.append([piece])
    return _grouped([_of_word(word, names, strategy, joined) for word in words])


def without_overlaps(found: Sequence[Found]) -> list[Found]:
    """What windows have found, once: of those that overlap, the longest, and of the longest the surest."""
    kept: list[Found] = []
    for this in sorted(found, key=lambda each: each.start):
        if not kept or not kept[-1].start <= this.start < kept[-1].end:
            kept.append(this)
        elif (this.end - this.start, this.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
            kept[-1] = this
    return kept


def _of_token(piece: Piece, names: Mapping[int, str]) -> Found:
    best = int(piece.scores.argmax())
    return Found(names[best], float(piece.scores[best]), (piece.token,), piece.start, piece.end, piece.index)


def _of_word(
    word: Sequence[Piece], names: Mapping[int, str], strategy: Strategy, joined: Callable[[Sequence[str]], str]
) -> Found:
    if strategy == "first":
        scores = word[0].scores
    elif strategy == "max":
        scores = max(word, key=lambda piece: float(piece.scores.max())).scores
    else:
        scores = np.mean([piece.scores for piece in word], axis=0)
    best = int(scores.argmax())
    text = joined([piece.token for piece in word])
    return Found(names[best], float(scores[best]), (text,), word[0].start, word[-1].end)


def _grouped(found: Sequence[Found]) -> list[Found]:
    """Neighbours of one kind together, but where a class's name begins another with `B-`."""
    groups: list[list[Found]] = []
    for this in found:
        begins, kind = _kind(this.label)
        if groups and not begins and kind == _kind(groups[-1][-1].label)[1]:
            groups[-1].append(this)
        else:
            groups.append([this])
    return [_of_group(group) for group in groups]


def _of_group(group: Sequence[Found]) -> Found:
    first = group[0]
    return replace(
        first,
        label=first.label.split("-", 1)[-1],
        score=float(np.mean([each.score for each in group])),
        tokens=tuple(token for each in group for token in each.tokens),
        end=group[-1].end,
        index=None,
    )


def _kind(label: str) -> tuple[bool, str]:
    """Whether such a class begins another entity, and of which kind it is."""
    return label.startswith("B-"), label[2:] if label[:2] in ("B-", "I-") else label
