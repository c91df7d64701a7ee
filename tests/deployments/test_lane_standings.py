"""Replicas that are unloaded say so on their lanes, and are passed over while another one is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.client import WorkflowClient
from deployments.lanes.chooser import LaneChooser
from deployments.local import LocalClient
from deployments.standing import LoadState
from tests.contract import Deployment, Place, collect, error_of, read
from tests.deployments.lane_ends import chooser_of, replicas
from tests.orders import SyncOrders
from workflows.errors import NotReady, Unloaded

PATIENCE_S = 20.0


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0)


def names(chooser: LaneChooser) -> list[tuple[str, LoadState]]:
    return [(standing.replica, standing.state) for standing in chooser.unloaded]


async def shares(client: WorkflowClient, place: Place, *values: int) -> None:
    for value in values:
        (outcome,) = await collect(client, [place.order(value)])
        assert outcome.error is None
    _, error = await read(client, place.order(99, count=1))
    assert error is None


async def test_it_is_heard_at_once_and_by_who_comes_later() -> None:
    changes: list[int] = []
    async with replicas(SyncOrders()) as (replica,):
        chooser = LaneChooser(LocalClient(replica.runner), lambda: changes.append(len(chooser.unloaded)))
        chooser.count(1)
        await chooser.adopt([replica.address])
        await replica.runner.unload(PATIENCE_S)
        await until(lambda: names(chooser) == [("replica-0", "unloaded")])
        late = await chooser_of(replica)
        await until(lambda: names(late) == [("replica-0", "unloaded")])
        await replica.runner.load(PATIENCE_S)
        await until(lambda: not chooser.unloaded and not late.unloaded)
        assert changes == [1, 1, 1, 0]


async def test_a_lane_to_a_loaded_replica_is_preferred_however_busy(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders(), SyncOrders()) as (away, here):
        chooser = await chooser_of(away, here)
        await away.runner.unload(PATIENCE_S)
        await until(lambda: names(chooser) == [("replica-0", "unloaded")])
        held = asyncio.create_task(collect(chooser, [place.order(1, gate="gate")]))
        async with place.held("gate"):
            waiting = [asyncio.create_task(collect(chooser, [place.order(value)])) for value in range(2, 6)]
            await until(lambda: here.runner.figures().waiting == 4)
        assert (await held)[0].output["value"] == 2
        for task in waiting:
            assert (await task)[0].error is None
        await here.runner.unload(PATIENCE_S)
        await until(lambda: len(chooser.unloaded) == 2)
        assert isinstance(error_of((await collect(chooser, [place.order(7)]))[0]), Unloaded)


async def test_the_handle_is_taken_where_only_replicas_without_a_lane_are_loaded(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders(), SyncOrders()) as (near, far):
        chooser = await chooser_of(near, handle=far, count=2)
        await near.runner.unload(PATIENCE_S)
        await until(lambda: names(chooser) == [("replica-0", "unloaded")])
        await shares(chooser, place, 1, 2, 3)

        await near.runner.load(PATIENCE_S)
        await far.runner.unload(PATIENCE_S)
        chooser.hear([far.runner.standing], of_all=True)
        await until(lambda: names(chooser) == [("replica-1", "unloaded")])
        held = asyncio.create_task(collect(chooser, [place.order(4, gate="gate")]))
        async with place.held("gate"):  # near is the busier one
            waiting = asyncio.create_task(collect(chooser, [place.order(5)]))
            await until(lambda: near.runner.figures().waiting == 1)
        await asyncio.gather(held, waiting)


async def test_older_words_never_win_whichever_way_they_come(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders()) as (replica,):
        chooser = await chooser_of(replica)
        for _ in range(5):
            (gone,) = await chooser.unload(PATIENCE_S)
            assert names(chooser) == [("replica-0", "unloaded")]
            assert isinstance(error_of((await collect(chooser, [place.order(1)]))[0]), Unloaded)
            await chooser.load(PATIENCE_S)
            assert chooser.unloaded == []  # before the lane has said anything
            chooser.hear([gone], of_all=True)
            assert chooser.unloaded == []
            await shares(chooser, place, 2)
        assert chooser.unloaded == []


async def test_a_replica_that_is_gone_is_forgotten() -> None:
    async with replicas(SyncOrders(), SyncOrders()) as (near, far):
        chooser = await chooser_of(near, handle=far, count=2)
        for replica in (near, far):
            await replica.runner.unload(PATIENCE_S)
        chooser.hear([far.runner.standing])
        await until(lambda: len(chooser.unloaded) == 2)
        chooser.hear([], of_all=True)
        assert names(chooser) == [("replica-0", "unloaded")]
        near.die()
        await until(lambda: chooser.lanes == 0)
        assert chooser.unloaded == []


async def test_what_fails_is_raised_and_its_reason_is_heard() -> None:
    class Fails(SyncOrders):
        setups = 0

        def do_setup(self) -> None:
            self.setups += 1
            if self.setups > 1:
                raise OSError("secret")

    async with replicas(Fails()) as (replica,):
        chooser = await chooser_of(replica)
        await chooser.unload(PATIENCE_S)
        with pytest.raises(NotReady, match="setup failed with OSError"):
            await chooser.load(PATIENCE_S)
        await until(lambda: [standing.reason[:12] for standing in chooser.unloaded] == ["setup failed"])
