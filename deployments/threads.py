"""The one thread on which all hooks of a sync workflow run. No workflow, no Ray: functions in, results out, in order."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["ModelThread"]

T = TypeVar("T")
_Work = tuple[Callable[[], Any], asyncio.Future[Any] | None]

log = logging.getLogger(__name__)


class ModelThread:
    """Runs functions one after the other, first come first served.

    A daemon thread, unlike a ThreadPoolExecutor's: a model that hangs must not keep its process from ending.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._stopped = False
        self._abandoned = False
        self._waited_for: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopped

    @property
    def contended(self) -> bool:
        """Whether somebody waits for the thread: what runs now should give it back soon."""
        return not self._work.empty()

    def busy_s(self) -> float:
        """Seconds that the current function has been running; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises. Cancelling the wait does not stop the function: its result is dropped.

        Raises RuntimeError once stopped, and for what no future may carry, such as SystemExit.
        """
        if self._stopped:
            raise RuntimeError("the model's thread was stopped")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((function, future))
        self._waited_for.add(future)
        try:
            return await future
        finally:
            self._waited_for.discard(future)

    def stop(self, last: Callable[[], Any] | None = None) -> None:
        """End the thread after what is queued, and after `last`; does not wait for it."""
        self._stopped = True
        if last is not None:
            self._work.put((last, None))
        self._work.put(None)

    def abandon(self, error: Exception) -> None:
        """Give a function up that does not return: everybody who waits gets `error`, and nothing that is queued runs."""
        self._stopped = self._abandoned = True
        for future in self._waited_for:
            if not future.done():
                future.set_exception(error)
        self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None and not self._abandoned:
            function, future = work
            self._busy_since = time.monotonic()
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits, whatever it is
                error = raised
            self._busy_since = None
            if future is None:
                if error is not None:
                    log.error("the model's thread ended with a failure", exc_info=error)
                continue
            try:
                future.get_loop().call_soon_threadsafe(_resolve, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more
            del work, function, future, result, error  # nothing of a request stays alive while the thread is idle


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(error, StopIteration) or not isinstance(error, Exception | None):
        # In a future these mean something else: the end of an iteration, of the waiting task, or of the event loop.
        left, error = error, RuntimeError(f"{type(error).__name__} left a hook")
        error.__cause__ = left
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
