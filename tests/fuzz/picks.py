"""Any bytes as a row of decisions, so that a fuzzer of bytes, and hypothesis, can write requests that are nearly right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Picks"]

T = TypeVar("T")


class Picks:
    """Reads from the front; where nothing is left, everything is zero.

    Attributes:
        odd: Whether something rare was picked.
    """

    def __init__(self, data: bytes) -> None:
        self.odd = False
        self._data = data
        self._place = 0

    def byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1] if self._place <= len(self._data) else 0

    def below(self, bound: int) -> int:
        return self.byte() % bound

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def rarely(self) -> bool:
        rare = self.below(24) == 1
        self.odd |= rare
        return rare

    def likely(self, choices: Sequence[T], odd: Sequence[T]) -> T:
        """One of the choices, and rarely an odd one."""
        return self.one_of(odd if self.rarely() else choices)

    def take(self, size: int) -> bytes:
        """So many bytes, filled up with zeros."""
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken.ljust(size, b"\0")

    def rest(self) -> bytes:
        return self._data[self._place :]
