"""The batcher against a model of what it promises, under a clock that the test owns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from deployments.batcher import Entrant
from tests.deployments.batcher_bench import Bench
from tests.deployments.virtual_clock import quiescence
from workflows.card import Batching
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, ReplicaLost

# ---- any history ---------------------------------------------------------------------------------------------------------

COSTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 7.0])
LIMITS = st.builds(
    Batching,
    max_size=st.integers(1, 4),
    max_wait_s=st.sampled_from([0.0, 0.0, 1.0, 3.0]),
    max_cost=st.sampled_from([None, 1.0, 4.0]),
)


class AnyHistory(RuleBasedStateMachine):
    """Arrivals, departures, deadlines, changes of limits and faults of the model, in any order."""

    MAX_QUEUE = 6

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = self.on_loop(self._bench())
        self.queue: list[Entrant] = []  # what must be waiting, in order of arrival
        self.taken: list[Entrant] = []
        self.running: list[Entrant] = []
        self.expected: dict[int, Any] = {}
        self.faults = 0

    async def _bench(self) -> Bench:
        bench = Bench(Batching(max_size=3), self.MAX_QUEUE)
        bench.model.begun = self.begun
        return bench

    def on_loop(self, work: Awaitable[Any]) -> Any:
        async def turn() -> Any:
            result = await work
            await quiescence()
            return result

        return self.loop.run_until_complete(turn())

    def begun(self, batch: list[Entrant]) -> None:
        """The model's view: this batch must be exactly the one that the rules say, at this moment."""
        limits = self.bench.batcher.limits
        live = [entrant for entrant in self.queue if not self.dead(entrant)]
        full = self.full_buckets(live)
        if self.impatient(live[0]):
            chosen = live[0].load.bucket
        else:
            assert full, "this batch should have waited for company"
            chosen = next(entrant.load.bucket for entrant in live if entrant.load.bucket in full)
        bucket = [entrant for entrant in live if entrant.load.bucket == chosen]
        should: list[Entrant] = []
        for entrant in bucket[: limits.max_size]:
            cost = sum(other.load.cost for other in should) + entrant.load.cost
            if should and limits.max_cost is not None and cost > limits.max_cost:
                break
            should.append(entrant)
        assert [e.input_data for e in batch] == [e.input_data for e in should]
        self.queue = [entrant for entrant in self.queue if entrant not in batch]
        self.running = list(batch)

    def impatient(self, entrant: Entrant) -> bool:
        patience = self.bench.batcher.limits.max_wait_s
        if entrant.call.deadline is not None:
            patience = min(patience, (entrant.call.deadline - entrant.arrived) / 2)
        return bool(self.bench.clock.now() >= entrant.arrived + patience)

    def full_buckets(self, live: list[Entrant]) -> set[Any]:
        limits = self.bench.batcher.limits
        full = set()
        for bucket in {entrant.load.bucket for entrant in live}:
            costs = [entrant.load.cost for entrant in live if entrant.load.bucket == bucket]
            if len(costs) >= limits.max_size or (limits.max_cost is not None and sum(costs) >= limits.max_cost):
                full.add(bucket)
        return full

    def dead(self, entrant: Entrant) -> bool:
        deadline = entrant.call.deadline
        return entrant.call.cancelled or (deadline is not None and self.bench.clock.now() >= deadline)

    @rule(cost=COSTS, bucket=st.sampled_from("ab"), within_s=st.sampled_from([None, None, 0.5, 2.0, 9.0]))
    def arrive(self, cost: float, bucket: str, within_s: float | None) -> None:
        async def arrive() -> None:
            full = self.bench.batcher.waiting >= self.MAX_QUEUE
            try:
                entrant = self.bench.submit(len(self.taken), cost=cost, bucket=bucket, within_s=within_s)
            except Overloaded:
                assert full
            else:
                assert not full
                self.taken.append(entrant)
                self.queue.append(entrant)

        self.on_loop(arrive())

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        async def leave() -> None:
            if self.taken:
                entrant = data.draw(st.sampled_from(self.taken))
                self.bench.batcher.drop(entrant)
                if entrant in self.queue:
                    self.queue.remove(entrant)

        self.on_loop(leave())

    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """The caller's context is cancelled and nobody told the batcher."""
        if self.queue:
            data.draw(st.sampled_from(self.queue)).call.cancel()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.on_loop(self.bench.clock.advance(seconds))

    @precondition(lambda self: self.bench.model.busy)
    @rule(how=st.sampled_from(["well", "well", "well", "raise", "too few", "first fails"]))
    def batch_ends(self, how: str) -> None:
        batch, self.running = self.running, []
        self.faults += how in ("raise", "too few")
        for number, entrant in enumerate(batch):
            if how in ("raise", "too few"):
                self.expected[entrant.input_data] = "internal"
            elif how == "first fails" and number == 0:
                self.expected[entrant.input_data] = "invalid"
            else:
                self.expected[entrant.input_data] = ("ran", entrant.input_data)
        self.on_loop(self.bench.model.finish(how))

    @rule(limits=LIMITS)
    def limits_change(self, limits: Batching) -> None:
        async def change() -> None:
            self.bench.batcher.limits = limits

        self.on_loop(change())

    @invariant()
    def the_model_is_never_idle_without_a_reason(self) -> None:
        batcher, clock = self.bench.batcher, self.bench.clock
        assert batcher.alive
        assert batcher.restarts == self.faults
        assert batcher.waiting <= self.MAX_QUEUE
        assert self.bench.model.busy == bool(batcher.running)
        if batcher.waiting and not batcher.running:
            alarm = clock.next_alarm
            assert alarm is not None
            assert alarm > clock.now()
            assert not self.full_buckets([entrant for entrant in self.queue if not self.dead(entrant)])

    @invariant()
    def nobody_is_told_twice(self) -> None:
        assert all(len(inbox) <= 1 for inbox in self.bench.delivered.values())

    def teardown(self) -> None:
        async def end() -> None:
            stopping = asyncio.ensure_future(self.bench.batcher.stop())
            await quiescence()
            if self.bench.model.busy:
                assert not stopping.done()
                for entrant in self.running:
                    self.expected[entrant.input_data] = ("ran", entrant.input_data)
                await self.bench.model.finish()
            await stopping

        self.on_loop(end())
        self.loop.close()
        executed = {name for batch in self.bench.ran for name in batch}
        for entrant in self.taken:
            outcome = self.bench.outcome(entrant.input_data)  # exactly one
            if outcome.error is None:
                assert outcome.output == self.expected[entrant.input_data]
            elif isinstance(outcome.error, Cancelled):
                assert entrant.call.cancelled
            elif isinstance(outcome.error, DeadlineExceeded | ReplicaLost):
                assert entrant.input_data not in executed
            else:
                assert outcome.error.code == self.expected[entrant.input_data]


