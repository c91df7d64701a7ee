"""Out of memory and back while the replica lives on: what fails, what waits, who asks twice, and what a stop does to it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from deployments.client import Item, Outcome
from deployments.local import LocalClient
from deployments.runner import Figures, Runner
from deployments.standing import Standing
from tests.contract import collect
from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, CallContext
from workflows.errors import DeadlineExceeded, NotReady, ReplicaLost, Unloaded, WorkflowError

PATIENCE_S = 20.0


class Script:
    """What a workflow's hooks do, and what was called."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.reached = threading.Event()

    def gate(self, hook: str) -> threading.Event:
        self.reached.clear()
        return self.gates.setdefault(hook, threading.Event())

    def enter(self, hook: str) -> None:
        self.called.append(hook)
        gate = self.gates.get(hook)
        if gate is not None:
            self.reached.set()
            assert gate.wait(PATIENCE_S)
        if hook in self.fails:
            raise self.fails[hook]

    async def at_the_gate(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, PATIENCE_S)

    @property
    def changes(self) -> list[str]:
        return [hook for hook in self.called if hook != "run"]


class Scripted(BaseInferenceWorkflow[int, int]):
    """Does what the script says, on its thread."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def do_setup(self) -> None:
        self.script.enter("setup")

    def do_run_model(self, preprocessed_data: int) -> int:
        self.script.enter("run")
        return 2 * preprocessed_data

    def do_teardown(self) -> None:
        self.script.enter("teardown")


class ScriptedAsync(AsyncInferenceWorkflow[int, int]):
    """The same on the desk's own loop."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def do_setup(self) -> None:
        await asyncio.to_thread(self.script.enter, "setup")

    async def do_run_model(self, preprocessed_data: int) -> int:
        await asyncio.to_thread(self.script.enter, "run")
        return 2 * preprocessed_data

    async def do_teardown(self) -> None:
        await asyncio.to_thread(self.script.enter, "teardown")


KINDS = pytest.mark.parametrize("kind", [Scripted, ScriptedAsync])


async def started(kind: Callable[[Script], Any], **about: Any) -> tuple[Runner, Script]:
    script = Script()
    runner = Runner(kind(script), "it", replica="r1", **about)
    await runner.start()
    script.called.clear()
    return runner, script


async def ask(runner: Runner, value: int = 1) -> Outcome:
    (outcome,) = await collect(LocalClient(runner), [Item(value, CallContext(f"r{value}"))])
    return outcome


async def refused(change: Awaitable[Standing]) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        await change
    return caught.value


@KINDS
async def test_every_change_is_heard_of_at_once(kind: Any) -> None:
    runner, _ = await started(kind)
    heard: list[Standing] = []
    deaf = runner.listen(heard.append)
    assert runner.standing == Standing("r1", 1, "loaded")
    await runner.unload(PATIENCE_S)
    await runner.load(PATIENCE_S)
    assert [(said.number, said.state) for said in heard] == [
        (2, "unloading"),
        (3, "unloaded"),
        (4, "loading"),
        (5, "loaded"),
    ]
    assert heard[-1] is runner.standing
    deaf()
    await runner.unload(PATIENCE_S)
    assert len(heard) == 4
    await runner.stop()


@KINDS
async def test_a_setup_that_fails_leaves_it_unloaded_with_its_reason(kind: Any) -> None:
    runner, script = await started(kind)
    await runner.unload(PATIENCE_S)
    script.fails["setup"] = OSError("/secret/weights are gone")
    error = await refused(runner.load(PATIENCE_S))
    assert isinstance(error, Unloaded)
    reason = "setup failed with OSError; the replica's log says why"
    assert (error.message, error.retry_after_s) == (f"it is unloaded: {reason}", None)
    assert (runner.standing.state, runner.standing.reason) == ("unloaded", reason)
    told = (await ask(runner)).error
    assert (type(told), told and told.message) == (Unloaded, error.message)

    script.fails["setup"] = NotReady("the licence has run out")
    assert (await refused(runner.load(PATIENCE_S))).message == "it is unloaded: the licence has run out"

    script.fails.clear()
    await runner.load(PATIENCE_S)
    assert (await ask(runner)).output == 2
    assert script.changes == ["teardown", "setup", "setup", "setup"]
    await runner.stop()


@KINDS
async def test_a_teardown_that_fails_is_told_and_it_is_unloaded_all_the_same(kind: Any) -> None:
    runner, script = await started(kind)
    script.fails["teardown"] = RuntimeError("secret")
    error = await refused(runner.unload(PATIENCE_S))
    reason = "its teardown failed with RuntimeError; the replica's log says why"
    assert error.message == f"it is unloaded: {reason}"
    assert runner.standing.reason == reason
    script.fails.clear()
    assert (await runner.unload(PATIENCE_S)).state == "unloaded"
    await runner.load(PATIENCE_S)
    assert (await ask(runner)).output == 2
    await runner.stop()


