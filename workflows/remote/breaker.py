"""Leaves an upstream alone that fails again and again, and finds out whether it has come back.

closed      everybody is let through, and what fails is counted
open        nobody is, for a while
half open   a few are, as probes: when enough of them have succeeded it closes, when one fails it opens again
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from workflows.errors import Overloaded
from workflows.remote.clock import Clock
from workflows.remote.policy import BreakerPolicy

__all__ = ["Breaker", "BreakerState", "Permit"]

_SLICES: Final = 10  # the window is forgotten by parts, so that no single attempt needs to be remembered


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Permit:
    """Leave to ask once; `end` it. Who does not say how it went, because the caller left, has said nothing."""

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker = breaker
        self._era = era
        self._counted = 0

    def end(self) -> None:
        self._breaker._left(self._era)

    def succeeded(self) -> None:
        """Counts once."""
        if not self._counted:
            self._tell(failed=False)

    def failed(self) -> None:
        """After `succeeded` as well: an answer may begin well and then break off."""
        self._tell(failed=True)

    def _tell(self, *, failed: bool) -> None:
        self._breaker._told(self._era, failed=failed, asked=1 - self._counted)
        self._counted = 1


class Breaker:
    """Belongs to one event loop. Calls `changed` when it has opened and when it has closed."""

    def __init__(self, policy: BreakerPolicy, clock: Clock, changed: Callable[[], None]) -> None:
        self._policy = policy
        self._clock = clock
        self._changed = changed
        self._window = _Window(policy.window_s)
        self._opened: float | None = None
        self._era = 0  # counts the changes of state: what was let through before one says nothing after it
        self._probing = self._recovered = 0

    @property
    def state(self) -> BreakerState:
        if self._opened is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._shut_s() > 0 else BreakerState.HALF_OPEN

    def check(self) -> None:
        """Raises Overloaded while nobody is let through: nothing has been asked then."""
        if self._opened is None:
            return
        shut_s = self._shut_s()
        if shut_s > 0 or self._probing >= self._policy.probes:
            raise Overloaded("the upstream model keeps failing, try again later", retry_after_s=max(shut_s, 1.0))

    def enter(self) -> Permit:
        """Raises as `check` does."""
        self.check()
        self._probing += self._opened is not None
        return Permit(self, self._era)

    def _shut_s(self) -> float:
        return 0.0 if self._opened is None else self._opened + self._policy.open_s - self._clock.now()

    def _left(self, era: int) -> None:
        if era == self._era and self._opened is not None:
            self._probing -= 1

    def _told(self, era: int, *, failed: bool, asked: int) -> None:
        if era != self._era:
            return
        if self._opened is not None:
            self._recovered += not failed
            if failed:
                self._change(self._clock.now())
            elif self._recovered >= self._policy.probes:
                self._change(None)
            return
        total, lost = self._window.add(self._clock.now(), asked, failed)
        if failed and lost >= self._policy.failures and lost >= self._policy.share * total:
            self._change(self._clock.now())

    def _change(self, opened: float | None) -> None:
        self._opened = opened
        self._era += 1
        self._probing = self._recovered = 0
        self._window = _Window(self._policy.window_s)
        self._changed()


class _Window:
    def __init__(self, seconds: float) -> None:
        self._slice_s = seconds / _SLICES
        self._slices: deque[list[int]] = deque()  # [which, asked, failed]
        self._asked = self._failed = 0

    def add(self, now: float, asked: int, failed: int) -> tuple[int, int]:
        """How many were asked within the window, and how many of them failed."""
        which = int(now / self._slice_s)
        while self._slices and self._slices[0][0] <= which - _SLICES:
            _, asked_then, failed_then = self._slices.popleft()
            self._asked -= asked_then
            self._failed -= failed_then
        if not self._slices or self._slices[-1][0] != which:
            self._slices.append([which, 0, 0])
        self._slices[-1][1] += asked
        self._slices[-1][2] += failed
        self._asked += asked
        self._failed += failed
        return self._asked, self._failed
