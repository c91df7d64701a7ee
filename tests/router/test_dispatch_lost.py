"""The dispatcher when a replica is lost, and its streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.router.dispatch import CALLS_PER_REPLICA, REFUSALS
from tests.router.played_client import (
    Desk,
    card,
    error_of,
    nothing_left_behind,  # noqa: F401 - a fixture of this module
    turn,
)
from workflows.context import CallContext
from workflows.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    ReplicaLost,
    Unloaded,
    WorkflowError,
)

# ---- lost ------------------------------------------------------------------------------------------------------------------


async def test_a_lost_replica_is_an_error_where_running_twice_does_harm() -> None:
    desk = Desk(retry_safe=False)
    done, lost = desk.ask("done"), desk.ask("lost")
    await turn()
    desk.client.sent[0].answer(0)
    desk.client.sent[0].fail(ReplicaLost(may_have_run=True))
    assert await done == "done"
    error = await error_of(lost)
    assert isinstance(error, ReplicaLost)
    assert error.may_have_run
    assert len(desk.client.sent) == 1


async def test_what_was_lost_is_tried_once_more_and_before_all_others() -> None:
    desk = Desk(retry_safe=True)
    lost = [desk.ask(number) for number in range(4)]
    await turn()
    others = []
    for number in range(CALLS_PER_REPLICA - 1):
        others.append(desk.ask(f"other-{number}"))
        await turn()
    later = desk.ask("later")
    await turn()
    desk.client.sent[0].answer(1)
    desk.client.sent[0].fail(ReplicaLost(may_have_run=True))
    await turn()
    assert desk.client.envelopes[-1] == [0, 2, 3, "later"]
    for sent in desk.client.sent[1:]:
        sent.finish()
    assert await asyncio.gather(*lost, later) == [0, 1, 2, 3, "later"]
    await asyncio.gather(*others)
    await turn()
    assert desk.dispatcher.load == 0


async def test_what_is_lost_twice_is_an_error() -> None:
    desk = Desk(retry_safe=True)
    caller = desk.ask(0)
    await turn()
    desk.client.sent[0].fail(ReplicaLost(may_have_run=True))
    await turn()
    desk.client.sent[1].fail(ReplicaLost(may_have_run=True))
    assert isinstance(await error_of(caller), ReplicaLost)
    assert len(desk.client.sent) == 2


async def test_who_has_left_is_not_tried_again() -> None:
    desk = Desk(retry_safe=True)
    gone, stays = desk.ask("gone"), desk.ask("stays")
    await turn()
    gone.cancel()
    await turn()
    desk.client.sent[0].fail(ReplicaLost(may_have_run=True))
    await turn()
    assert desk.client.envelopes[-1] == ["stays"]
    desk.client.sent[1].finish()
    await stays


async def test_a_deadline_while_waiting_for_the_second_try_may_have_run() -> None:
    desk = Desk()
    desk.dispatcher.configure(card(retry_safe=True), replicas=2)
    late = desk.ask("late", within_s=0.03)
    await turn()
    others = []
    for number in range(CALLS_PER_REPLICA):
        others.append(desk.ask(number))
        await turn()
    desk.dispatcher.configure(card(retry_safe=True), replicas=1)  # one replica is lost, and the other one has no room
    desk.client.sent[0].fail(ReplicaLost(may_have_run=True))
    error = await error_of(late)
    assert isinstance(error, DeadlineExceeded)
    assert error.may_have_run
    for sent in desk.client.sent[1:]:
        sent.finish()
    assert list(await asyncio.gather(*others)) == list(range(CALLS_PER_REPLICA))
    assert len(desk.client.sent) == 1 + CALLS_PER_REPLICA


async def test_a_call_that_ends_without_all_outcomes_is_a_loss() -> None:
    desk = Desk(retry_safe=False)
    callers = [desk.ask(0), desk.ask(1)]
    await turn()
    desk.client.sent[0].answer(0)
    desk.client.sent[0].end()
    assert await callers[0] == 0
    assert isinstance(await error_of(callers[1]), ReplicaLost)


# ---- unloaded --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "unloaded", "tries"), [(1, 0, 1), (2, 0, REFUSALS), (2, 1, REFUSALS), (2, 2, 1), (1, 1, 1)]
)
async def test_an_unloaded_replicas_refusal_goes_elsewhere_while_another_one_may_be_loaded(
    replicas: int, unloaded: int, tries: int
) -> None:
    desk = Desk(retry_safe=False)
    desk.dispatcher.configure(card(), replicas, unloaded)
    caller = desk.ask(1)
    for attempt in range(tries):
        await turn()
        desk.client.sent[attempt].refuse(0, Unloaded("it is unloaded"))
        desk.client.sent[attempt].end()
    error = await error_of(caller)
    assert (type(error), error.message, error.retry_after_s) == (Unloaded, "it is unloaded", None)
    await turn()
    assert len(desk.client.sent) == tries
    assert (desk.dispatcher.load, desk.timings) == (0, [])


async def test_who_was_refused_by_an_unloaded_replica_is_answered_by_another_one() -> None:
    desk = Desk(retry_safe=False)
    desk.dispatcher.configure(card(), 2, 1)
    refused, other = desk.ask("refused"), desk.ask("other")
    await turn()
    desk.client.sent[0].refuse(0, Unloaded())
    desk.client.sent[0].answer(1)
    desk.client.sent[0].end()
    assert await other == "other"
    await turn()
    desk.client.sent[1].finish()
    assert await refused == "refused"


@pytest.mark.parametrize(("replicas", "unloaded", "tries"), [(1, 0, 1), (2, 1, 2), (2, 2, 1)])
async def test_a_stream_goes_where_the_workflow_is_loaded(replicas: int, unloaded: int, tries: int) -> None:
    desk = Desk(retry_safe=False)
    desk.dispatcher.configure(card(), replicas, unloaded)
    first = asyncio.ensure_future(anext(open_stream(desk)))
    await turn()
    desk.client.streams[0].fail(Unloaded())
    await turn()
    assert len(desk.client.streams) == tries
    if tries == 1:
        assert isinstance(await error_of(first), Unloaded)
        return
    desk.client.streams[1].give("here")
    assert await first == ["here"]


# ---- streams ---------------------------------------------------------------------------------------------------------------


def open_stream(desk: Desk, value: Any = "s", *, within_s: float | None = None) -> AsyncGenerator[list[Any]]:
    deadline = None if within_s is None else time.monotonic() + within_s
    return desk.dispatcher.stream(value, CallContext(f"r{value}", deadline))


async def test_a_stream_passes_its_groups_on_as_they_come() -> None:
    desk = Desk()
    stream = open_stream(desk)
    first = asyncio.ensure_future(anext(stream))
    await turn()
    (sent,) = desk.client.streams
    sent.give(1, 2)
    assert await first == [1, 2]
    assert desk.dispatcher.load == 1
    sent.give(3)
    sent.end()
    assert [group async for group in stream] == [[3]]
    assert sent.closed
    assert desk.dispatcher.load == 0


async def test_closing_a_stream_closes_it_all_the_way() -> None:
    desk = Desk()
    stream = open_stream(desk)
    first = asyncio.ensure_future(anext(stream))
    await turn()
    desk.client.streams[0].give(1)
    await first
    await stream.aclose()
    assert desk.client.streams[0].closed
    assert desk.dispatcher.load == 0


async def test_leaving_a_stream_before_its_first_chunk_closes_it() -> None:
    desk = Desk()
    stream = open_stream(desk)
    first = asyncio.ensure_future(anext(stream))
    await turn()
    first.cancel()
    await asyncio.wait([first])
    assert desk.client.streams[0].closed
    assert desk.dispatcher.load == 0


@pytest.mark.parametrize(("retry_safe", "chunks", "tries"), [(True, 0, 2), (True, 1, 1), (False, 0, 1)])
async def test_a_lost_stream_is_tried_again_only_before_its_first_chunk(
    retry_safe: bool, chunks: int, tries: int
) -> None:
    desk = Desk(retry_safe=retry_safe)
    stream = open_stream(desk)

    async def read() -> list[list[Any]]:
        return [group async for group in stream]

    reading = asyncio.create_task(read())
    for attempt in range(tries):
        await turn()
        for chunk in range(chunks):
            desk.client.streams[attempt].give(chunk)
        desk.client.streams[attempt].fail(ReplicaLost(may_have_run=True))
    with pytest.raises(ReplicaLost):
        await reading
    assert len(desk.client.streams) == tries
    assert desk.dispatcher.load == 0


async def test_a_stream_that_is_lost_too_late_is_not_tried_again() -> None:
    desk = Desk(retry_safe=True)
    first = asyncio.ensure_future(anext(open_stream(desk, within_s=0.01)))
    await turn()
    desk.client.streams[0].fail(ReplicaLost(may_have_run=True))
    time.sleep(0.02)  # noqa: ASYNC251 - somebody holds up the loop
    with pytest.raises(ReplicaLost):
        await first
    assert len(desk.client.streams) == 1


async def test_a_stream_lost_once_goes_on_elsewhere() -> None:
    desk = Desk(retry_safe=True)
    stream = open_stream(desk)
    first = asyncio.ensure_future(anext(stream))
    await turn()
    desk.client.streams[0].fail(ReplicaLost(may_have_run=True))
    await turn()
    desk.client.streams[1].give("here")
    assert await first == ["here"]
    desk.client.streams[1].end()
    assert [group async for group in stream] == []


async def test_a_late_stream_is_never_sent() -> None:
    desk = Desk()
    with pytest.raises(DeadlineExceeded):
        await anext(open_stream(desk, within_s=0.0))
    assert desk.client.streams == []


async def test_too_many_streams_are_refused() -> None:
    desk = Desk(max_queue=1)
    stream = open_stream(desk)
    first = asyncio.ensure_future(anext(stream))
    await turn()
    with pytest.raises(Overloaded):
        await anext(open_stream(desk, "another"))
    desk.client.streams[0].end()
    with pytest.raises(StopAsyncIteration):
        await first


@pytest.mark.parametrize("error", [NotReady("starting"), InvalidInput("no"), RuntimeError("secret")])
async def test_a_streams_error_is_one_of_the_tree(error: Exception) -> None:
    desk = Desk(retry_safe=True)
    first = asyncio.ensure_future(anext(open_stream(desk)))
    await turn()
    desk.client.streams[0].fail(error)
    with pytest.raises(WorkflowError) as heard:
        await first
    assert heard.value is error or (heard.value.code, heard.value.message) == ("internal", "internal error")
