"""An event loop on a thread of its own, for the sync names of things that are async. Knows no workflow.

The thread is a daemon: a process that ends without `close()`, or by an exception, ends all the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

from workflows.errors import NotReady

__all__ = ["SideLoop"]

T = TypeVar("T")

_CLOSED: Final = "the event loop of this was closed"


class SideLoop:
    """Runs from its making until `close()`. What it runs sees the context variables of who asked for it."""

    def __init__(self) -> None:
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        # Nothing is handed to a loop that is about to end: nobody would ever run it. Reentrant, because the garbage
        # collector may close a stream within any line of this.
        self._lock = threading.RLock()
        self._end = asyncio.Event()
        self._loop = asyncio.new_event_loop()  # here, so that who makes this hears of it where none can be had
        self._thread = threading.Thread(target=self._run, name="side-loop", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closing

    @property
    def is_here(self) -> bool:
        """Whether this is the loop's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """What `work(*args)` returns or raises. Raises NotReady on a loop that is closed, or is while this waits."""
        if self.is_here:
            raise RuntimeError("the sync names wait: on the workflow's own event loop, use the async ones")
        with self._lock:
            self._require_open()
            future = asyncio.run_coroutine_threadsafe(work(*args), self._loop)
        try:
            return future.result()
        except CancelledError:
            self._require_open()
            raise
        finally:
            future.cancel()  # where the wait was interrupted

    def start(
        self, work: Callable[[], Coroutine[Any, Any, T]], done: Callable[[asyncio.Task[T]], object]
    ) -> asyncio.Task[T]:
        """Begin `work()` as a task of the loop, which calls `done` with it at its end."""
        return self.call(self._start, work, done)

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call(*args)` called on the loop, soon. Raises NotReady on a loop that is closed."""
        with self._lock:
            self._require_open()
            self._loop.call_soon_threadsafe(call, *args)

    def close(self) -> None:
        """Cancel what still runs, let its `finally` blocks come to their end, and end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._end.set)
        if not self.is_here:
            self._thread.join()

    def _require_open(self) -> None:
        if self._closing:
            raise NotReady(_CLOSED, retry_after_s=None)

    async def _start(
        self, work: Callable[[], Coroutine[Any, Any, T]], done: Callable[[asyncio.Task[T]], object]
    ) -> asyncio.Task[T]:
        task = asyncio.create_task(work())
        self._tasks.add(task)  # else the garbage collector may take a task together with what waits for it
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(done)
        return task

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._end.wait())
