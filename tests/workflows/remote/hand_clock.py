"""A clock that only moves when a test says so, for everything that asks upstreams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count

from workflows.remote.clock import Limit

__all__ = ["HandClock"]


class HandClock:
    """`workflows.remote.clock.Clock`; starts at 1000, so that nobody mistakes it for time that has passed.

    Args:
        sleepless: Who sleeps lets the time pass at once.

    Attributes:
        slept: How long each sleep was to be.
    """

    def __init__(self, *, sleepless: bool = False) -> None:
        self._now = 1000.0
        self._sleepless = sleepless
        self._alarms: dict[int, tuple[float, Callable[[], None]]] = {}
        self._keys = count()
        self._set = asyncio.Event()
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        alarm = self._alarm(seconds, woken.set)
        self.slept.append(seconds)
        try:
            if self._sleepless:
                self.advance(seconds)
            await woken.wait()
        finally:
            self._alarms.pop(alarm, None)

    def limit(self, seconds: float | None) -> AbstractAsyncContextManager[Limit]:
        return self._limit(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass: who waited for it goes on, one after the other."""
        self._now += seconds
        due = sorted((when, key) for key, (when, _) in self._alarms.items() if when <= self._now)
        for _, key in due:
            self._alarms.pop(key)[1]()

    async def until_asleep(self, times: int = 1) -> None:
        """Until `sleep` was called so often, counted from the beginning."""
        while len(self.slept) < times:
            self._set.clear()
            await self._set.wait()

    async def until_waited_for(self, waits: int = 1) -> None:
        """Until so many wait for a time to come."""
        while len(self._alarms) < waits:
            self._set.clear()
            await self._set.wait()

    def _alarm(self, seconds: float, ring: Callable[[], None]) -> int:
        key = next(self._keys)
        self._alarms[key] = (self._now + seconds, ring)
        asyncio.get_running_loop().call_soon(self._set.set)  # once whoever has set it does wait
        return key

    @asynccontextmanager
    async def _limit(self, seconds: float | None) -> AsyncGenerator[Limit]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            alarm = None if seconds is None else self._alarm(seconds, lambda: limit.reschedule(loop.time()))
            try:
                yield limit
            finally:
                if alarm is not None:
                    self._alarms.pop(alarm, None)
