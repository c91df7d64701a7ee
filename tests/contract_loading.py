"""The rules of `tests.contract` about workflows that are taken out of memory and back."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from deployments.client import Item, WorkflowClient
from deployments.standing import Standing
from tests.contract import PATIENCE_S, Place, all_of, collect, error_of, numbers, read, rule
from workflows import CallContext
from workflows.errors import DeadlineExceeded, Unloaded


@rule("sync", "async")
async def an_unloaded_workflow_refuses_until_it_is_loaded(client: WorkflowClient, place: Place) -> None:
    (gone,) = await client.unload(PATIENCE_S)
    assert (gone.state, gone.reason) == ("unloaded", "")
    assert await client.unload(PATIENCE_S) == [gone]
    _, stream_error = await read(client, place.order(1, count=3))
    for error in (error_of((await collect(client, [place.order(1)]))[0]), stream_error):
        assert isinstance(error, Unloaded)
        assert error.message.endswith(" is unloaded")
        assert (error.code, error.retry_after_s, error.may_have_run) == ("loading", None, False)
    assert (await client.card()).streams
    (back,) = await client.load(PATIENCE_S)
    assert back.loaded
    assert back.number > gone.number
    assert await client.load(PATIENCE_S) == [back]
    assert (await collect(client, [place.order(2)]))[0].output["value"] == 4
    assert place.ran == [2]


@rule("sync", "async")
async def unloading_finishes_what_was_taken_in(client: WorkflowClient, place: Place) -> None:
    running = asyncio.create_task(collect(client, [place.order(1, gate="gate"), place.order(2)]))
    async with place.held("gate"):
        unloading = await _begun_unloading(client)
    assert [outcome.output["value"] for outcome in await running] == [2, 4]
    assert [standing.state for standing in await unloading] == ["unloaded"]
    await client.load(PATIENCE_S)


@rule("sync", "async")
async def unloading_waits_for_open_streams(client: WorkflowClient, place: Place) -> None:
    async with aclosing(client.stream(place.order(1, count=9, gate="second", at=1))) as stream:
        begun = await anext(stream)
        unloading = await _begun_unloading(client)
        rest = asyncio.ensure_future(all_of(stream))
        await place.let_pass("second")
        assert numbers([begun, *await rest]) == list(range(9))
    assert [standing.state for standing in await unloading] == ["unloaded"]
    await client.load(PATIENCE_S)


async def _begun_unloading(client: WorkflowClient) -> asyncio.Task[list[Standing]]:
    """Returns once nothing new is taken in, and finds that what was taken in holds it up."""
    unloading = asyncio.create_task(client.unload(PATIENCE_S))
    while not isinstance(error_of((await collect(client, [Item({}, CallContext())]))[0]), Unloaded):
        await asyncio.sleep(0)
        assert not unloading.done()
    assert not unloading.done()
    return unloading


@rule("sync", "async")
async def who_is_too_busy_to_unload_stays_loaded(client: WorkflowClient, place: Place) -> None:
    async with place.busy(client):
        with pytest.raises(DeadlineExceeded, match="is still busy and stays loaded"):
            await client.unload(0.05)
        waiting = asyncio.create_task(collect(client, [place.order(1)]))
    assert (await waiting)[0].output["value"] == 2
    assert [standing.state for standing in await client.load(PATIENCE_S)] == ["loaded"]
