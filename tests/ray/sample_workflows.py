"""Workflows that the Ray suite deploys. Gates are named pipes: opening one for reading waits for its writer."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching

__all__ = ["Doubler", "GatedStream", "Placed", "RefusesToStart", "Waits"]


class Doubler(BaseInferenceWorkflow[int, int]):
    """Twice the number. 13 breaks the whole batch it is in."""

    batching = Batching(max_size=64)
    retry_safe = True

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def do_run_batch(self, batch: list[int]) -> list[int]:
        if 13 in batch:
            raise RuntimeError("13 does not fit the matrix")
        return [number * self.factor for number in batch]


class GatedStream(BaseInferenceWorkflow[int, list[int], int]):
    """Counts to the input; nothing after the first number is computed before somebody writes to the pipe."""

    def __init__(self, gate: str, closed: str) -> None:
        self.gate = Path(gate)
        self.closed = Path(closed)

    def do_stream(self, preprocessed_data: int) -> Iterator[int]:
        try:
            yield 0
            self.gate.read_bytes()
            yield from range(1, preprocessed_data)
        finally:
            self.closed.touch()


class RefusesToStart(BaseInferenceWorkflow[int, int]):
    """Its setup fails."""

    def do_setup(self) -> None:
        raise RuntimeError("the weights are upside down")

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data


class Placed(BaseInferenceWorkflow[int, dict[str, Any]]):
    """Says where it runs."""

    def do_run_model(self, preprocessed_data: int) -> dict[str, Any]:
        given = self.resources
        return {"gpu_ids": list(given.gpu_ids), "fraction": given.gpu_fraction, "cpus": given.cpus, "pid": os.getpid()}


class Waits(AsyncInferenceWorkflow[int, int]):
    """Says after how many new objects the collector runs by itself where it is."""

    async def do_run_model(self, preprocessed_data: int) -> int:
        return gc.get_threshold()[0]
