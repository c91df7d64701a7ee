"""What a dispatcher counts: what it gives up by itself, once, and nothing that a replica counts."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.router.played_client import (
    Desk,
    card,
    error_of,
    nothing_left_behind,  # noqa: F401 - a fixture of this module
    turn,
)
from workflows.context import CallContext
from workflows.errors import InvalidInput, NotReady, Overloaded, ReplicaLost, Unloaded, WorkflowError


def failures(desk: Desk) -> dict[str, int]:
    return {code: failure.count for code, failure in desk.dispatcher.counts.statistics().failures.items()}


async def test_answers_and_errors_of_replicas_are_theirs_to_count() -> None:
    desk = Desk()
    callers = [desk.ask(number) for number in range(3)]
    await turn()
    (sent,) = desk.client.sent
    sent.answer(0)
    sent.refuse(1, InvalidInput())
    sent.answer(2)
    sent.end()
    assert await callers[0] == 0
    assert isinstance(await error_of(callers[1]), InvalidInput)
    assert await callers[2] == 2
    assert failures(desk) == {}


async def test_who_finds_no_room_is_counted() -> None:
    desk = Desk(max_queue=1)
    sent = await desk.fill()
    waiting = desk.ask("waits")
    await turn()
    assert isinstance(await error_of(desk.ask("too much")), Overloaded)
    for call in desk.client.sent:
        call.finish()
    await turn()
    desk.client.sent[-1].finish()
    await asyncio.gather(*sent, waiting)
    desk.dispatcher.max_queue = 0
    with pytest.raises(Overloaded):
        await anext(desk.dispatcher.stream(1, CallContext()))
    assert failures(desk) == {"overload": 2}


async def test_who_waits_too_long_or_leaves_before_it_was_sent_is_counted_with_its_time() -> None:
    desk = Desk()
    sent = await desk.fill()
    late, gone = desk.ask("late", within_s=0.02), desk.ask("gone")
    await turn()
    assert (await error_of(late)).code == "deadline"
    gone.cancel()
    await turn()
    assert failures(desk) == {"deadline": 1, "cancelled": 1}
    found = desk.dispatcher.counts.statistics().failures
    assert all(failure.ns >= 0.02e9 for failure in found.values())
    for call in desk.client.sent:
        call.finish()
    await asyncio.gather(*sent)


async def test_who_leaves_or_is_late_once_it_was_sent_is_counted_by_the_replica() -> None:
    desk = Desk()
    late, gone, stays = desk.ask("late", within_s=0.02), desk.ask("gone"), desk.ask("stays")
    await turn()
    gone.cancel()
    assert (await error_of(late)).code == "deadline"
    desk.client.sent[0].finish()
    await stays
    assert failures(desk) == {}


@pytest.mark.parametrize(
    ("error", "replicas", "tries", "code"),
    [
        (ReplicaLost(may_have_run=True), 2, 2, "overload"),
        (Unloaded(), 1, 1, "loading"),
        (NotReady(), 1, 1, "loading"),
        (RuntimeError("secret"), 1, 1, "internal"),
    ],
)
async def test_a_call_that_fails_for_good_is_counted_once(
    error: Exception, replicas: int, tries: int, code: str
) -> None:
    desk = Desk()
    desk.dispatcher.configure(card(retry_safe=True), replicas)
    caller = desk.ask(1)
    for attempt in range(tries):
        await turn()
        desk.client.sent[attempt].fail(error)
    assert (await error_of(caller)).code == code
    assert failures(desk) == {code: 1}


@pytest.mark.parametrize("error", [ReplicaLost(may_have_run=True), Unloaded()])
async def test_a_stream_that_is_given_up_is_counted_here_and_no_other(error: WorkflowError) -> None:
    desk = Desk()
    for failure, counted in ((error, {error.code: 1}), (InvalidInput(), {error.code: 1})):
        first = asyncio.ensure_future(anext(desk.dispatcher.stream("s", CallContext())))
        await turn()
        desk.client.streams[-1].fail(failure)
        assert isinstance(await error_of(first), type(failure))
        assert failures(desk) == counted


async def test_an_item_says_since_when_it_waits() -> None:
    desk = Desk()
    filling = await desk.fill()
    before = time.monotonic()
    waiting = desk.ask("waits")
    await turn()
    after = time.monotonic()
    for call in desk.client.sent:
        call.finish()
    await turn()
    (item,) = desk.client.sent[-1].items
    assert before <= item.since <= after
    desk.client.sent[-1].finish()
    await asyncio.gather(*filling, waiting)
