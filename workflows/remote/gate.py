"""Who may ask an upstream now, who waits in line, and who is turned away because the line is full."""

from __future__ import annotations

import asyncio

from workflows.errors import Overloaded

__all__ = ["FULL", "Gate"]

FULL = "too many requests wait for the upstream model"


class Gate:
    """First come, first served. Belongs to one event loop."""

    def __init__(self, places: int, line: int) -> None:
        self._line = line
        self._places = asyncio.Semaphore(places)
        self.inside = 0
        self.waiting = 0

    async def enter(self) -> None:
        """Take a place, as soon as one is free. Raises Overloaded where the line is full as well."""
        if self._places.locked() and self.waiting >= self._line:
            raise Overloaded(FULL)
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.inside += 1

    def leave(self) -> None:
        """Give back the place that `enter` has taken."""
        self.inside -= 1
        self._places.release()
