"""What replicas count: every item once, every run of the model once, and sums that add up."""

from __future__ import annotations

import asyncio
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.client import Item
from deployments.local import LocalClient
from deployments.runner import Runner
from deployments.statistics import MAX_CODES, BatchStatistics, Counts, Duration, Meter, Statistics
from tests.contract import DEPLOYMENTS, Place, collect
from tests.orders import SyncOrders
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, CallContext
from workflows.errors import InvalidInput, NotReady, Overloaded, ReplicaLost, Unloaded, WorkflowError
from workflows.executions import Execution

S = 1_000_000_000


def counted() -> Counts:
    """Two batches, an item that ran alone, a stream, and two failures."""
    counts = Counts()
    counts.answered(3, since=30.0, parse_s=0.3, began=12.0, ended=15.0)  # three that came at 10
    counts.executed(Execution([0, 1, 2], 0.5, 2.0, 0.25), 3, 0.3)
    counts.answered(2, since=40.0, parse_s=0.0, began=21.0, ended=24.0)  # and a third one, whose answer was no good
    counts.executed(Execution([0, 1, 2], 1.0, 1.0, 1.0), 2, 0.0)
    counts.answered_alone(Execution([0], 0.5, 1.0, 0.5), 30.0, 0.5, 31.0, 33.0)
    counts.streamed(40.0, Meter(began=42.0, model_s=3.0), 50.0)
    counts.failed(InvalidInput(), 0.5)
    counts.failed(InvalidInput(), 0.25)
    return counts


def test_an_item_takes_as_long_as_the_batch_it_is_in() -> None:
    found = counted().statistics()
    assert found.success == Duration(7, round((3 * 5 + 2 * 4 + 3 + 10) * S))
    assert found.queue == Duration(7, round((3 * 2 - 0.3 + 2 * 1 + 0.5 + 2) * S))
    assert found.compute_input == Duration(7, round((3 * 0.5 + 0.3 + 2 * 1 + 1) * S))
    assert found.compute_infer == Duration(7, round((3 * 2 + 2 * 1 + 1 + 3) * S))
    assert found.compute_output == Duration(7, round((3 * 0.25 + 2 * 1 + 0.5) * S))
    assert (found.inference_count, found.execution_count) == (7, 4)
    assert found.failures == {"invalid": Duration(2, round(0.75 * S))}
    assert found.fail == Duration(2, round(0.75 * S))


def test_a_run_counts_once_by_the_number_of_its_items() -> None:
    assert counted().statistics().batches == {
        3: BatchStatistics(Duration(2, round(1.8 * S)), Duration(2, 3 * S), Duration(2, round(1.25 * S))),
        1: BatchStatistics(Duration(2, S), Duration(2, 4 * S), Duration(2, round(0.5 * S))),
    }


def test_runs_of_one_item_add_up_wherever_they_came_from() -> None:
    counts = counted()
    counts.executed(Execution([0], 0.5, 0.5, 0.5), 0, 0.0)
    found = counts.statistics()
    assert found.batches[1].compute_infer == Duration(3, round(4.5 * S))
    assert (found.inference_count, found.execution_count, found.compute_infer.count) == (7, 5, 7)


def test_sums_over_replicas_survive_the_way_and_change_nothing_else() -> None:
    counts = counted()
    crossed = Statistics.of_plain(pickle.loads(pickle.dumps(counts.statistics().plain())))
    assert crossed == counts.statistics()
    other = Counts()
    other.answered_alone(Execution([0], 0.0, 1.0), 1.0, 0.0, 1.0, 2.0)
    other.failed(WorkflowError(), 1.0)
    whole = Statistics()
    for part in (crossed, other.statistics()):
        whole.merge(part)
    assert (whole.inference_count, whole.execution_count, whole.batches[1].compute_infer.count) == (8, 5, 3)
    assert whole.failures == {"invalid": Duration(2, round(0.75 * S)), "internal": Duration(1, S)}
    assert whole.fail == Duration(3, round(1.75 * S))
    assert whole.last_inference_ms == crossed.last_inference_ms
    assert crossed == counts.statistics()


