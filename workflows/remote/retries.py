"""How many retries there may be, and how long to wait before one. Knows no failures and no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from workflows.remote.policy import UpstreamPolicy

__all__ = ["RetryBudget", "backoff"]

_FULL_CALLS: Final = 100  # what so many calls have earned may be saved up, and no more
_UNITS: Final = 1_000_000  # a tenth is no number of the computer's: counted in whole parts, no retry is won or lost


class RetryBudget:
    """Each call earns a part of a retry; a retry takes a whole one. At no time have there been more than earned."""

    def __init__(self, share: float, reserve: int) -> None:
        self._share = int(share * _UNITS + 0.5)
        self._full = max(self._share * _FULL_CALLS, reserve * _UNITS)
        self._saved = reserve * _UNITS

    @property
    def retries(self) -> int:
        """How many may be made now."""
        return self._saved // _UNITS

    def earn(self) -> None:
        """One more call has come."""
        self._saved = min(self._full, self._saved + self._share)

    def spend(self) -> bool:
        """Whether there may be a retry; if so, it is counted."""
        if self._saved < _UNITS:
            return False
        self._saved -= _UNITS
        return True


def backoff(policy: UpstreamPolicy, attempt: int, draw: Callable[[], float]) -> float:
    """Seconds between the attempt of this number, the first is 1, and the next. `draw` gives numbers from 0 to 1."""
    return draw() * min(policy.backoff_max_s, policy.backoff_s * 2.0 ** (attempt - 1))
