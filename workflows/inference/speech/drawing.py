"""How a torch model that draws random numbers repeats itself for a seed. Knows no text and no audio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["drawing"]


@contextmanager
def drawing(torch: Any, device: Any, seed: int | None) -> Iterator[None]:
    """Torch makes no gradients within, and draws the same numbers each time if there is a seed.

    torch's numbers are the whole process's: another model that draws some meanwhile, on a thread of its own, takes from
    these. What is drawn afterwards goes on as if nothing had been drawn within.

    Args:
        torch: The module.
        device: The model's.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None), torch.inference_mode():
        if seed is not None:
            torch.manual_seed(seed)
        yield