def test_nothing_is_what_a_new_replica_has_counted() -> None:
    assert Counts().statistics() == Statistics()
    assert Statistics().last_inference_ms == 0


def test_what_goes_on_elsewhere_has_not_failed_and_codes_are_bounded() -> None:
    counts = Counts()
    for error in (ReplicaLost(), Unloaded()):
        counts.failed(error, 1.0)
    assert counts.statistics() == Statistics()
    for number in range(2 * MAX_CODES):
        counts.failed(type("Own", (WorkflowError,), {"code": f"own-{number}"})(), 1.0)
    failures = counts.statistics().failures
    assert (len(failures), failures["other"].count) == (MAX_CODES + 1, MAX_CODES)


# ---- in a replica ----------------------------------------------------------------------------------------------------------


async def counted_by(workflow: BaseInferenceWorkflow[Any, Any, Any], *values: Any) -> Statistics:
    runner = Runner(workflow, "it")
    await runner.start()
    await collect(LocalClient(runner), [Item(value, CallContext()) for value in values])
    await runner.stop()
    return runner.statistics()


def sizes(found: Statistics) -> dict[int, int]:
    return {size: batch.compute_infer.count for size, batch in found.batches.items()}


class Picky(BaseInferenceWorkflow[int, int]):
    """Breaks every batch with a 13 in it; 7 is refused, 5 has no answer, 3 is not worth running."""

    batching = Batching(max_size=8)
    retry_safe = True

    def do_preprocessing(self, input_data: int) -> int:
        if input_data == 3:
            raise InvalidInput
        return input_data

    def do_run_batch(self, batch: list[int]) -> list[Any]:
        if 13 in batch:
            raise RuntimeError("13")
        return [InvalidInput() if value == 7 else value for value in batch]

    def do_postprocessing(self, input_data: int, output_data: int) -> int:
        if output_data == 5:
            raise RuntimeError("5")
        return output_data


async def test_only_runs_that_succeeded_count_each_with_its_own_items() -> None:
    found = await counted_by(Picky(), 1, 2, 7, 13)
    assert sizes(found) == {
        2: 1,
        1: 1,
    }  # four raised, two went well, two raised, one went well and refused its own, 13 raised
    assert {code: failure.count for code, failure in found.failures.items()} == {"invalid": 1, "internal": 1}
    assert found.inference_count == 2
    assert found.compute_infer.count == found.compute_input.count == found.compute_output.count == 2
    assert found.compute_infer.ns == 2 * found.batches[2].compute_infer.ns


@pytest.mark.parametrize(
    ("values", "answered", "runs"),
    [((1, 2), 2, {2: 1}), ((1, 3), 1, {1: 1}), ((1, 5), 1, {2: 1}), ((3,), 0, {}), ((13,), 0, {})],
)
async def test_whoever_fails_where_is_in_the_runs_that_it_was_in(
    values: tuple[int, ...], answered: int, runs: dict[int, int]
) -> None:
    found = await counted_by(Picky(), *values)
    assert (found.inference_count, found.fail.count) == (answered, len(values) - answered)
    assert sizes(found) == runs
    assert found.execution_count == sum(runs.values())


class OneByOne(BaseInferenceWorkflow[int, int]):
    """Has batches, which its model runs one by one."""

    batching = Batching(max_size=8)

    def do_run_model(self, preprocessed_data: int) -> int:
        if preprocessed_data == 13:
            raise RuntimeError("13")
        return preprocessed_data


async def test_a_model_that_runs_one_by_one_has_as_many_runs() -> None:
    found = await counted_by(OneByOne(), 1, 13, 3)
    assert (found.inference_count, sizes(found), found.execution_count) == (2, {1: 2}, 2)


class Postprocesses(AsyncInferenceWorkflow[int, int]):
    """Fails before, in or after its model."""

    async def do_preprocessing(self, input_data: int) -> int:
        if input_data == 1:
            raise InvalidInput
        return input_data

    async def do_run_model(self, preprocessed_data: int) -> int:
        if preprocessed_data == 2:
            raise InvalidInput
        return preprocessed_data

    async def do_postprocessing(self, input_data: int, output_data: int) -> int:
        if output_data == 3:
            raise InvalidInput
        return output_data


