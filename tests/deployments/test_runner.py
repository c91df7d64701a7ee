"""The desk over its whole life: start, health, settings, stop; and what must hold however a workflow behaves."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.client import Item, Outcome
from deployments.config import WorkflowSettings
from deployments.local import LocalClient
from deployments.router.dispatch import Dispatcher
from deployments.runner import MAX_CALLERS, Figures, Runner
from tests.contract import DEPLOYMENTS, Place, collect
from tests.orders import AsyncOrders, SyncOrders
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, CallContext, Tensors, TensorsResult
from workflows.errors import InvalidInput, NotReady, ReplicaLost, WorkflowError

MakeRunner = Callable[..., Any]


@pytest.fixture
async def started() -> AsyncGenerator[MakeRunner]:
    """Starts runners, and stops them at the end."""
    runners: list[Runner] = []

    async def start(workflow: BaseInferenceWorkflow[Any, Any, Any], **about: Any) -> Runner:
        runner = Runner(workflow, "it", **about)
        runners.append(runner)
        await runner.start()
        return runner

    yield start
    for runner in runners:
        await runner.stop()


async def outcomes_of(runner: Runner, *inputs: Any) -> list[Outcome]:
    return await collect(LocalClient(runner), [Item(value, CallContext(f"r{value}")) for value in inputs])


# ---- 64 at once, one of them poisoned --------------------------------------------------------------------------------------


class Rows(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Merges rows of several requests into one array, adds each row up, and finds the wrong shape only in there."""

    batching = Batching(max_size=16, max_cost=40)
    retry_safe = True

    def __init__(self) -> None:
        self.rows_run: list[int] = []

    def cost(self, input_data: Tensors) -> float:
        return float(len(input_data.inputs["x"]))

    def do_run_batch(self, batch: list[Tensors]) -> list[TensorsResult]:
        merged = np.concatenate([item.inputs["x"] for item in batch])  # raises where the poisoned one has company
        self.rows_run.append(len(merged))
        ends = np.cumsum([len(item.inputs["x"]) for item in batch])
        parts = np.split(merged @ np.ones(4, np.float32), ends[:-1])  # raises where it has none
        return [TensorsResult(outputs={"sum": part}) for part in parts]


@pytest.mark.parametrize("seed", range(3))
async def test_64_concurrent_requests_with_one_poisoned(started: MakeRunner, seed: int) -> None:
    workflow = Rows()
    dispatcher = Dispatcher(LocalClient(await started(workflow)))
    shuffled = random.Random(seed)
    poisoned = shuffled.randrange(64)
    arrays = [
        np.full((shuffled.randint(1, 12), 5 if number == poisoned else 4), number, dtype=np.float32)
        for number in range(64)
    ]
    answers = await asyncio.gather(
        *(dispatcher.inference({"inputs": {"x": array}}, CallContext(f"r{i}")) for i, array in enumerate(arrays)),
        return_exceptions=True,
    )
    for number, (array, answer) in enumerate(zip(arrays, answers, strict=True)):
        if number == poisoned:
            assert isinstance(answer, WorkflowError)
            assert answer.code == "internal"
        else:
            assert isinstance(answer, dict)
            np.testing.assert_array_equal(answer["outputs"]["sum"], np.full(len(array), 4.0 * number))
    assert max(workflow.rows_run) <= 40
    assert len(workflow.rows_run) < 64
    assert (dispatcher.load, dispatcher.waiting) == (0, 0)


# ---- start and stop --------------------------------------------------------------------------------------------------------


