"""Many deadlines, few timers: nearly every alarm of a busy router is cancelled long before it would ring.

An event loop's own timer costs microseconds to set and to cancel. These cost a dictionary's entry, and ring a little late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["SHORT_S", "STEP_S", "Alarm", "alarm_at"]

STEP_S: Final = 0.01
"""So late may an alarm ring, never early."""
SHORT_S: Final = 0.25
"""Whoever has no more time than this gets an exact alarm for the end of it."""


class Alarm(Protocol):
    def cancel(self) -> None: ...


def _nothing() -> None: ...


class _Entry:
    __slots__ = ("ring", "step")

    def __init__(self, ring: Callable[[], None], step: dict[_Entry, None]) -> None:
        self.ring = ring
        self.step = step
        step[self] = None

    def cancel(self) -> None:
        self.step.pop(self, None)
        self.ring = _nothing  # whoever is rung for holds its alarm


class _Steps:
    """The alarms of one event loop, by the step of time at whose end they ring."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._steps: dict[int, dict[_Entry, None]] = {}

    def at(self, when: float, ring: Callable[[], None]) -> _Entry:
        number = int(when / STEP_S) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = {}
            self.loop.call_at(number * STEP_S, self._end, number)
        return _Entry(ring, step)

    def _end(self, number: int) -> None:
        step = self._steps.pop(number)
        while step:
            entry, _ = step.popitem()
            try:
                entry.ring()
            except Exception as error:  # noqa: BLE001 - as the loop does with any callback, and the others still ring
                self.loop.call_exception_handler({"message": "an alarm failed", "exception": error})


_steps: _Steps | None = None


def alarm_at(loop: asyncio.AbstractEventLoop, when: float, ring: Callable[[], None], *, exact: bool = False) -> Alarm:
    """Call `ring()` at `when`, a reading of the running loop's clock, or up to `STEP_S` later unless `exact`."""
    global _steps  # noqa: PLW0603 - one loop asks at a time, nearly always the same
    if exact:
        return loop.call_at(when, ring)
    steps = _steps
    if steps is None or steps.loop is not loop:
        steps = _steps = _Steps(loop)
    return steps.at(when, ring)
