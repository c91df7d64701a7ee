"""Items that wait for something of their own, such as a model that is being loaded, before they join a batcher's queue.

So that they keep nobody else from the model. Knows no model and no thread: belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from deployments.batcher import Entrant
from deployments.client import Outcome
from workflows.errors import Overloaded, WorkflowError
from workflows.prerequisite import Prerequisite

__all__ = ["HeldBack"]


class HeldBack:
    """In front of a queue.

    Args:
        submit: Takes an item into the queue, or raises why not.
    """

    def __init__(self, submit: Callable[[Entrant], None]) -> None:
        self._submit = submit
        self._timers: dict[Entrant, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def hold(self, entrant: Entrant, until: Prerequisite, at_most: int) -> None:
        """Keep an item until what it waits for is done, or its time is up.

        Raises Overloaded where `at_most` others wait, and what `submit` raises.
        """
        if until.done.done():
            self._submit(entrant)
            return
        if len(self._timers) >= at_most:
            raise Overloaded("too many requests wait for their models")
        loop = asyncio.get_running_loop()
        left = entrant.call.seconds_left()
        seconds = until.at_most_s if left is None else min(left, until.at_most_s)
        self._timers[entrant] = loop.call_later(seconds, self._release, entrant)
        until.done.add_done_callback(partial(self._done, loop, entrant))

    def drop(self, entrant: Entrant) -> None:
        """Its caller has left, and it has been told."""
        timer = self._timers.pop(entrant, None)
        if timer is not None:
            timer.cancel()

    def let_go(self) -> None:
        """Hold nothing back: all of it goes to the queue, to be finished or refused there."""
        for entrant in list(self._timers):
            self._release(entrant)

    def _done(self, loop: asyncio.AbstractEventLoop, entrant: Entrant, _: Future[None]) -> None:
        """In whatever thread did it."""
        with suppress(RuntimeError):  # a loop that was closed: nobody waits
            loop.call_soon_threadsafe(self._release, entrant)

    def _release(self, entrant: Entrant) -> None:
        timer = self._timers.pop(entrant, None)
        if timer is None:
            return  # it went before
        timer.cancel()
        try:
            self._submit(entrant)
        except WorkflowError as error:
            entrant.settle(Outcome(error=error))
