"""A deadline for many waits of one call, with one timer: `asyncio.timeout` would set one for each chunk of a stream."""

from __future__ import annotations

import asyncio
import time
from typing import Self

__all__ = ["DeadlineTimer"]


class DeadlineTimer:
    """`with timer:` around each wait, one at a time: raises TimeoutError where the deadline passes in it, or has passed.

    Whoever waits is cancelled to get them out, as `asyncio.timeout` does, and only then: a deadline that passes between
    two waits is found by the next one. Belongs to one event loop; `close()` it at the end.

    Args:
        deadline: On `time.monotonic()`'s clock; None is none.

    Attributes:
        expired: Whether the deadline has ended a wait.
    """

    __slots__ = ("_cancelling", "_rang", "_timer", "_waiting", "expired")

    def __init__(self, deadline: float | None) -> None:
        self.expired = False
        self._rang = False
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - time.monotonic()), self._ring)

    def __enter__(self) -> Self:
        if self._rang:
            self.expired = True
            raise TimeoutError
        task = asyncio.current_task()
        assert task is not None  # who waits is a task
        self._cancelling = task.cancelling()
        self._waiting = task
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        task, self._waiting = self._waiting, None
        # Who was cancelled by somebody else as well stays so.
        if self.expired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._rang = True
        self._timer = None
        if self._waiting is not None:
            self.expired = True
            self._waiting.cancel()
