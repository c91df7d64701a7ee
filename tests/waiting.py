"""Waiting for something to get somewhere that has no events, as Ray's state: it is asked again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["until"]


def until(true: Callable[[], bool], *, seconds: float, what: Callable[[], str]) -> None:
    """Return as soon as `true()`; fails the test with `what()` after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what()}")
        time.sleep(0.1)
