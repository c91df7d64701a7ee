"""How much memory the decoding of a few bytes may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["bounded"]

PER_BYTE = 128
"""An object of JSON with one member takes seven bytes there, and some hundreds here."""
FIXED = 256 << 10


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Fails if what happens inside takes more memory at a time than input of `size` bytes may cost."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if started:
            tracemalloc.stop()
    assert peak <= FIXED + PER_BYTE * size, f"{peak} bytes of memory for {size} bytes of input"