def test_any_history(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    run_state_machine_as_test(
        AnyHistory,
        settings=settings(
            max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


# ---- one promise each ----------------------------------------------------------------------------------------------------


async def test_the_next_batch_grows_while_one_runs() -> None:
    bench = Bench(Batching(max_size=4))
    await bench.run("a")
    await bench.run("b", "c", "d")
    assert bench.ran == [["a"]]
    assert (bench.batcher.running, bench.batcher.waiting) == (1, 3)
    await bench.model.finish()
    assert bench.ran == [["a"], ["b", "c", "d"]]
    assert bench.outcome("a").output == ("ran", "a")
    assert not bench.delivered["b"]


async def test_an_idle_model_runs_at_once_without_max_wait() -> None:
    bench = Bench()
    await bench.run("a")
    assert bench.ran == [["a"]]


async def test_an_idle_model_waits_for_company_that_long_after_the_oldest_came() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=2.0))
    await bench.run("a")
    await bench.clock.advance(1.5)
    await bench.run("b")
    assert bench.ran == []
    await bench.clock.advance(0.5)
    assert bench.ran == [["a", "b"]]


@pytest.mark.parametrize(
    "limits", [Batching(max_size=2, max_wait_s=5.0), Batching(max_size=9, max_wait_s=5.0, max_cost=6.0)]
)
async def test_a_full_batch_does_not_wait(limits: Batching) -> None:
    bench = Bench(limits)
    await bench.run("a", cost=3.0)
    assert bench.ran == []
    await bench.run("b", cost=3.0)
    assert bench.ran == [["a", "b"]]


async def test_waiting_for_company_does_not_use_up_the_deadline() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=5.0))
    await bench.run("a", within_s=1.0)
    await bench.clock.advance(0.5)
    assert bench.ran == [["a"]]


