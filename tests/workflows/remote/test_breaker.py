"""When an upstream is left alone, and who finds out that it is back; how many retries calls have earned; the gate."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import Overloaded
from workflows.remote.breaker import Breaker, BreakerState
from workflows.remote.gate import Gate
from workflows.remote.policy import BreakerPolicy, UpstreamPolicy
from workflows.remote.retries import RetryBudget, backoff

POLICY = BreakerPolicy(failures=3, share=0.5, window_s=30.0, open_s=10.0, probes=2)


class Watched:
    """A breaker, its clock, and the states that it told of."""

    def __init__(self, policy: BreakerPolicy = POLICY) -> None:
        self.clock = HandClock()
        self.told: list[BreakerState] = []
        self.breaker = Breaker(policy, self.clock, lambda: self.told.append(self.breaker.state))

    def state(self) -> BreakerState:
        return self.breaker.state

    def asked(self, *, failed: bool, times: int = 1) -> None:
        for _ in range(times):
            permit = self.breaker.enter()
            (permit.failed if failed else permit.succeeded)()
            permit.end()


def test_it_opens_after_so_many_failures() -> None:
    seen = Watched()
    seen.asked(failed=True, times=2)
    assert seen.state() is BreakerState.CLOSED
    seen.asked(failed=True)
    assert seen.state() is BreakerState.OPEN
    with pytest.raises(Overloaded) as caught:
        seen.breaker.check()
    assert caught.value.retry_after_s == 10.0
    assert seen.told == [BreakerState.OPEN]


def test_it_stays_closed_while_most_succeed() -> None:
    seen = Watched()
    for _ in range(100):
        seen.asked(failed=False, times=2)
        seen.asked(failed=True)
    assert seen.state() is BreakerState.CLOSED


def test_old_failures_are_forgotten() -> None:
    seen = Watched()
    for _ in range(10):
        seen.asked(failed=True, times=2)
        seen.clock.advance(31.0)
    assert seen.state() is BreakerState.CLOSED


def test_old_successes_are_forgotten() -> None:
    seen = Watched()
    seen.asked(failed=False, times=1000)
    seen.clock.advance(31.0)
    seen.asked(failed=True, times=3)
    assert seen.state() is BreakerState.OPEN


def test_an_answer_that_begins_and_breaks_off_is_one_failure_of_one() -> None:
    seen = Watched(POLICY.model_copy(update={"share": 1.0}))
    for _ in range(3):
        permit = seen.breaker.enter()
        permit.succeeded()
        permit.failed()
        permit.end()
    assert seen.state() is BreakerState.OPEN


def opened() -> Watched:
    seen = Watched()
    seen.asked(failed=True, times=3)
    seen.clock.advance(10.0)
    return seen


def test_it_lets_a_few_through_after_a_while_and_closes_when_they_succeed() -> None:
    seen = opened()
    assert seen.state() is BreakerState.HALF_OPEN
    first, second = seen.breaker.enter(), seen.breaker.enter()
    with pytest.raises(Overloaded):
        seen.breaker.enter()
    first.succeeded()
    first.succeeded()
    assert seen.state() is BreakerState.HALF_OPEN
    second.succeeded()
    assert seen.state() is BreakerState.CLOSED
    assert seen.told == [BreakerState.OPEN, BreakerState.CLOSED]


def test_a_probe_that_fails_opens_it_again() -> None:
    seen = opened()
    seen.asked(failed=True)
    assert seen.state() is BreakerState.OPEN
    seen.clock.advance(9.0)
    assert seen.state() is BreakerState.OPEN
    seen.clock.advance(1.0)
    assert seen.state() is BreakerState.HALF_OPEN


def test_a_probe_whose_caller_leaves_makes_room_for_another() -> None:
    seen = opened()
    for _ in range(5):
        permits = [seen.breaker.enter(), seen.breaker.enter()]
        for permit in permits:
            permit.end()
    seen.asked(failed=False, times=2)
    assert seen.state() is BreakerState.CLOSED


def test_what_was_asked_before_a_change_says_nothing_after_it() -> None:
    seen = Watched()
    slow = [seen.breaker.enter() for _ in range(5)]
    seen.asked(failed=True, times=3)
    seen.clock.advance(10.0)
    for permit in slow:
        permit.failed()
        permit.end()
    assert seen.state() is BreakerState.HALF_OPEN
    seen.asked(failed=False, times=2)
    assert seen.state() is BreakerState.CLOSED


@given(share=st.floats(0, 1), reserve=st.integers(0, 20), wanted=st.lists(st.integers(0, 4), max_size=300))
def test_there_are_never_more_retries_than_calls_have_earned(share: float, reserve: int, wanted: list[int]) -> None:
    budget, retries = RetryBudget(share, reserve), 0
    for calls, tries in enumerate(wanted, 1):
        budget.earn()
        retries += sum(budget.spend() for _ in range(tries))
        assert retries <= share * calls + reserve + 1e-3


def test_a_tenth_is_a_tenth() -> None:
    budget = RetryBudget(0.1, 0)
    granted = 0
    for _ in range(1000):
        budget.earn()
        granted += budget.spend()
    assert granted == 100


def test_a_long_quiet_time_saves_up_no_storm() -> None:
    budget = RetryBudget(0.1, 0)
    for _ in range(100_000):
        budget.earn()
    assert budget.retries == 10


def test_the_time_before_a_retry_doubles_up_to_a_bound() -> None:
    policy = UpstreamPolicy(backoff_s=0.5, backoff_max_s=3.0)
    assert [backoff(policy, number, lambda: 1.0) for number in (1, 2, 3, 4, 1000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff(policy, 2, lambda: 0.25) == 0.25
    assert backoff(policy, 2, lambda: 0.0) == 0.0


async def test_the_gate_lets_in_as_many_as_there_are_places_and_then_in_order() -> None:
    gate, came = Gate(places=2, line=2), list[int]()

    async def enter(number: int) -> None:
        await gate.enter()
        came.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(4)]
    await asyncio.wait(tasks[:2])
    assert (gate.inside, gate.waiting, came) == (2, 2, [0, 1])
    with pytest.raises(Overloaded):
        await gate.enter()
    gate.leave()
    await tasks[2]
    gate.leave()
    await tasks[3]
    assert (gate.inside, gate.waiting, came) == (2, 0, [0, 1, 2, 3])


async def test_who_leaves_the_line_holds_nobody_up() -> None:
    gate = Gate(places=1, line=2)
    await gate.enter()
    leaver, stayer = (asyncio.create_task(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    gate.leave()  # at the same moment as it becomes its turn
    await stayer
    assert leaver.cancelled()
    assert (gate.inside, gate.waiting) == (1, 0)