@KINDS
async def test_who_asks_for_the_same_shares_the_change_and_its_end(kind: Any) -> None:
    runner, script = await started(kind)
    await asyncio.gather(*(runner.unload(PATIENCE_S) for _ in range(5)))
    script.fails["setup"] = OSError()
    errors = await asyncio.gather(*(refused(runner.load(PATIENCE_S)) for _ in range(5)))
    assert len({id(error) for error in errors}) == 5
    script.fails.clear()
    await asyncio.gather(*(runner.load(PATIENCE_S) for _ in range(5)))
    assert script.changes == ["teardown", "setup", "setup"]
    await runner.stop()


@KINDS
async def test_changes_happen_one_after_the_other(kind: Any) -> None:
    runner, script = await started(kind)
    gates = [script.gate("teardown"), script.gate("setup")]
    unloading = asyncio.create_task(runner.unload(PATIENCE_S))
    await script.at_the_gate()
    script.reached.clear()
    loading = asyncio.create_task(runner.load(PATIENCE_S))
    await asyncio.sleep(0)
    gates[0].set()
    await script.at_the_gate()
    again = asyncio.create_task(runner.unload(PATIENCE_S))
    await asyncio.sleep(0)
    assert (unloading.done(), loading.done(), again.done()) == (True, False, False)
    gates[1].set()
    await asyncio.gather(unloading, loading, again)
    assert script.changes == ["teardown", "setup", "teardown"]
    assert runner.standing.state == "unloaded"
    await runner.stop()


@KINDS
async def test_a_change_goes_on_when_its_caller_leaves(kind: Any) -> None:
    runner, script = await started(kind)
    gate = script.gate("teardown")
    leaving = asyncio.create_task(runner.unload(PATIENCE_S))
    await script.at_the_gate()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.set()
    assert (await runner.unload(PATIENCE_S)).state == "unloaded"
    assert script.changes == ["teardown"]
    await runner.stop()


