"""Whether replicas have their workflow loaded: what each says of itself, and what of it a caller has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["LoadState", "Standing", "newer"]

LoadState = Literal["loaded", "unloading", "unloaded", "loading"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One replica's word.

    Attributes:
        number: How many changes there have been in this replica: of two words, the one with the larger is the newer.
        reason: Why it could not be loaded, or was not unloaded well; for callers.
    """

    replica: str
    number: int
    state: LoadState
    reason: str = ""

    @property
    def loaded(self) -> bool:
        """Whether it takes work in."""
        return self.state == "loaded"


def newer(one: Standing | None, other: Standing) -> Standing:
    """What to believe of two words of one replica, which may have come over different ways."""
    return other if one is None or other.number >= one.number else one
