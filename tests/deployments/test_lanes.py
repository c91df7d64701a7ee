"""Local lanes beyond the contract: what is lost, what is refused, who gets the next envelope, and how slow readers may be."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.client import Item
from deployments.lanes.address import LaneAddress
from deployments.lanes.chooser import LaneChooser
from deployments.lanes.client import Lane, LaneRefused
from deployments.lanes.frames import HEAD, WIRE_VERSION, Begun, Writer
from deployments.local import LocalClient
from deployments.private_sockets import private_folder
from deployments.runner import Figures, Runner
from tests.contract import Deployment, Place, collect, error_of
from tests.deployments.lane_ends import chooser_of, item, lane_to, replicas
from tests.orders import SyncOrders
from workflows import AsyncInferenceWorkflow, CallContext
from workflows.errors import BadOutput, InvalidInput, ReplicaLost


class OnceOnly(SyncOrders):
    """Orders that must not be run twice."""

    retry_safe = False


# ---- lost and stopping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workflow", "ran"), [(SyncOrders, [True, True]), (OnceOnly, [True, False])])
async def test_what_had_not_begun_is_known_where_it_matters(
    workflow: type[SyncOrders], ran: list[bool], tmp_path: Path
) -> None:
    place = Place(tmp_path, Deployment(workflow))
    async with replicas(workflow()) as (replica,):
        chooser = await chooser_of(replica)
        items = [place.order(1, gate="gate", bucket="a"), place.order(2, bucket="b")]
        asked = asyncio.create_task(collect(chooser, items))
        async with place.held("gate"):
            replica.die()
            outcomes = await asked
        errors = [error_of(outcome) for outcome in outcomes]
    assert all(isinstance(error, ReplicaLost) for error in errors)
    assert [error.may_have_run for error in errors] == ran
    assert chooser.lanes == 0
    assert chooser.losses == 1


async def test_a_lost_lane_ends_its_streams_and_drops_what_they_ran(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders()) as (replica,):
        chooser = await chooser_of(replica)
        stream = chooser.stream(place.order(1, count=1_000_000))
        await anext(stream)
        replica.die()
        with pytest.raises(ReplicaLost) as lost:
            async for _ in stream:
                pass
    assert lost.value.may_have_run


async def test_a_stopping_replica_finishes_what_it_has_and_gets_nothing_new(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders(), SyncOrders()) as (stopping, staying):
        chooser = await chooser_of(stopping, handle=staying)
        stream, late = chooser.stream(place.order(2, count=300)), chooser.stream(place.order(4, count=1))
        chunks = list(await anext(stream))
        running = asyncio.create_task(collect(chooser, [place.order(1, gate="gate")]))
        async with place.held("gate"):
            await stopping.server.send_away()
            assert chooser.lanes == 0
            (elsewhere,) = await collect(chooser, [place.order(3)])
            with pytest.raises(ReplicaLost):
                await anext(late)
            stop = asyncio.create_task(stopping.stop())
        chunks += [chunk async for group in stream for chunk in group]
        await stop
        (finished,) = await running
    assert elsewhere.output["value"] == 6
    assert finished.output["value"] == 2
    assert len(chunks) == 300


async def test_what_waits_in_a_stopping_replica_has_not_run(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders()) as (replica,):
        chooser = await chooser_of(replica)
        running = asyncio.create_task(collect(chooser, [place.order(1, gate="gate", bucket="a")]))
        async with place.held("gate"):
            waiting = asyncio.create_task(collect(chooser, [place.order(2, bucket="b")]))
            await chooser.card()
            stop = asyncio.create_task(replica.stop())
            await replica.server.send_away()
            for _ in range(10):  # turns of the loop until the batcher is closed as well
                await asyncio.sleep(0)
        (refused,) = await waiting
        await asyncio.gather(running, stop)
    error = error_of(refused)
    assert isinstance(error, ReplicaLost)
    assert not error.may_have_run
    assert place.ran == [1]


async def test_nothing_is_asked_of_a_lane_that_was_lost(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders()) as (replica,):
        lost: list[Lane] = []
        lane = await Lane.to(replica.address, lost.append)
        replica.die()
        while not lost:
            await asyncio.sleep(0)
        groups = [group async for group in lane.submit([place.order(1)])]
        with pytest.raises(ReplicaLost):
            await anext(lane.stream(place.order(2, count=1)))
    error = error_of(groups[0][0][1])
    assert isinstance(error, ReplicaLost)
    assert not error.may_have_run
    assert place.ran == []


# ---- who gets the next one -------------------------------------------------------------------------------------------------


async def test_the_least_busy_lane_gets_the_next_envelope(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders(), SyncOrders()) as (one, two):
        chooser = await chooser_of(one, two)
        held = asyncio.create_task(collect(chooser, [place.order(1, gate="gate"), place.order(2, bucket="b")]))
        async with place.held("gate"):
            for value in range(3, 9):
                await collect(chooser, [place.order(value)])
            assert [one.runner.figures(), two.runner.figures()] == [Figures(1, 1, 0), Figures(0, 0, 0)]
        await held
    assert place.ran[1:-1] == list(range(3, 9))


async def test_replicas_without_a_lane_get_their_share_by_the_handle(tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders(), SyncOrders()) as (near, far):
        chooser = await chooser_of(near, handle=far, count=2)
        held = [asyncio.create_task(collect(chooser, [place.order(1, gate="near")]))]
        async with place.held("near"):
            assert near.runner.figures() == Figures(0, 1, 0)
            held.append(asyncio.create_task(collect(chooser, [place.order(2, gate="far")])))
            async with place.held("far"):
                assert far.runner.figures() == Figures(0, 1, 0)
        await asyncio.gather(*held)


async def test_every_replica_counts_what_waits_for_it_once_whichever_way_it_heard(tmp_path: Path) -> None:
    async with replicas(SyncOrders(), SyncOrders()) as (near, far):
        near_and_far = await chooser_of(near, handle=far, count=2)
        only_near = await chooser_of(near, count=2)  # whose handle reaches the same replica again
        await near_and_far.tell_waiting("router", 3.0)
        await only_near.tell_waiting("router", 3.0)
        await only_near.tell_waiting("another", 2.5)
        await collect(only_near, [Item({}, CallContext("barrier"))])  # refused at once, after what was said before it
        assert [near.runner.figures().expected, far.runner.figures().expected] == [5.5, 3.0]
        await near_and_far.tell_waiting("router", 0)
        await only_near.tell_waiting("another", 0)
        await collect(near_and_far, [Item({}, CallContext("barrier"))])
        await collect(only_near, [Item({}, CallContext("barrier"))])


# ---- addresses -------------------------------------------------------------------------------------------------------------


async def test_who_is_not_the_replica_that_was_told_of_gets_nothing() -> None:
    async with replicas(SyncOrders()) as (replica,):
        true = replica.address
        other = LaneAddress(true.node, "somebody else", WIRE_VERSION, true.path)
        newer = LaneAddress(true.node, true.replica, WIRE_VERSION + 1, true.path)
        gone = LaneAddress(true.node, true.replica, WIRE_VERSION, f"{true.path}.gone")
        with pytest.raises(LaneRefused):
            await Lane.to(other, lambda lane: None)
        chooser = LaneChooser(LocalClient(replica.runner))
        await chooser.adopt([other, newer, gone])
        assert chooser.lanes == 0


async def test_who_hangs_up_without_a_word_is_left_to_the_handle(tmp_path: Path) -> None:
    path = str(tmp_path / "mute.sock")
    mute = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
    async with mute, replicas(SyncOrders()) as (replica,):
        chooser = LaneChooser(LocalClient(replica.runner))
        await chooser.adopt([LaneAddress("node", "replica", WIRE_VERSION, path)])
        assert chooser.lanes == 0


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_its_folder_is_private_and_leftovers_are_swept() -> None:
    folder = private_folder() / "lanes"
    async with replicas(SyncOrders()) as (first,):
        assert folder.stat().st_mode & 0o077 == 0
        own = Path(first.address.path).name
        with socket.socket(socket.AF_UNIX) as killed:
            leftover = folder / f"{os.getpid()}-leftover.sock"
            killed.bind(str(leftover))
        async with replicas(SyncOrders()):
            assert leftover.name not in names_in(folder)
            assert own in names_in(folder)
    assert own not in names_in(folder)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD.pack(0xFFFFFFFF, 0xFFFFFFFF),
        HEAD.pack(3, 0) + b"\x91\xc3\x00",
        b"".join(bytes(part) for part in Writer().write(Begun(1, [0]))),
    ],
)
async def test_noise_ends_its_own_connection_only(sent: bytes, tmp_path: Path) -> None:
    place = Place(tmp_path, Deployment(SyncOrders))
    async with replicas(SyncOrders()) as (replica,):
        chooser = await chooser_of(replica)
        reader, writer = await asyncio.open_unix_connection(replica.address.path)
        writer.write(sent)
        async with asyncio.timeout(10):
            while await reader.read(1024):  # its hello, and then the end
                pass
        writer.close()
        (outcome,) = await collect(chooser, [place.order(1)])
        assert outcome.output["value"] == 2
        assert chooser.lanes == 1


# ---- what is in them -------------------------------------------------------------------------------------------------------


class Echo(AsyncInferenceWorkflow[Any, Any, Any]):
    """Gives back what it is given; the word "huge" gives a number that no lane can say."""

    retry_safe = True

    async def do_run_model(self, preprocessed_data: Any) -> Any:
        return 1 << 80 if preprocessed_data == "huge" else preprocessed_data

    async def do_stream(self, preprocessed_data: Any) -> AsyncGenerator[Any]:
        yield 1
        yield await self.do_run_model(preprocessed_data)


async def test_arrays_of_any_size_come_whole() -> None:
    runner = Runner(Echo(), "echo")
    await runner.start()
    async with lane_to(runner) as lane:
        sizes = [1, 5000, 70_000, 3_000_000]
        sent = [np.arange(size, dtype=np.float32) for size in sizes]
        outcomes = await collect(lane, [item({"x": array}) for array in sent])
        for outcome, array in zip(outcomes, sent, strict=True):
            assert (outcome.output["x"] == array).all()
            assert outcome.output["x"].__array_interface__["data"][0] % 4 == 0


async def test_an_answer_that_cannot_be_said_costs_no_neighbour() -> None:
    runner = Runner(Echo(), "echo")
    await runner.start()
    async with lane_to(runner) as lane:
        outcomes = await collect(lane, [item(1), item("huge"), item(3)])
        assert [outcomes[0].output, outcomes[2].output] == [1, 3]
        assert isinstance(outcomes[1].error, BadOutput)
        stream = lane.stream(item("huge"))
        assert await anext(stream) == [1]
        with pytest.raises(BadOutput):
            await anext(stream)
        assert lane.lanes == 1


async def test_an_input_that_cannot_be_said_costs_no_neighbour() -> None:
    runner = Runner(Echo(), "echo")
    await runner.start()
    async with lane_to(runner) as lane:
        outcomes = await collect(lane, [item(1), item(1 << 80), item(3)])
        assert [outcomes[0].output, outcomes[2].output] == [1, 3]
        assert isinstance(outcomes[1].error, InvalidInput)
        with pytest.raises(InvalidInput):
            await anext(lane.stream(item(1 << 80)))
        assert lane.lanes == 1