async def test_what_waited_while_the_model_was_busy_has_waited_enough() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=1.0))
    await bench.run("a")
    await bench.clock.advance(1.0)
    await bench.run("b")
    await bench.clock.advance(3.0)
    await bench.model.finish()
    assert bench.ran == [["a"], ["b"]]


async def test_new_limits_hold_for_a_model_that_waits_for_company() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=5.0))
    await bench.run("a")
    bench.batcher.limits = Batching(max_size=2, max_wait_s=5.0)
    await bench.run("b")
    assert bench.ran == [["a", "b"]]


async def test_new_limits_are_seen_at_once() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=5.0))
    await bench.run("a", "b")
    bench.batcher.limits = Batching(max_size=2, max_wait_s=5.0)
    await quiescence()
    assert bench.ran == [["a", "b"]]


@pytest.mark.parametrize(
    "limits", [Batching(max_size=2, max_wait_s=5.0), Batching(max_size=9, max_wait_s=5.0, max_cost=2.0)]
)
async def test_a_full_batch_does_not_wait_behind_the_patience_of_another(limits: Batching) -> None:
    bench = Bench(limits)
    await bench.run("patient", bucket="x")
    await bench.run("a", "b", "c", bucket="y")
    assert bench.ran == [["a", "b"]]
    await bench.run("d", bucket="y")
    await bench.clock.advance(5.0)
    await bench.model.finish()
    assert bench.ran == [["a", "b"], ["patient"]]  # whose patience is over, and "c" and "d" wait


async def test_an_item_above_max_cost_runs_alone() -> None:
    bench = Bench(Batching(max_size=9, max_cost=4.0))
    await bench.run("busy")
    for name, cost in (("a", 2.0), ("big", 50.0), ("b", 2.0), ("c", 2.0), ("d", 1.0)):
        bench.submit(name, cost=cost)
    for _ in range(4):
        await bench.model.finish()
    assert bench.ran == [["busy"], ["a"], ["big"], ["b", "c"], ["d"]]


async def test_the_oldest_live_item_chooses_the_bucket() -> None:
    bench = Bench()
    await bench.run("busy", bucket="x")
    bench.submit("late", bucket="x", within_s=1.0)
    bench.submit("old", bucket="y")
    bench.submit("young", bucket="x")
    await bench.clock.advance(1.0)
    await bench.model.finish()
    assert bench.ran == [["busy"], ["old"]]
    assert bench.error("late").code == "deadline"


async def test_a_stream_of_one_bucket_does_not_starve_another() -> None:
    bench = Bench(Batching(max_size=2))
    await bench.run("busy", bucket="x")
    bench.submit("rare", bucket="y")
    for number in range(5):
        await bench.run(number, bucket="x")
        await bench.clock.advance(0.1)
    await bench.model.finish()
    assert bench.ran[1] == ["rare"]


