"""Items that wait for something of their own: they keep nobody from the model, and none of them is forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from deployments.batcher import Entrant
from deployments.client import Item, Outcome
from deployments.config import WorkflowSettings
from deployments.local import LocalClient
from deployments.runner import Runner
from tests.contract import collect
from workflows import BaseInferenceWorkflow, CallContext
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, ReplicaLost, WorkflowError
from workflows.prerequisite import Prerequisite


class Lending(BaseInferenceWorkflow[str, str]):
    """Says what it is asked, each text after what it has to wait for."""

    def __init__(self, at_most_s: float = 60.0) -> None:
        self.first: dict[str, Future[None]] = {}
        self.at_most_s = at_most_s
        self.ran: list[str] = []

    def prerequisite(self, input_data: str) -> Prerequisite | None:
        if input_data == "broken":
            raise KeyError(input_data)
        first = self.first.get(input_data)
        return None if first is None else Prerequisite(first, self.at_most_s)

    def do_run_model(self, preprocessed_data: str) -> str:
        self.ran.append(preprocessed_data)
        return preprocessed_data


class Held:
    """A runner of a `Lending`, and what was asked of it."""

    def __init__(self, workflow: Lending, runner: Runner) -> None:
        self.workflow = workflow
        self.runner = runner

    def ask(self, text: str, **call: Any) -> asyncio.Task[Outcome]:
        item = Item(text, CallContext(f"r-{text}", **call))

        async def one() -> Outcome:
            (outcome,) = await collect(LocalClient(self.runner), [item])
            return outcome

        return asyncio.create_task(one())

    async def ask_held(
        self, text: str, first: Future[None] | None = None, **call: Any
    ) -> tuple[asyncio.Task[Outcome], Future[None]]:
        """Asked for something that waits, and seen to wait."""
        first = self.workflow.first[text] = first or Future()
        waited = self.runner.figures().waiting
        task = self.ask(text, **call)
        while self.runner.figures().waiting == waited:
            await asyncio.sleep(0)
        return task, first


@pytest.fixture
async def held() -> Any:
    workflow = Lending()
    runner = Runner(workflow, "lending", settings=WorkflowSettings(max_queue=2))
    await runner.start()
    yield Held(workflow, runner)
    await runner.stop()


def error_of(outcome: Outcome) -> WorkflowError:
    assert outcome.error is not None
    return outcome.error


async def test_what_waits_holds_nobody_up_and_runs_when_it_can(held: Held) -> None:
    slow, first = await held.ask_held("slow")
    assert (await held.ask("quick")).output == "quick"
    threading.Thread(target=first.set_result, args=(None,)).start()  # as who loads models does
    assert (await slow).output == "slow"
    assert held.workflow.ran == ["quick", "slow"]
    assert held.runner.figures().waiting == 0


async def test_what_has_happened_already_holds_nothing_back(held: Held) -> None:
    held.workflow.first["done"] = Future()
    held.workflow.first["done"].set_result(None)
    assert (await held.ask("done")).output == "done"


async def test_a_failure_ends_the_wait_as_well(held: Held) -> None:
    task, first = await held.ask_held("failing")
    first.set_exception(OSError("whatever it was"))
    assert (await task).output == "failing"  # the workflow would say what went wrong


async def test_who_has_waited_long_enough_is_run_all_the_same(held: Held) -> None:
    held.workflow.at_most_s = 0.001
    task, _ = await held.ask_held("late")
    assert (await task).output == "late"


async def test_a_deadline_ends_the_wait(held: Held) -> None:
    task, _ = await held.ask_held("due", deadline=time.monotonic() + 0.01)
    assert type(error_of(await task)) is DeadlineExceeded
    assert held.workflow.ran == []


async def test_who_leaves_is_not_run(held: Held) -> None:
    task, first = await held.ask_held("gone")
    held.runner.cancel(["r-gone"])
    assert type(error_of(await task)) is Cancelled
    first.set_result(None)
    assert (await held.ask("next")).output == "next"
    assert held.workflow.ran == ["next"]
    assert held.runner.figures().waiting == 0


async def test_only_so_many_wait(held: Held) -> None:
    waiting = [await held.ask_held(text) for text in ("a", "b")]
    held.workflow.first["c"] = Future()
    assert type(error_of(await held.ask("c"))) is Overloaded
    assert (await held.ask("d")).output == "d"
    for task, first in waiting:
        first.set_result(None)
        assert (await task).error is None


async def test_who_leaves_leaves_nothing_behind(held: Held) -> None:
    first: Future[None] = Future()
    for _ in range(20):
        task, _ = await held.ask_held("large", first)
        held.runner.cancel(["r-large"])
        await task
        assert held.runner.figures().waiting == 0
    del task
    gc.collect()
    assert [thing for thing in gc.get_objects() if isinstance(thing, Entrant)] == []
    first.set_result(None)


async def test_the_wait_counts_as_time_in_the_queue(held: Held) -> None:
    task, first = await held.ask_held("slow")
    since = time.monotonic()
    while (waited := time.monotonic() - since) < 0.05:
        await asyncio.sleep(0)
    first.set_result(None)
    assert (await task).timing.queue_s >= waited
    statistics = held.runner.statistics()
    assert statistics.queue.ns >= waited * 1e9
    assert statistics.compute_input.ns < waited * 1e9


async def test_a_hook_that_fails_fails_its_item(held: Held) -> None:
    assert type(error_of(await held.ask("broken"))) is WorkflowError
    assert (await held.ask("whole")).output == "whole"


async def test_unloading_waits_for_nothing_but_the_model(held: Held) -> None:
    task, _ = await held.ask_held("held")
    await held.runner.unload(10.0)
    assert (await task).output == "held"
    await held.runner.load(10.0)
    again, first = await held.ask_held("again")
    first.set_result(None)
    assert (await again).output == "again"


async def test_stopping_sends_it_elsewhere(held: Held) -> None:
    task, first = await held.ask_held("held")
    await held.runner.stop()
    error = error_of(await task)
    assert type(error) is ReplicaLost
    assert not error.may_have_run
    first.set_result(None)
    assert held.workflow.ran == []