class Unready(BaseInferenceWorkflow[int, int]):
    """Its setup waits, or fails."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.released = threading.Event()

    def do_setup(self) -> None:
        if self.gate is None:
            raise OSError("no weights here")
        self.gate.wait(10)

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    def do_teardown(self) -> None:
        self.released.set()


async def test_a_setup_that_fails_raises_its_own_error_and_can_be_stopped() -> None:
    runner = Runner(Unready(), "it")
    with pytest.raises(OSError, match="no weights here"):
        await runner.start()
    with pytest.raises(NotReady):
        _ = runner.card
    (outcome,) = await outcomes_of(runner, 1)
    assert isinstance(outcome.error, NotReady)
    async with asyncio.timeout(10):
        await runner.stop()


async def test_a_setup_that_takes_too_long_is_not_ready() -> None:
    gate = threading.Event()
    workflow = Unready(gate)
    runner = Runner(workflow, "it", stuck_after_s=1e-6)
    with pytest.raises(NotReady, match=r"longer than 0\.01 s"):
        await runner.start(setup_timeout_s=0.01)
    async with asyncio.timeout(10):
        await runner.stop()  # does not wait for it
    assert not workflow.released.is_set()
    gate.set()
    assert await asyncio.to_thread(workflow.released.wait, 10)  # what it loaded after all does not stay
    assert not workflow.is_setup


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_stop_finishes_what_runs_and_refuses_what_comes(kind: str, tmp_path: Path) -> None:
    deployment = DEPLOYMENTS[kind]
    place = Place(tmp_path, deployment)
    runner = Runner(deployment.workflow(), "it")
    await runner.start()
    client = LocalClient(runner)
    running = asyncio.create_task(collect(client, [place.order(1, gate="gate")]))
    stream = client.stream(place.order(2, count=3))
    await anext(stream)
    async with place.held("gate"):
        stopping = asyncio.create_task(runner.stop())
        await asyncio.sleep(0)
        (refused,) = await collect(client, [place.order(3)])
        assert isinstance(refused.error, ReplicaLost)
        assert not refused.error.may_have_run
        with pytest.raises(ReplicaLost):
            await anext(client.stream(place.order(4, count=1)))
        assert not stopping.done()
    rest = [group async for group in stream]
    assert [chunk["number"] for group in rest for chunk in group] == [1, 2]
    assert (await running)[0].output["value"] == 2
    await stopping
    async with asyncio.timeout(10):
        await runner.stop()  # once more
    assert not {3, 4} & set(place.ran)


class TearsDown(BaseInferenceWorkflow[int, int]):
    """Counts its teardowns."""

    torn_down = 0

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    def do_teardown(self) -> None:
        self.torn_down += 1
        raise RuntimeError("cannot let go")


async def test_a_teardown_that_fails_is_raised_and_still_ends_the_thread() -> None:
    workflow = TearsDown()
    runner = Runner(workflow, "it")
    await runner.start()
    with pytest.raises(RuntimeError, match="cannot let go"):
        await runner.stop()
    async with asyncio.timeout(10):
        await runner.stop()
    assert workflow.torn_down == 1


# ---- hooks that misbehave --------------------------------------------------------------------------------------------------


class Rude(BaseInferenceWorkflow[str, str]):
    """Leaves in the ways that are not for a model to leave."""

    def do_run_model(self, preprocessed_data: str) -> str:
        leave(preprocessed_data)
        return preprocessed_data

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        leave(preprocessed_data)
        yield preprocessed_data


class RudeAsync(AsyncInferenceWorkflow[str, str]):
    """The same on the desk's own loop."""

    async def do_run_model(self, preprocessed_data: str) -> str:
        leave(preprocessed_data)
        return preprocessed_data


