"""Python's cyclic garbage collector, as it suits this system: when it runs, and what must not have to wait for it. No Ray."""

from __future__ import annotations

import gc
from typing import Final, TypeVar

__all__ = ["collect_cycles", "expect_parked_calls", "without_frames"]

_PARKED: Final = (10_000, 20, 20)
E = TypeVar("E", bound=BaseException)


def expect_parked_calls() -> None:
    """For a process in which many calls wait at once for somebody else: the collector runs by itself less often.

    A stream that waits for its next token is a chain of some thirty frames and futures, made anew for each token. With
    the interpreter's own thresholds the collector walks through all that is parked after every few hundred objects, and
    finds nothing: milliseconds each time. For routers and async workflows; of those that hold tensors, text generation and
    Bark leave no cycles. Not for sync workflows, whose hooks may leave tensors in cycles, each of which would be found
    late. Belongs to the process, so call it once, where the process begins.
    """
    gc.set_threshold(*_PARKED)


def collect_cycles() -> None:
    """Free what a teardown has left in reference cycles, also where Serve has told the collector to pass it over."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()


def without_frames(error: E) -> E:
    """The same error without its traceback and its causes, once they were logged.

    Whoever keeps an error in a variable of a frame that the error has come through has made a cycle, which holds what
    those frames know: megabytes of input, until the collector comes by.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
