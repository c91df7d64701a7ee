"""An entry is loaded and unloaded by name, and says so from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from deployments.local import LocalClient
from deployments.router.directory import Entry, State
from deployments.router.dispatch import Dispatcher
from deployments.runner import Runner
from workflows import BaseInferenceWorkflow, CallContext, Card
from workflows.errors import Overloaded, Unloaded

PATIENCE_S = 20.0


class Changing(BaseInferenceWorkflow[int, int]):
    """Each setup loads what is newer; what is loaded fourth is broken."""

    version = 0

    def do_setup(self) -> None:
        self.version += 1
        if self.version == 4:
            raise OSError("broken")

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data * self.version

    def card(self, name: str, summary: str = "") -> Card:
        return super().card(name, f"version {self.version}")


@pytest.fixture
async def entry() -> AsyncIterator[Entry]:
    runner = Runner(Changing(), "it")
    await runner.start()
    yield Entry("it", Dispatcher(LocalClient(runner)), "ready", card=runner.card)
    await runner.stop()


async def ask(entry: Entry) -> int:
    answer: int = await entry.dispatcher.inference(7, CallContext("r"))
    return answer


async def test_out_and_in_again_with_a_new_card(entry: Entry) -> None:
    assert await ask(entry) == 7
    await entry.unload(PATIENCE_S)
    assert (entry.state, entry.reason) == ("unloaded", "")
    with pytest.raises(Unloaded, match="it is unloaded"):
        await ask(entry)
    await entry.load(PATIENCE_S)
    assert (entry.state, entry.card and entry.card.summary) == ("ready", "version 2")
    assert await ask(entry) == 14


async def test_what_fails_changes_nothing_that_is_said(entry: Entry) -> None:
    for _ in range(2):
        await entry.unload(PATIENCE_S)
        await entry.load(PATIENCE_S)
    await entry.unload(PATIENCE_S)
    with pytest.raises(Unloaded, match="setup failed with OSError"):
        await entry.load(PATIENCE_S)
    assert (entry.state, entry.card and entry.card.summary) == ("unloaded", "version 3")


@pytest.mark.parametrize("state", ["failed", "stopping"])
async def test_what_serve_says_is_not_talked_over(entry: Entry, state: State) -> None:
    entry.state = state
    await entry.unload(PATIENCE_S)
    assert entry.state == state
    await entry.load(PATIENCE_S)
    assert entry.state == state


async def test_what_is_counted_is_the_replicas_and_this_routers(entry: Entry) -> None:
    assert await ask(entry) == 7
    entry.dispatcher.max_queue = 0
    with pytest.raises(Overloaded):
        await ask(entry)
    for _ in range(2):  # to ask changes nothing
        found = await entry.statistics()
        assert (found.inference_count, found.execution_count) == (1, 1)
        assert {code: failure.count for code, failure in found.failures.items()} == {"overload": 1}
