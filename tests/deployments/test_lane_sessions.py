"""What belongs together, to a session or to a model, goes to one replica, while that has room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from deployments.client import Item
from deployments.lanes.chooser import MEMORY_WORTH, LaneChooser
from deployments.standing import Standing
from tests.contract import collect, read
from tests.deployments.lane_ends import chooser_of, replicas
from workflows import AsyncInferenceWorkflow, CallContext
from workflows.errors import InvalidInput

PATIENCE_S = 20.0


class Named(AsyncInferenceWorkflow[str, str, str]):
    """Answers with its own name, and "wait" only when the gate opens."""

    concurrency = 1000

    def __init__(self, name: str, gate: asyncio.Event | None = None) -> None:
        self.name = name
        self.gate = gate or asyncio.Event()
        self.waiting = 0

    async def do_run_model(self, preprocessed_data: str) -> str:
        if preprocessed_data == "fail":
            raise InvalidInput("no such model")
        if preprocessed_data == "wait":
            self.waiting += 1
            await self.gate.wait()
        return self.name

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        yield self.name


def asked(session: str | None, what: str = "") -> Item:
    return Item(what, CallContext("request"), affinity=session)


async def answered(chooser: LaneChooser, session: str | None) -> str:
    (outcome,) = await collect(chooser, [asked(session)])
    assert outcome.error is None
    return str(outcome.output)


async def owners(chooser: LaneChooser, sessions: int = 60) -> dict[str, str]:
    return {f"s{number}": await answered(chooser, f"s{number}") for number in range(sessions)}


async def test_a_session_stays_where_it_is_and_others_are_spread() -> None:
    async with replicas(Named("a"), Named("b"), Named("c")) as found:
        chooser = await chooser_of(*found)
        first = await owners(chooser)
        assert await owners(chooser) == first
        groups, error = await read(chooser, asked("s7"))
        assert (groups, error) == ([[first["s7"]]], None)
        assert all(count > 8 for count in Counter(first.values()).values())
        assert len(set(first.values())) == 3
        await chooser.close()


async def test_only_the_sessions_of_a_replica_that_is_gone_move() -> None:
    async with replicas(Named("a"), Named("b"), Named("c")) as found:
        chooser, smaller = await chooser_of(*found), await chooser_of(*found[:2])
        before, after = await owners(chooser), await owners(smaller)
        assert all(after[session] == owner for session, owner in before.items() if owner != "c")
        assert {after[session] for session, owner in before.items() if owner == "c"} == {"a", "b"}
        await chooser.close()
        await smaller.close()


async def test_models_are_dealt_out_evenly_by_all_routers_alike_and_none_for_those_that_fail() -> None:
    models = [f"model local/a/m{number}" for number in range(6)]
    async with replicas(Named("a"), Named("b"), Named("c")) as found:
        choosers = [await chooser_of(*found), await chooser_of(*reversed(found))]
        for chooser, order in zip(choosers, (models, models[::-1]), strict=True):
            for number in range(50):
                (outcome,) = await collect(chooser, [asked(f"model local/a/nothing{number}", "fail")])
                assert outcome.error is not None
            for model in order:
                await answered(chooser, model)
        first, second = [{model: await answered(chooser, model) for model in models} for chooser in choosers]
        assert first == second
        assert Counter(first.values()) == {"a": 2, "b": 2, "c": 2}
        # Whichever is unloaded, the others share what is its part.
        for number, replica in enumerate(found):
            choosers[0].hear([Standing(replica.address.replica, 9, "unloaded")])
            without = Counter([await answered(choosers[0], model) for model in models])
            assert without == Counter({name: 3 for name in "abc" if name != "abc"[number]})
            choosers[0].hear([Standing(replica.address.replica, 10, "loaded")])
        for chooser in choosers:
            await chooser.close()


async def test_what_many_ask_for_spreads_to_a_second_replica_and_no_further() -> None:
    gate = asyncio.Event()
    workflows = [Named(name, gate) for name in "abc"]
    async with replicas(*workflows) as found:
        chooser = await chooser_of(*found)
        waiting = []
        for number in range(1, 2 * MEMORY_WORTH + 3):
            waiting.append(asyncio.create_task(collect(chooser, [asked("model m", "wait")])))
            async with asyncio.timeout(PATIENCE_S):
                while sum(workflow.waiting for workflow in workflows) < number:
                    await asyncio.sleep(0)
        assert sorted(workflow.waiting for workflow in workflows) == [0, MEMORY_WORTH + 1, MEMORY_WORTH + 1]
        gate.set()
        await asyncio.gather(*waiting)
        await chooser.close()


async def test_a_session_leaves_a_replica_that_is_much_busier_than_others() -> None:
    gate = asyncio.Event()
    workflows = Named("a", gate), Named("b", gate)
    async with replicas(*workflows) as found:
        chooser = await chooser_of(*found)
        owner = await answered(chooser, "it")
        busy = next(workflow for workflow in workflows if workflow.name == owner)
        waiting = []
        for number in range(MEMORY_WORTH):
            waiting.append(asyncio.create_task(collect(chooser, [asked("it", "wait")])))
            async with asyncio.timeout(PATIENCE_S):
                while busy.waiting <= number:
                    await asyncio.sleep(0)
        assert await answered(chooser, "it") == owner
        waiting.append(asyncio.create_task(collect(chooser, [asked("it", "wait")])))
        async with asyncio.timeout(PATIENCE_S):
            while busy.waiting <= MEMORY_WORTH:
                await asyncio.sleep(0)
        assert await answered(chooser, "it") != owner
        gate.set()
        await asyncio.gather(*waiting)
        await chooser.close()
