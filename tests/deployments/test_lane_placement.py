"""Models over replicas: as many each, the same for every router, and moved by nothing that does not exist."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from deployments.lanes.placement import FORGET_AFTER_S, MAX_MODELS, Placement


def replicas(count: int) -> list[str]:
    return [f"replica-{number}" for number in range(count)]


def models(count: int) -> list[str]:
    return [f"model local/a/m{number}" for number in range(count)]


def placement_of(names: list[str], clock: list[float] | None = None) -> Placement:
    now = clock or [0.0]
    placement = Placement(lambda: now[0])
    for name in names:
        placement.answered(name)
    return placement


def places(placement: Placement, names: list[str], among: list[str]) -> dict[str, str]:
    return {name: placement.replica_for(name, among) for name in names}


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("asked", [5, 7, 10, 20, 50])
def test_each_replica_has_its_part_and_no_more(count: int, asked: int) -> None:
    found = Counter(places(placement_of(models(asked)), models(asked), replicas(count)).values())
    assert max(found.values()) == -(-asked // count)


def test_routers_agree_whatever_they_were_asked_first() -> None:
    first = places(placement_of(models(20)), models(20), replicas(4))
    for seed in range(5):
        order = random.Random(seed).sample(models(20), 20)
        among = random.Random(seed).sample(replicas(4), 4)
        assert places(placement_of(order), models(20), among) == first


def test_a_model_that_comes_is_told_the_place_that_it_will_have_and_moves_few() -> None:
    placement = placement_of([])
    moved = 0
    for number, name in enumerate(models(100)):
        before = places(placement, models(number), replicas(4))
        place = placement.replica_for(name, replicas(4))
        placement.answered(name)
        assert placement.replica_for(name, replicas(4)) == place
        after = places(placement, models(number), replicas(4))
        moved += sum(after[other] != before[other] for other in before)
    assert moved < 2 * 100


def test_what_never_answered_moves_nothing() -> None:
    placement = placement_of(models(7))
    before = places(placement, models(7), replicas(3))
    for number in range(1000):
        placement.replica_for(f"model local/a/nothing{number}", replicas(3))
    assert places(placement, models(7), replicas(3)) == before


def test_most_stay_where_they_are_when_a_replica_goes_and_all_return_with_it() -> None:
    placement = placement_of(models(40))
    before = places(placement, models(40), replicas(4))
    without = places(placement, models(40), replicas(3))
    assert max(Counter(without.values()).values()) == 14
    staying = [name for name, place in before.items() if place in replicas(3)]
    assert sum(without[name] == before[name] for name in staying) > 20
    assert places(placement, models(40), replicas(4)) == before


def test_what_nobody_asks_for_any_more_takes_no_place() -> None:
    clock = [0.0]
    placement = placement_of(models(9), clock)
    clock[0] += FORGET_AFTER_S + 1
    for name in models(3):
        placement.answered(name)
    assert len(set(places(placement, models(3), replicas(3)).values())) == 3
    assert places(placement, models(3), replicas(3)) == places(placement_of(models(3)), models(3), replicas(3))
    for name in models(MAX_MODELS + 10):
        placement.answered(name)
    found = Counter(places(placement, models(MAX_MODELS + 10)[10:], replicas(2)).values())
    assert set(found.values()) == {MAX_MODELS // 2}


def test_one_replica_holds_all() -> None:
    assert set(places(placement_of(models(3)), models(5), replicas(1)).values()) == {"replica-0"}