@pytest.mark.parametrize(("value", "answered", "runs"), [(1, 0, {}), (2, 0, {}), (3, 0, {1: 1}), (4, 1, {1: 1})])
async def test_an_async_run_counts_once_its_model_has_answered(value: int, answered: int, runs: dict[int, int]) -> None:
    found = await counted_by(Postprocesses(), value)
    assert (found.inference_count, found.fail.count, sizes(found)) == (answered, 1 - answered, runs)


async def test_who_leaves_while_it_runs_is_a_failure_of_a_run_that_counts(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = Runner(SyncOrders(), "it")
    await runner.start()
    client = LocalClient(runner)
    running = asyncio.create_task(collect(client, [place.order(1, gate="gate"), place.order(2)]))
    async with place.held("gate"):
        runner.cancel(["request-1"])
        began = time.monotonic()
        await asyncio.sleep(0.02)
        held_ns = (time.monotonic() - began) * S
    await running
    await runner.stop()
    found = runner.statistics()
    assert sizes(found) == {2: 1}
    assert (found.inference_count, {code: failure.count for code, failure in found.failures.items()}) == (
        1,
        {"cancelled": 1},
    )
    assert held_ns <= found.compute_infer.ns <= found.success.ns
    assert found.compute_infer.ns == found.batches[2].compute_infer.ns


async def test_waiting_and_running_are_told_apart(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = Runner(SyncOrders(), "it")
    await runner.start()
    client = LocalClient(runner)
    first = asyncio.create_task(collect(client, [place.order(1, gate="gate")]))
    async with place.held("gate"):
        second = asyncio.create_task(collect(client, [place.order(2)]))
        await asyncio.sleep(0)
        began = time.monotonic()
        await asyncio.sleep(0.02)
        held_ns = (time.monotonic() - began) * S
    await asyncio.gather(first, second)
    found = runner.statistics()
    assert found.compute_infer.ns >= held_ns  # the first
    assert found.queue.ns >= held_ns  # the second
    assert found.batches[1].compute_infer.ns == found.compute_infer.ns
    await runner.stop()


class Slow(BaseInferenceWorkflow[int, list[int], int]):
    """Takes a while for each chunk."""

    def do_stream(self, preprocessed_data: int) -> Any:
        for number in range(preprocessed_data):
            time.sleep(0.01)
            yield number


async def test_a_slow_readers_time_is_not_the_models() -> None:
    runner = Runner(Slow(), "it")
    await runner.start()
    began = time.monotonic()
    async for _ in runner.stream(Item(3, CallContext())):
        await asyncio.sleep(0.05)
    took_ns = (time.monotonic() - began) * S
    found = runner.statistics()
    assert 3 * 0.01 * S <= found.compute_infer.ns <= took_ns - 3 * 0.05 * S
    assert found.success.ns >= 3 * 0.06 * S
    assert (found.success.count, sizes(found)) == (1, {1: 1})
    await runner.stop()


async def test_refusals_are_failures_but_not_those_that_go_elsewhere(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["narrow-sync"])
    runner = Runner(SyncOrders(), "it", settings=DEPLOYMENTS["narrow-sync"].settings)
    client = LocalClient(runner)
    await collect(client, [place.order(1)])
    await runner.start()
    async with place.busy(client):
        full = asyncio.create_task(collect(client, [place.order(2), place.order(3)]))
        await asyncio.sleep(0)
    await full
    stream = client.stream(place.order(4, count=9))
    await anext(stream)
    with pytest.raises(Overloaded):
        await anext(client.stream(place.order(5, count=9)))
    async for _ in stream:
        pass
    await runner.unload(20.0)
    await collect(client, [place.order(6)])
    with pytest.raises(NotReady):
        await anext(client.stream(place.order(7, count=9)))
    await runner.stop()
    await collect(client, [place.order(8)])
    found = runner.statistics()
    assert {code: failure.count for code, failure in found.failures.items()} == {"loading": 1, "overload": 2}
    assert found.inference_count == 3
