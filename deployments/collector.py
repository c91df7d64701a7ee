"""Python's cyclic garbage collector, as it suits a replica: when it runs by itself, and when it must run. No Ray."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["collect_cycles", "expect_parked_calls"]

_PARKED: Final = (10_000, 20, 20)


def expect_parked_calls() -> None:
    """For a process in which many calls wait at once for somebody else: the collector runs by itself less often.

    A stream that waits for its next token is a chain of some thirty frames and futures, made anew for each token. With
    the interpreter's own thresholds the collector walks through all that is parked after every few hundred objects, and
    finds nothing: milliseconds each time. Not for processes that hold tensors, where each cycle it finds late may be
    large. Belongs to the process, so call it once, where the process begins.
    """
    gc.set_threshold(*_PARKED)


def collect_cycles() -> None:
    """Free what a teardown has left in reference cycles, also where Serve has told the collector to pass it over."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
