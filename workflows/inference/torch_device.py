"""Where a torch model runs and in which number format, from what a workflow was given. No torch: names only."""

from __future__ import annotations

import logging
from typing import Any, Literal

from workflows.resources import Resources

__all__ = ["Dtype", "choose_device", "prepare_device"]

log = logging.getLogger(__name__)

Dtype = Literal["float32", "float16", "bfloat16"]


def choose_device(resources: Resources, cuda_available: bool) -> str:
    """torch's name of the device: the first GPU that was given, where torch can reach one, else `cpu`."""
    if resources.gpu_ids and cuda_available:
        return f"cuda:{resources.gpu_ordinals[0]}"
    return "cpu"


def prepare_device(torch: Any, resources: Resources, threads: int | None) -> Any:
    """Set torch's thread count, which is the whole process's, and return the `torch.device` to use.

    Args:
        torch: The module.
        threads: Overrides the thread count that follows from `resources`.
    """
    torch.set_num_threads(threads or resources.threads)
    device = choose_device(resources, torch.cuda.is_available())
    if resources.gpu_ids and device == "cpu":
        log.warning("a GPU was given, but torch cannot use it: running on CPU")
    return torch.device(device)
