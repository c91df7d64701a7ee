"""Time, as everything about upstreams asks for it: what a test drives by hand instead of waiting."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "Limit"]


class Limit(Protocol):
    """What was entered with `Clock.limit`."""

    def expired(self) -> bool: ...


class Clock(Protocol):
    """Seconds of a clock that only goes forward."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...

    def limit(self, seconds: float | None) -> AbstractAsyncContextManager[Limit]:
        """As `asyncio.timeout`: what is inside is cancelled after so many seconds, and leaves as TimeoutError."""


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def limit(self, seconds: float | None) -> AbstractAsyncContextManager[Limit]:
        return asyncio.timeout(seconds)


SYSTEM_CLOCK: Final[Clock] = _SystemClock()