async def test_a_late_item_never_runs() -> None:
    bench = Bench()
    await bench.run("busy")
    bench.submit("late", within_s=1.0)
    bench.submit("on time", within_s=1.5)
    await bench.clock.advance(1.0)
    await bench.model.finish()
    assert bench.ran == [["busy"], ["on time"]]
    error = bench.error("late")
    assert isinstance(error, DeadlineExceeded)
    assert not error.may_have_run
    assert bench.outcome("late").timing.queue_s == 1.0


async def test_a_dropped_item_never_runs_and_leaves_the_queue_at_once() -> None:
    bench = Bench(max_queue=1)
    await bench.run("busy")
    gone = bench.submit("gone")
    bench.batcher.drop(gone)
    assert bench.error("gone").code == "cancelled"
    assert bench.batcher.waiting == 0
    bench.submit("next")
    await bench.model.finish()
    assert bench.ran == [["busy"], ["next"]]


async def test_dropping_a_running_item_throws_its_answer_away() -> None:
    bench = Bench()
    entrant = bench.submit("a")
    await quiescence()
    bench.batcher.drop(entrant)
    assert entrant.call.cancelled
    await bench.model.finish()
    assert bench.error("a").code == "cancelled"


async def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    bench = Bench(max_queue=2)
    await bench.run("busy")
    await bench.run("a", "b")
    with pytest.raises(Overloaded) as refused:
        bench.submit("c")
    assert refused.value.retry_after_s is not None
    await bench.model.finish()
    assert bench.ran == [["busy"], ["a", "b"]]


async def test_timing_says_where_the_time_went() -> None:
    bench = Bench()
    await bench.run("busy")
    await bench.run("a", "b")
    await bench.clock.advance(2.0)
    await bench.model.finish()
    await bench.clock.advance(3.0)
    await bench.model.finish()
    timing = bench.outcome("b").timing
    assert (timing.queue_s, timing.model_s, timing.batch_size) == (2.0, 3.0, 2)


@pytest.mark.parametrize("how", ["raise", "too few"])
async def test_a_fault_costs_the_batch_at_hand_and_nothing_else(how: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.run("a", "b")
    await bench.run("c")
    await bench.model.finish(how)
    assert {bench.error(name).code for name in "ab"} == {"internal"}
    assert "secret" not in bench.error("a").message
    assert "secret" in caplog.text or how == "too few"
    assert bench.batcher.restarts == 1
    await bench.model.finish()
    assert bench.outcome("c").output == ("ran", "c")
    assert bench.batcher.alive


async def test_stop_finishes_the_running_batch_and_refuses_the_rest() -> None:
    bench = Bench()
    await bench.run("a")
    await bench.run("b")
    stopping = asyncio.create_task(bench.batcher.stop())
    await quiescence()
    with pytest.raises(ReplicaLost):
        bench.submit("c")
    await bench.model.finish()
    await stopping
    assert bench.outcome("a").output == ("ran", "a")
    assert isinstance(bench.error("b"), ReplicaLost)
    assert not bench.error("b").may_have_run
    assert bench.ran == [["a"]]
    assert not bench.batcher.alive


async def test_stop_does_not_wait_for_company() -> None:
    bench = Bench(Batching(max_size=4, max_wait_s=10.0))
    await bench.run("a")
    await bench.batcher.stop()
    assert isinstance(bench.error("a"), ReplicaLost)
    assert not bench.error("a").may_have_run
    assert bench.ran == []


async def test_a_dead_loop_shows_and_strands_nobody() -> None:
    bench = Bench()
    await bench.run("a")
    await bench.run("b")
    (loop,) = [task for task in asyncio.all_tasks() if task.get_name() == "batcher"]
    loop.cancel()
    await quiescence()
    assert not bench.batcher.alive
    assert isinstance(bench.error("a"), ReplicaLost)
    assert not bench.error("a").may_have_run
    assert isinstance(bench.error("b"), ReplicaLost)
    assert not bench.error("b").may_have_run
    with pytest.raises(ReplicaLost):
        bench.submit("c")
