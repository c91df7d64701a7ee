"""Ends a request whose caller has left or whose time is up. One event loop; costs a single timer while answers are quick.

What is being waited for is cancelled, and the reason comes out of the `with` block as an error of the tree:

    with Watch(seconds, receive) as watch:
        output = await dispatcher.inference(...)      # raises Cancelled or DeadlineExceeded instead of CancelledError
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from starlette.types import Receive

from deployments.router.alarms import SHORT_S, Alarm, alarm_at
from workflows.errors import Cancelled, DeadlineExceeded, WorkflowError

__all__ = ["Watch"]

QUIET_S: Final = 0.01
"""Nobody is watched for about this long: most answers are quicker, and a task for each would cost more than it saves."""


class Watch:
    """A guard over the current task.

    Args:
        seconds: Until the task is ended.
        receive: Where it is heard that the caller has left; None as long as the body is still coming from there.
        too_late: What is raised when the time is up.
    """

    __slots__ = ("_alarm", "_before", "_end_at", "_listener", "_loop", "_reason", "_receive", "_task", "_too_late")

    def __init__(self, seconds: float, receive: Receive | None = None, too_late: WorkflowError | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._end_at = self._loop.time() + seconds
        self._receive = receive
        self._too_late = too_late
        self._reason: WorkflowError | None = None
        self._listener: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a watch needs a task to end")
        self._task: asyncio.Task[Any] = task
        self._before = task.cancelling()
        quiet_until = self._loop.time() + QUIET_S
        if quiet_until < self._end_at:
            self._alarm: Alarm = alarm_at(self._loop, quiet_until, self._look)
        else:
            self._alarm = alarm_at(self._loop, self._end_at, self._look, exact=True)
        return self

    def limit(self, seconds: float) -> None:
        """End the task so many seconds from now instead; not sooner than `QUIET_S` after the watch began."""
        self._end_at = self._loop.time() + seconds
        if self._listener is not None:
            self._alarm.cancel()
            self._alarm = self._alarm_for_the_end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        if self._listener is not None:
            self._listener.cancel()
        # An end from here and a cancellation from outside (a stopping server) may meet: the one from outside wins.
        if self._reason is not None and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise self._reason from None

    def _look(self) -> None:
        """The quiet time is over, or all of it is."""
        if self._loop.time() >= self._end_at:
            self._end(self._too_late or DeadlineExceeded(may_have_run=True))
            return
        self._alarm = self._alarm_for_the_end()
        if self._listener is None and self._receive is not None:
            self._listener = self._loop.create_task(_until_gone(self._receive))
            self._listener.add_done_callback(self._gone)

    def _alarm_for_the_end(self) -> Alarm:
        return alarm_at(self._loop, self._end_at, self._look, exact=self._end_at - self._loop.time() < SHORT_S)

    def _gone(self, listener: asyncio.Task[None]) -> None:
        if not listener.cancelled():
            # A server whose `receive` breaks has lost its caller just as well; asking also marks the error as seen.
            listener.exception()
            self._end(Cancelled())

    def _end(self, reason: WorkflowError) -> None:
        if self._reason is None:
            self._reason = reason
            self._task.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
