"""Which workflow may answer in another's place: one whose answers mean the same to whoever gets them. Knows cards only.

| kind       | both declare                                                                     |
|------------|----------------------------------------------------------------------------------|
| `embed`    | the same `embedding_space` and the same `dimensions`                             |
| `generate` | `context_length`: the other's is no shorter than what the first one needs        |
| `task`     | the same `labels` where they are the model's own, else the same `contract`       |
| any other  | the same `contract`                                                              |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from workflows.card import Card, Preserved

__all__ = ["rung_complaint"]

_LABELLED: Final = frozenset({"text-classification", "token-classification"})
_SAME: Final[Mapping[str, Callable[[Preserved], Any]]] = {
    "embedding_space": lambda traits: traits.embedding_space,
    "dimensions": lambda traits: traits.dimensions,
    "labels": lambda traits: None if traits.labels is None else frozenset(traits.labels),
    "contract": lambda traits: traits.contract,
}


def rung_complaint(card: Card, other: Card) -> str | None:
    """Why `other` cannot answer in place of `card`, in one line that names the trait; None where it can."""
    if other.kind != card.kind or other.task != card.task:
        return f"{other.name} is of kind {_kind(other)}, and {card.name} of kind {_kind(card)}"
    if card.streams and not other.streams:
        return f"{card.name} streams, and {other.name} does not"
    if card.kind == "generate":
        return _context_complaint(card, other)
    for trait in _needed(card):
        own, others = _SAME[trait](card.preserves), _SAME[trait](other.preserves)
        for name, value in ((card.name, own), (other.name, others)):
            if value is None:
                return f"preserves.{trait} is not declared by {name}, and kind {_kind(card)} needs it"
        if own != others:
            return f"preserves.{trait} differs between {card.name} and {other.name}"
    return None


def _needed(card: Card) -> tuple[str, ...]:
    if card.kind == "embed":
        return "embedding_space", "dimensions"
    labelled = card.task in _LABELLED or (
        card.kind == "task" and card.task is None and card.preserves.labels is not None
    )
    return ("labels",) if labelled else ("contract",)


def _context_complaint(card: Card, other: Card) -> str | None:
    own, others = card.preserves.context_length, other.preserves.context_length
    for name, value in ((card.name, own), (other.name, others)):
        if value is None:
            return f"preserves.context_length is not declared by {name}, and kind generate needs it"
    assert own is not None
    assert others is not None
    least = card.preserves.least_context_length or own
    if others < least:
        return f"preserves.context_length of {other.name} is {others}, and {card.name} needs {least}"
    return None


def _kind(card: Card) -> str:
    return card.kind if card.task is None else f"{card.kind} ({card.task})"
