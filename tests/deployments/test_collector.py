"""When the garbage collector runs by itself in a process of many parked calls."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.collector import expect_parked_calls


@pytest.fixture
def runs() -> Iterator[list[dict[str, Any]]]:
    """Each run of the collector, from here on; the thresholds are put back."""
    before, found = gc.get_threshold(), []

    def note(phase: str, run: dict[str, Any]) -> None:
        if phase == "stop":
            found.append(run)

    gc.collect()
    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.set_threshold(*before)


def test_what_is_parked_is_not_walked_through_again_and_again(runs: list[dict[str, Any]]) -> None:
    expect_parked_calls()
    parked = [[number] for number in range(9_000)]
    assert len(parked) == 9_000
    assert runs == []


def test_cycles_are_still_found(runs: list[dict[str, Any]]) -> None:
    expect_parked_calls()
    for _ in range(25_000):
        cycle: list[Any] = []
        cycle.append(cycle)
    assert sum(run["collected"] for run in runs) > 10_000