def leave(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "timeout":
        raise TimeoutError("the disk is slow")


@pytest.mark.parametrize("how", ["exit", "cancelled", "timeout"])
async def test_a_rude_hook_costs_its_own_item(started: MakeRunner, how: str) -> None:
    runner = await started(Rude())
    (rude,) = await outcomes_of(runner, how)
    (polite,) = await outcomes_of(runner, "polite")
    assert (rude.error and rude.error.code, polite.output) == ("internal", "polite")
    with pytest.raises(WorkflowError, match="internal error"):
        await anext(runner.stream(Item(how, CallContext())))
    runner.check_health()


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_a_rude_async_hook_costs_its_own_item(started: MakeRunner, how: str) -> None:
    runner = await started(RudeAsync())
    item = Item(how, CallContext(deadline=None))
    rude, polite = await collect(LocalClient(runner), [item, Item("polite", CallContext())])
    assert (rude.error and rude.error.code, polite.output) == ("internal", "polite")


class Odd(BaseInferenceWorkflow[int, int]):
    """Says nonsense about its inputs."""

    batching = Batching(max_size=4, max_cost=8)

    def cost(self, input_data: int) -> float:
        if input_data == 1:
            return None  # type: ignore[return-value]
        if input_data == 2:
            raise KeyError("secret")
        return 1.0

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data


async def test_nonsense_about_an_input_refuses_it_and_nothing_else(started: MakeRunner) -> None:
    outcomes = await outcomes_of(await started(Odd()), 0, 1, 2, 3)
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [None, "internal", "internal", None]


class Gives(BaseInferenceWorkflow[int, Any]):
    """Gives 2 as something that cannot cross."""

    batching = Batching(max_size=8)

    def do_run_model(self, preprocessed_data: int) -> Any:
        return object() if preprocessed_data == 2 else {preprocessed_data}


async def test_an_answer_that_cannot_cross_costs_no_neighbour(started: MakeRunner) -> None:
    outcomes = await outcomes_of(await started(Gives()), 1, 2, 3)
    assert [outcome.output for outcome in outcomes] == [[1], None, [3]]
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [None, "bad_output", None]


# ---- leaving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_leaving_at_once_is_an_outcome_too(kind: str, tmp_path: Path) -> None:
    """Dropped in the very turn of the loop in which it was taken in, before anything could begin."""
    place = Place(tmp_path, DEPLOYMENTS[kind])
    runner = Runner(place.deployment.workflow(), "it")
    await runner.start()
    coming = asyncio.create_task(collect(LocalClient(runner), [place.order(1)]))
    await asyncio.sleep(0)
    runner.cancel(["request-1"])
    (outcome,) = await coming
    assert outcome.error is not None
    assert outcome.error.code == "cancelled"
    assert place.ran == []
    await runner.stop()


async def test_requests_that_share_an_id_do_not_forget_each_other(started: MakeRunner, tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = await started(SyncOrders())
    client = LocalClient(runner)
    async with place.busy(client):
        short = client.submit([Item({}, CallContext("same")), place.order(1, request_id="same")])
        long = client.submit([Item({}, CallContext("same")), place.order(2, request_id="same")])
        await anext(short)
        await anext(long)
        await short.aclose()
        runner.cancel(["same"])
        ((index, outcome),) = await anext(long)
        assert (index, outcome.error and outcome.error.code) == (1, "cancelled")
        await long.aclose()


async def test_an_answered_call_is_not_marked_as_left(started: MakeRunner, tmp_path: Path) -> None:
    for workflow in (SyncOrders(), AsyncOrders()):
        item = Place(tmp_path, DEPLOYMENTS["sync"]).order(1, count=2)
        runner = await started(workflow)
        await collect(LocalClient(runner), [item])
        async for _ in runner.stream(item):
            pass
        assert not item.call.cancelled


# ---- figures, settings, health ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_figures_count_what_is_under_way(kind: str, tmp_path: Path) -> None:
    deployment = DEPLOYMENTS[kind]
    place = Place(tmp_path, deployment)
    runner = Runner(deployment.workflow(), "it")
    await runner.start()
    client = LocalClient(runner)
    stream = client.stream(place.order(1, count=9))
    await anext(stream)
    async with place.busy(client):
        waiting = asyncio.create_task(collect(client, [place.order(2), place.order(3)]))
        await asyncio.sleep(0)
        assert runner.figures() == Figures(waiting=2, running=deployment.slots, streams=1)
    await waiting
    await stream.aclose()
    assert runner.figures() == Figures(0, 0, 0)
    await runner.stop()


def test_what_waits_at_callers_is_forgotten_bounded_and_never_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(SyncOrders(), "it")
    for caller in range(2 * MAX_CALLERS):
        runner.expect(f"{caller}", 1.0)
    assert runner.figures().expected == MAX_CALLERS
    runner.expect("0", math.inf)
    assert math.isfinite(runner.figures().expected)
    for nonsense in (math.nan, -math.inf, -1.0):
        runner.expect("0", nonsense)
        assert runner.figures().expected == MAX_CALLERS - 1
    monkeypatch.setattr("deployments.runner.EXPECTED_S", 0.0)
    runner.expect("0", 1.0)
    assert runner.figures().expected == MAX_CALLERS - 1


async def test_an_idle_async_workflow_takes_more_than_its_queue_holds(started: MakeRunner, tmp_path: Path) -> None:
    runner = await started(AsyncOrders(), settings=WorkflowSettings(max_queue=1))
    place = Place(tmp_path, DEPLOYMENTS["narrow-async"])
    outcomes = await collect(LocalClient(runner), [place.order(value) for value in range(4)])
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [None, None, None, "overload"]


async def test_settings_change_while_it_runs(started: MakeRunner, tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = await started(SyncOrders(), settings=WorkflowSettings(batching=Batching(max_size=1)))
    client = LocalClient(runner)
    outcomes = await collect(client, [place.order(value) for value in range(4)])
    assert {outcome.timing.batch_size for outcome in outcomes} == {1}
    runner.configure(WorkflowSettings(max_queue=1))
    async with place.busy(client):
        refused = client.submit([place.order(value) for value in range(2)])
        assert [(index, outcome.error and outcome.error.code) for index, outcome in await anext(refused)] == [
            (1, "overload")
        ]
        await refused.aclose()
    runner.configure(WorkflowSettings())
    outcomes = await collect(client, [place.order(value) for value in range(4)])
    assert {outcome.timing.batch_size for outcome in outcomes} == {4}


async def test_a_stuck_model_is_unhealthy(tmp_path: Path) -> None:
    place = Place(tmp_path, DEPLOYMENTS["sync"])
    runner = Runner(SyncOrders(), "it", stuck_after_s=1e-6)
    await runner.start()
    runner.check_health()
    async with place.busy(LocalClient(runner)):
        with pytest.raises(WorkflowError, match="has not returned"):
            runner.check_health()
    runner.check_health()
    await runner.stop()
    with pytest.raises(WorkflowError, match="died"):
        runner.check_health()


async def test_an_async_workflow_says_itself_that_its_model_is_stuck(started: MakeRunner) -> None:
    workflow = AsyncOrders()
    runner = await started(workflow, stuck_after_s=5.0)
    runner.check_health()
    workflow.busy_s = lambda: 5.1  # type: ignore[method-assign]
    with pytest.raises(WorkflowError, match="has not returned for more than 5 s"):
        runner.check_health()
    workflow.busy_s = lambda: 4.9  # type: ignore[method-assign]
    runner.check_health()


async def test_python_callers_get_types_and_errors(started: MakeRunner, tmp_path: Path) -> None:
    runner = await started(SyncOrders())
    order = Place(tmp_path, DEPLOYMENTS["sync"]).order(21, count=2).input_data
    assert (await runner.inference(order)).value == 42
    assert [piece.number async for piece in runner.chunks(order)] == [0, 1]
    with pytest.raises(InvalidInput):
        await runner.inference({"value": 1})
    with pytest.raises(InvalidInput):
        await anext(runner.chunks({"value": 1}))
