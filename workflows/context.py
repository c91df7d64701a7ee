"""What a running hook may know of the call it works for. No transport, no clocks but the monotonic one."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["CallContext", "cancelled", "current_call"]


@dataclass(slots=True)
class CallContext:
    """One caller's request, as the workflow may see it; for reading only, but for `cancel()`.

    `deadline` is a reading of `time.monotonic()` of this process: what travels between processes is the time left.
    """

    request_id: str = ""
    deadline: float | None = None
    key_id: str | None = None
    priority: int = 0
    session_id: str | None = None
    traceparent: str | None = None
    cancelled: bool = field(default=False, compare=False)

    def seconds_left(self) -> float | None:
        """Seconds until the caller's deadline, negative once it has passed; None where there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def cancel(self) -> None:
        """The caller is gone. May be called from any thread, any number of times."""
        self.cancelled = True


_NOBODY = CallContext()
_current: ContextVar[CallContext] = ContextVar("call", default=_NOBODY)


def current_call() -> CallContext:
    """The call that this hook runs for; an empty one outside of any call, and inside `do_run_batch`, which runs for many."""
    return _current.get()


def cancelled() -> bool:
    """Whether the caller of the current call has left: long-running hooks look at it between steps."""
    return _current.get().cancelled