@KINDS
async def test_a_setup_that_takes_longer_than_the_caller_waits_goes_on(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.loading.ROLLBACK_S", 0.0)
    runner, script = await started(kind)
    await runner.unload(PATIENCE_S)
    gate = script.gate("setup")
    error = await refused(runner.load(0.05))
    assert (type(error), error.message) == (DeadlineExceeded, "it is still being loaded")
    told = (await ask(runner)).error
    assert isinstance(told, Unloaded)
    assert (told.message, told.retry_after_s) == ("it is being loaded", 2.0)
    gate.set()
    await runner.load(PATIENCE_S)
    assert (await ask(runner)).output == 2
    assert script.changes == ["teardown", "setup"]
    await runner.stop()


@KINDS
async def test_it_is_healthy_and_wants_no_company_while_it_is_away(kind: Any) -> None:
    runner, script = await started(kind, stuck_after_s=1e-6)
    runner.expect("caller", 50.0)
    assert runner.figures().expected == 50.0
    await runner.unload(PATIENCE_S)
    runner.check_health()
    assert runner.figures() == Figures(0, 0, 0)
    gate = script.gate("setup")
    loading = asyncio.create_task(runner.load(PATIENCE_S))
    await script.at_the_gate()
    runner.check_health()
    assert runner.figures() == Figures(0, 0, 0)
    gate.set()
    await loading
    assert runner.figures().expected == 50.0
    await runner.stop()


async def test_a_setup_that_takes_longer_than_the_first_one_may_is_unhealthy() -> None:
    script = Script()
    runner = Runner(Scripted(script), "it")
    await runner.start(setup_timeout_s=0.5)
    await runner.unload(PATIENCE_S)
    runner._loading.setup_timeout_s = 1e-6
    gate = script.gate("setup")
    loading = asyncio.create_task(runner.load(PATIENCE_S))
    await script.at_the_gate()
    with pytest.raises(WorkflowError, match="has not returned"):
        runner.check_health()
    gate.set()
    await loading
    runner.check_health()
    await runner.stop()


async def test_an_async_setup_that_takes_too_long_is_given_up() -> None:
    script = Script()
    runner = Runner(ScriptedAsync(script), "it")
    await runner.start(setup_timeout_s=0.5)
    await runner.unload(PATIENCE_S)
    gate = script.gate("setup")
    error = await refused(runner.load(PATIENCE_S))
    assert error.message == "it is unloaded: setup took longer than 0.5 s"
    gate.set()
    await runner.load(PATIENCE_S)
    await runner.stop()


# ---- stopping --------------------------------------------------------------------------------------------------------------


@KINDS
async def test_stopping_an_unloaded_one_tears_nothing_down_twice(kind: Any) -> None:
    runner, script = await started(kind)
    await runner.unload(PATIENCE_S)
    await runner.stop()
    assert script.changes == ["teardown"]
    for change in (runner.load, runner.unload):
        assert isinstance(await refused(change(PATIENCE_S)), ReplicaLost)
    assert isinstance((await ask(runner)).error, ReplicaLost)


@KINDS
@pytest.mark.parametrize("change", ["load", "unload"])
async def test_a_stop_waits_for_the_change_that_runs(kind: Any, change: str) -> None:
    runner, script = await started(kind)
    if change == "load":
        await runner.unload(PATIENCE_S)
    script.called.clear()
    gate = script.gate("setup" if change == "load" else "teardown")
    changing = asyncio.create_task(getattr(runner, change)(PATIENCE_S))
    await script.at_the_gate()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    assert isinstance((await ask(runner)).error, ReplicaLost)
    assert not stopping.done()
    gate.set()
    await stopping
    if change == "load":
        assert isinstance(await refused(changing), ReplicaLost)
        assert script.changes == ["setup", "teardown"]
    else:
        assert (await changing).state == "unloaded"
        assert script.changes == ["teardown"]


@KINDS
async def test_a_stop_while_it_waits_to_unload_finishes_what_runs(kind: Any) -> None:
    runner, script = await started(kind)
    gate = script.gate("run")
    running = asyncio.create_task(ask(runner))
    await script.at_the_gate()
    unloading = asyncio.create_task(runner.unload(PATIENCE_S))
    while runner.standing.loaded:
        await asyncio.sleep(0)
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    gate.set()
    assert (await running).output == 2
    await stopping
    assert isinstance(await refused(unloading), ReplicaLost)
    assert script.changes == ["teardown"]


async def test_a_stop_that_gives_the_model_up_ends_the_unloading_too() -> None:
    runner, script = await started(Scripted, stuck_after_s=0.01)
    gate = script.gate("run")
    running = asyncio.create_task(ask(runner))
    await script.at_the_gate()
    unloading = asyncio.create_task(runner.unload(PATIENCE_S))
    while runner.standing.loaded:
        await asyncio.sleep(0)
    await runner.stop()
    assert isinstance((await running).error, ReplicaLost)
    assert isinstance(await refused(unloading), ReplicaLost)
    gate.set()


class Stuck(BaseInferenceWorkflow[int, int, int]):
    """Streams up to a gate."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def do_stream(self, preprocessed_data: int) -> Iterator[int]:
        yield preprocessed_data
        assert self.gate.wait(PATIENCE_S)


async def test_a_stop_that_gives_a_stream_up_ends_the_unloading_too() -> None:
    gate = threading.Event()
    runner = Runner(Stuck(gate), "it", stuck_after_s=0.01)
    await runner.start()
    groups = runner.stream(Item(1, CallContext("r")))
    assert await anext(groups) == [1]
    following = asyncio.ensure_future(anext(groups))
    unloading = asyncio.create_task(runner.unload(PATIENCE_S))
    while runner.standing.loaded:
        await asyncio.sleep(0)
    await runner.stop()
    async with asyncio.timeout(PATIENCE_S / 4):
        assert isinstance(await refused(unloading), ReplicaLost)
    with pytest.raises(ReplicaLost):
        await following
    gate.set()


@KINDS
async def test_a_setup_that_fails_while_the_replica_stops_says_that_it_stops(kind: Any) -> None:
    runner, script = await started(kind)
    await runner.unload(PATIENCE_S)
    gate = script.gate("setup")
    script.fails["setup"] = OSError("no disk")
    loading = asyncio.create_task(runner.load(PATIENCE_S))
    await script.at_the_gate()
    stopping = asyncio.create_task(runner.stop())
    await asyncio.sleep(0)
    gate.set()
    assert isinstance(await refused(loading), ReplicaLost)
    await stopping


async def test_what_was_never_set_up_is_not_loaded() -> None:
    script = Script()
    script.fails["setup"] = OSError()
    runner = Runner(Scripted(script), "it")
    with pytest.raises(OSError):  # noqa: PT011 - any will do
        await runner.start()
    for change in (runner.load, runner.unload):
        error = await refused(change(PATIENCE_S))
        assert (type(error), error.message) == (NotReady, "not ready")
    await runner.stop()


# ---- memory ----------------------------------------------------------------------------------------------------------------


class Weights:
    """A model that refers to itself, as those of some libraries do."""

    def __init__(self) -> None:
        self.itself = self


class Heavy(BaseInferenceWorkflow[int, int]):
    """Holds weights."""

    weights: Weights | None = None

    def do_setup(self) -> None:
        self.weights = Weights()

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    def do_teardown(self) -> None:
        self.weights = None


class HeavyAsync(AsyncInferenceWorkflow[int, int]):
    """The same."""

    weights: Weights | None = None

    async def do_setup(self) -> None:
        self.weights = Weights()

    async def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data

    async def do_teardown(self) -> None:
        self.weights = None


@pytest.mark.parametrize("kind", [Heavy, HeavyAsync])
async def test_what_was_loaded_is_freed(kind: Any) -> None:
    workflow = kind()
    runner = Runner(workflow, "it")
    await runner.start()
    assert (await ask(runner)).output == 1
    weights = weakref.ref(workflow.weights)
    gc.collect()
    gc.freeze()  # as Serve does after a replica's start
    gc.disable()
    try:
        await runner.unload(PATIENCE_S)
        assert weights() is None
        assert gc.get_freeze_count() > 0
        await runner.load(PATIENCE_S)
        assert (await ask(runner)).output == 1
        await runner.stop()
    finally:
        gc.unfreeze()
        gc.enable()
