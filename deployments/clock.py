"""Time as the batcher and the dispatcher see it, so that tests can own it. Monotonic: a wall clock may step back."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "MonotonicClock"]


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since some fixed moment; never decreases."""
        ...

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """Return when `event` is set or after `timeout_s` seconds, whichever comes first."""
        ...


class MonotonicClock:
    """The machine's own clock, the one that `CallContext.deadline` is read from."""

    def now(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return
