"""Items that wait for something of their own, such as a model that is being loaded, before they join a batcher's queue.

So that they keep nobody else from the model. Knows no model and no thread: belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

from deployments.batcher import Entrant
from deployments.client import Outcome
from workflows.errors import Overloaded, WorkflowError
from workflows.prerequisite import Prerequisite

__all__ = ["HeldBack"]


class HeldBack:
    """In front of a queue. Their time here counts as time in the queue.

    Args:
        submit: Takes an item into the queue, or raises why not.
    """

    def __init__(self, submit: Callable[[Entrant], None]) -> None:
        self._submit = submit
        self._held: dict[Entrant, tuple[asyncio.TimerHandle, Future[None]]] = {}
        # A future cannot be told to forget a callback: it knows of no item, so that those who leave leave nothing behind.
        self._waiting: WeakKeyDictionary[Future[None], dict[Entrant, None]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, entrant: Entrant, until: Prerequisite, at_most: int) -> None:
        """Keep an item until what it waits for is done, or its time is up.

        Raises Overloaded where `at_most` others wait, and what `submit` raises.
        """
        if until.done.done():
            self._submit(entrant)
            return
        if len(self._held) >= at_most:
            raise Overloaded("too many requests wait for their models")
        loop = asyncio.get_running_loop()
        left = entrant.call.seconds_left()
        seconds = until.at_most_s if left is None else min(left, until.at_most_s)
        entrant.arrived = time.monotonic()
        self._held[entrant] = loop.call_later(seconds, self._release, entrant), until.done
        others = self._waiting.get(until.done)
        if others is not None:
            others[entrant] = None
            return
        self._waiting[until.done] = {entrant: None}
        until.done.add_done_callback(partial(self._done, loop))

    def drop(self, entrant: Entrant) -> None:
        """Its caller has left, and it has been told."""
        self._take_out(entrant)

    def let_go(self) -> None:
        """Hold nothing back: all of it goes to the queue, to be finished or refused there."""
        for entrant in list(self._held):
            self._release(entrant)

    def _done(self, loop: asyncio.AbstractEventLoop, done: Future[None]) -> None:
        """In whatever thread did it."""
        with suppress(RuntimeError):  # a loop that was closed: nobody waits
            loop.call_soon_threadsafe(self._release_all, done)

    def _release_all(self, done: Future[None]) -> None:
        for entrant in list(self._waiting.pop(done, ())):
            self._release(entrant)

    def _release(self, entrant: Entrant) -> None:
        if not self._take_out(entrant):
            return  # it went before
        try:
            self._submit(entrant)
        except WorkflowError as error:
            entrant.settle(Outcome(error=error))

    def _take_out(self, entrant: Entrant) -> bool:
        held = self._held.pop(entrant, None)
        if held is None:
            return False
        timer, done = held
        timer.cancel()
        self._waiting.get(done, {}).pop(entrant, None)
        return True
