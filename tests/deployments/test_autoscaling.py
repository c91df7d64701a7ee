"""How many replicas, from what they report."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.autoscaling import by_items


def wanted(reported: dict[str, dict[str, float]] | None, *, queued: float = 0.0, target: float = 4.0) -> int:
    context = SimpleNamespace(
        aggregated_metrics=reported,
        total_queued_requests=queued,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=10,
    )
    return by_items(context, target_items=target)[0]


@pytest.mark.parametrize("name", ["waiting", "running", "streams", "expected"])
def test_whatever_a_replica_has_to_do_counts(name: str) -> None:
    assert wanted({name: {"one": 5.0, "two": 4.0}}) == 3


def test_what_replicas_report_is_added_up() -> None:
    assert wanted({"waiting": {"one": 3.0}, "running": {"one": 1.0}, "streams": {}, "expected": {"one": 8.0}}) == 3


def test_what_is_nobodys_work_does_not_count() -> None:
    assert wanted({"something else": {"one": 100.0}}) == 0


def test_whoever_waits_for_the_first_replica_gets_one() -> None:
    assert wanted(None) == 0
    assert wanted(None, queued=1.0) == 1


def test_it_stays_within_the_bounds() -> None:
    assert wanted({"waiting": {"one": 1000.0}}) == 10
