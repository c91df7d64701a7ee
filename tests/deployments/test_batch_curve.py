"""What is learned of batches makes the next ones as large as pays, and no larger."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from deployments.batch_curve import TRY_EVERY, CostCurve

Seconds = Callable[[float], float]


def steady(items: float) -> float:
    """A call costs much, an item little: as a GPU, and most models on any machine."""
    return 0.020 + 0.0005 * items


def padded(items: float) -> float:
    """Every item makes all others longer: as texts of mixed length on a CPU."""
    return 0.010 * items * (1 + 0.05 * items)


def cache_bound(items: float) -> float:
    """Good until the cache is full, at eight."""
    return 0.004 + 0.001 * items + 0.004 * max(0.0, items - 8)


def served(curve: CostCurve, seconds: Seconds, waiting: float, decisions: int, noise: float = 0.0) -> float:
    """Items per second, while always so many are waiting."""
    chance = random.Random(7)
    items = time = 0.0
    for _ in range(decisions):
        size = min(waiting, curve.most(waiting) or waiting)
        took = seconds(size) * (1 + noise * chance.uniform(-1, 1))
        curve.note(size, took)
        items += size
        time += took
    return items / time


def best(seconds: Seconds, waiting: int) -> float:
    return max(size / seconds(size) for size in range(1, waiting + 1))


@pytest.mark.parametrize("seconds", [steady, padded, cache_bound])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_throughput_comes_near_to_what_can_be_had(seconds: Seconds, noise: float) -> None:
    curve = CostCurve()
    served(curve, seconds, 32, 20 * TRY_EVERY, noise)
    assert served(curve, seconds, 32, 20 * TRY_EVERY, noise) > 0.85 * best(seconds, 32)


def test_nothing_known_means_no_limit() -> None:
    assert CostCurve().most(1000) is None


def test_what_pays_goes_whole() -> None:
    curve = CostCurve()
    served(curve, steady, 32, 10 * TRY_EVERY)
    answers = [curve.most(32) for _ in range(TRY_EVERY)]
    assert answers.count(None) >= TRY_EVERY - 1


def test_what_does_not_pay_goes_one_by_one() -> None:
    curve = CostCurve()
    served(curve, padded, 32, 20 * TRY_EVERY)
    answers = [curve.most(32) for _ in range(TRY_EVERY)]
    assert answers.count(1.0) >= TRY_EVERY - 1


def test_a_change_is_noticed() -> None:
    curve = CostCurve()
    served(curve, padded, 32, 20 * TRY_EVERY)
    served(curve, steady, 32, 60 * TRY_EVERY)
    assert served(curve, steady, 32, 20 * TRY_EVERY) > 0.85 * best(steady, 32)


def test_a_batch_ends_before_its_first_is_too_late() -> None:
    curve = CostCurve()
    for size in (1, 2, 4, 8, 16):
        for _ in range(3):
            curve.note(size, 0.1 * size)
    assert curve.most(16, seconds_left=0.5) == 4.0
    assert curve.most(16, seconds_left=0.01) == 1.0
    assert curve.most(16, seconds_left=60.0) is None


def test_the_points_tell_what_was_learned() -> None:
    curve = CostCurve()
    for _ in range(4):
        curve.note(3.0, 0.5)
    assert curve.points() == [(4.0, 0.5, 4)]
    curve.note(0.0, 1.0)
    assert len(curve.points()) == 1
