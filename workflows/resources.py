"""What a workflow may use of the machine. No scheduler: a deployment fills this in from what it was allotted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Set on a workflow as `self.resources` before `do_setup` runs.

    Attributes:
        gpu_ids: The GPUs of this workflow as the scheduler names them; empty means CPU, even where CUDA is visible.
        gpu_ordinals: The same GPUs as this process must address them (`cuda:0` is ordinal 0), in the order of `gpu_ids`.
        gpu_fraction: The share of each of those GPUs, above 0 and at most 1.
        cpus: CPU cores, possibly a fraction.
        memory_bytes: Host memory, None where nobody limited it.
    """

    gpu_ids: tuple[str, ...] = ()
    gpu_ordinals: tuple[int, ...] = ()
    gpu_fraction: float = 1.0
    cpus: float = 1.0
    memory_bytes: int | None = None

    @property
    def threads(self) -> int:
        """How many threads a numeric library should use: the whole cores of `cpus`, at least one."""
        return max(1, int(self.cpus))

    @classmethod
    def of_machine(cls) -> Resources:
        """Everything this process can see: what a script gets that says nothing."""
        gpus = _visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), Path("/proc/driver/nvidia/gpus"))
        return cls(gpu_ids=gpus, gpu_ordinals=tuple(range(len(gpus))), cpus=float(len(os.sched_getaffinity(0))))

    @classmethod
    def allotted(
        cls, *, gpu_ids: Iterable[str], gpu_fraction: float, cpus: float, memory_bytes: int | None
    ) -> Resources:
        """What a scheduler gave. It has set CUDA_VISIBLE_DEVICES to exactly these GPUs, in this order."""
        ids = tuple(gpu_ids)
        return cls(ids, tuple(range(len(ids))), gpu_fraction, cpus, memory_bytes)


def _visible_gpus(visible: str | None, driver: Path) -> tuple[str, ...]:
    """NVIDIA's own rule: the variable lists what may be used and `-1` or an empty string hides all."""
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    return tuple(str(i) for i, _ in enumerate(sorted(driver.glob("*")))) if driver.is_dir() else ()
