"""Whether anybody still waits for a call. Asked wherever work on it is about to begin, or to go on."""

from __future__ import annotations

from workflows.context import CallContext
from workflows.errors import Cancelled, DeadlineExceeded, WorkflowError

__all__ = ["given_up"]


def given_up(call: CallContext, *, begun: bool = False) -> WorkflowError | None:
    """Why this call needs no work any more, None while it does.

    Args:
        begun: Whether the model has worked for it already.
    """
    if call.cancelled:
        return Cancelled()
    left = call.seconds_left()
    if left is None or left > 0:
        return None
    return DeadlineExceeded("the deadline passed" if begun else "the deadline passed in the queue", may_have_run=begun)
