"""A clock that only moves when a test says so. Its users must run on the event loop of the test."""

from __future__ import annotations

import asyncio

__all__ = ["VirtualClock", "quiescence"]


class VirtualClock:
    """`deployments.clock.Clock`; starts at 1000, so that nobody mistakes it for time that has passed."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._alarms: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        alarm = asyncio.Event()
        entry = (self._now + timeout_s, alarm)
        self._alarms.append(entry)
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(alarm.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._alarms.remove(entry)
            for wait in waits:
                wait.cancel()

    @property
    def next_alarm(self) -> float | None:
        """When somebody wants to be woken up, if anybody does."""
        return min((due for due, _ in self._alarms), default=None)

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everybody react to it."""
        self._now += seconds
        for due, alarm in self._alarms:
            if due <= self._now:
                alarm.set()
        await quiescence()


async def quiescence() -> None:
    """Let every task that can run do so: none of those under test needs more turns of the loop than this in a row."""
    for _ in range(12):
        await asyncio.sleep(0)
