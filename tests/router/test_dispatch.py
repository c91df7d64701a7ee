"""The dispatcher over a client that the test plays: what travels together, what is refused, late or left."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from deployments.client import Timing
from deployments.router.dispatch import CALLS_PER_REPLICA, MAX_ENVELOPE, MAX_ENVELOPE_BYTES, affinity_of
from tests.router.played_client import (
    Desk,
    card,
    error_of,
    nothing_left_behind,  # noqa: F401 - a fixture of this module
    turn,
)
from workflows.context import CallContext
from workflows.errors import (
    BadOutput,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    WorkflowError,
)

# ---- envelopes -------------------------------------------------------------------------------------------------------------


async def test_requests_of_one_moment_travel_together_and_an_idle_path_sends_at_once() -> None:
    desk = Desk()
    callers = [desk.ask(number) for number in range(3)]
    await turn()
    assert desk.client.envelopes == [[0, 1, 2]]
    later = desk.ask(3)
    await turn()
    assert desk.client.envelopes == [[0, 1, 2], [3]]
    for sent in desk.client.sent:
        sent.finish()
    assert await asyncio.gather(*callers, later) == [0, 1, 2, 3]
    await turn()
    assert desk.dispatcher.load == 0


async def test_sessions_travel_by_themselves() -> None:
    desk = Desk()
    callers = [desk.ask(number, session=session) for number, session in enumerate(["a", "a", "b", None, None])]
    await turn()
    assert desk.client.envelopes == [[0, 1], [2], [3, 4]]
    for sent in desk.client.sent:
        sent.finish()
    assert await asyncio.gather(*callers) == [0, 1, 2, 3, 4]


def test_what_a_replica_may_remember() -> None:
    alone = CallContext("r")
    asked = {"inputs": {}, "parameters": {"model": "local/a/b"}}
    assert affinity_of(asked, alone) == "model local/a/b"
    assert affinity_of(asked, CallContext("r", session_id="s")) == "session s"
    assert affinity_of({"parameters": {"model": "m" * 1024}}, alone)
    assert affinity_of({"parameters": {"model": "m" * 1025}}, alone) is None
    for other in ({"parameters": {"model": 5}}, {"parameters": ["model"]}, {"model": "x"}, "text", None):
        assert affinity_of(other, alone) is None


async def test_what_arrives_while_all_calls_are_out_travels_in_the_next_one() -> None:
    desk = Desk()
    first = await desk.fill()
    callers = []
    for number in range(5):
        callers.append(desk.ask(number))
        await turn()
    assert len(desk.client.sent) == CALLS_PER_REPLICA
    assert (desk.dispatcher.waiting, desk.dispatcher.load) == (5, CALLS_PER_REPLICA + 5)
    desk.client.sent[0].finish()
    await turn()
    assert desk.client.envelopes[CALLS_PER_REPLICA:] == [[0, 1, 2, 3, 4]]
    for sent in desk.client.sent[1:]:
        sent.finish()
    await asyncio.gather(*first, *callers)


async def test_an_envelope_has_a_largest_size() -> None:
    desk = Desk()
    callers = [desk.ask(number) for number in range(MAX_ENVELOPE + 1)]
    await turn()
    assert [len(envelope) for envelope in desk.client.envelopes] == [MAX_ENVELOPE, 1]
    for sent in desk.client.sent:
        sent.finish()
    await asyncio.gather(*callers)


async def test_an_envelope_has_a_largest_weight_and_one_heavy_request_travels_alone() -> None:
    desk = Desk()
    heavy = {"inputs": {"x": np.zeros(MAX_ENVELOPE_BYTES // 8 - 100)}}
    callers = [asyncio.create_task(desk.dispatcher.inference(what, CallContext())) for what in (heavy, heavy, 1)]
    await turn()
    assert [len(envelope) for envelope in desk.client.envelopes] == [1, 2]
    for sent in desk.client.sent:
        sent.finish()
    await asyncio.gather(*callers)


async def test_more_replicas_and_more_concurrency_allow_more_calls() -> None:
    desk = Desk()
    desk.dispatcher.configure(card(concurrency=6), replicas=2)
    callers = []
    for number in range(13):
        callers.append(desk.ask(number))
        await turn()
    assert len(desk.client.sent) == 12
    for sent in desk.client.sent[:12]:
        sent.finish()
    await turn()
    desk.client.sent[12].finish()
    await asyncio.gather(*callers)


async def test_the_replicas_hear_what_waits_for_want_of_them_until_nothing_does() -> None:
    desk = Desk()
    await desk.dispatcher.tell_waiting()
    assert desk.client.told_waiting == []
    first = await desk.fill()
    callers = [desk.ask(number) for number in range(5)]
    await turn()
    await desk.dispatcher.tell_waiting()
    desk.dispatcher.configure(card(), replicas=2)  # which lets four more calls go: what waits travels in one of them
    await turn()
    for _ in range(2):
        await desk.dispatcher.tell_waiting()
    assert desk.client.told_waiting == [5, 0]
    for sent in desk.client.sent:
        sent.finish()
    await asyncio.gather(*first, *callers)


async def test_each_replica_hears_its_share() -> None:
    desk = Desk()
    desk.dispatcher.configure(card(), replicas=2)
    callers = []
    for number in range(2 * CALLS_PER_REPLICA + 5):
        callers.append(desk.ask(number))
        await turn()
    await desk.dispatcher.tell_waiting()
    assert desk.client.told_waiting == [2.5]
    for sent in desk.client.sent:
        sent.finish()
    await turn()
    desk.client.sent[-1].finish()
    await asyncio.gather(*callers)


async def test_answers_come_as_they_are_ready() -> None:
    desk = Desk()
    slow, fast = desk.ask("slow"), desk.ask("fast")
    await turn()
    (sent,) = desk.client.sent
    sent.answer(1)
    assert await fast == "fast"
    assert not slow.done()
    assert desk.dispatcher.load == 1
    sent.answer(0)
    sent.end()
    assert await slow == "slow"
    assert desk.timings == [Timing(0.5, 0.25, 3)] * 2


async def test_an_error_is_the_answer_of_its_item_alone() -> None:
    desk = Desk()
    good, bad = desk.ask("good"), desk.ask("bad")
    await turn()
    desk.client.sent[0].refuse(1, BadOutput("not finite"))
    desk.client.sent[0].answer(0)
    desk.client.sent[0].end()
    assert await good == "good"
    assert (await error_of(bad)).message == "not finite"


# ---- refused ---------------------------------------------------------------------------------------------------------------


async def test_what_the_replicas_would_refuse_is_refused_here_and_at_once() -> None:
    desk = Desk()
    desk.dispatcher.configure(card().model_copy(update={"max_queue": 1}), replicas=2)
    taken = [desk.ask(number) for number in range(4)]  # one in the model and one waiting, twice
    await turn()
    refused = await error_of(desk.ask(4))
    assert isinstance(refused, Overloaded)
    assert refused.retry_after_s
    desk.client.sent[0].finish()
    await asyncio.gather(*taken)
    again = desk.ask(5)
    await turn()
    desk.client.sent[-1].finish()
    await again


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    desk = Desk(max_queue=2)
    first = await desk.fill()
    waiting = [desk.ask(0), desk.ask(1)]
    await turn()
    error = await error_of(desk.ask(2))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    assert not error.may_have_run
    desk.client.sent[0].finish()
    await turn()
    assert desk.client.envelopes[-1] == [0, 1]
    for sent in desk.client.sent[1:]:
        sent.finish()
    await asyncio.gather(*first, *waiting)


@pytest.mark.parametrize(
    "error", [NotReady("starting"), Overloaded("full"), InvalidInput("no"), RuntimeError("secret")]
)
async def test_an_error_of_the_whole_call_is_everybodys_answer(error: Exception) -> None:
    desk = Desk(retry_safe=True)
    callers = [desk.ask(0), desk.ask(1)]
    await turn()
    desk.client.sent[0].fail(error)
    first, second = [await error_of(caller) for caller in callers]
    known = (error.code, error.message) if isinstance(error, WorkflowError) else ("internal", "internal error")
    assert (first.code, first.message) == (second.code, second.message) == known
    assert first is not second
    assert len(desk.client.sent) == 1


# ---- late ------------------------------------------------------------------------------------------------------------------


async def test_a_deadline_in_the_queue_means_never_sent() -> None:
    desk = Desk()
    first = await desk.fill()
    error = await error_of(desk.ask("late", within_s=0.01))
    assert isinstance(error, DeadlineExceeded)
    assert not error.may_have_run
    assert desk.dispatcher.waiting == 0
    for sent in desk.client.sent:
        sent.finish()
    await asyncio.gather(*first)
    await turn()
    assert len(desk.client.sent) == CALLS_PER_REPLICA


@pytest.mark.parametrize("within_s", [0.0, -1.0])
async def test_a_request_that_is_late_already_is_never_sent(within_s: float) -> None:
    desk = Desk()
    error = await error_of(desk.ask("late", within_s=within_s))
    assert isinstance(error, DeadlineExceeded)
    assert not error.may_have_run
    assert desk.client.sent == []


async def test_a_deadline_that_passes_while_the_loop_is_held_up_means_never_sent() -> None:
    desk = Desk()
    first = await desk.fill()
    late = desk.ask("late", within_s=0.01)
    await turn()
    desk.client.sent[0].finish()
    await asyncio.sleep(0)  # there is room now, and the next turn of the loop makes use of it
    time.sleep(0.02)  # noqa: ASYNC251 - somebody holds up the loop
    error = await error_of(late)
    assert not error.may_have_run
    assert len(desk.client.sent) == CALLS_PER_REPLICA
    for sent in desk.client.sent[1:]:
        sent.finish()
    await asyncio.gather(*first)


async def test_a_deadline_after_sending_may_have_run_and_the_replica_is_told() -> None:
    desk = Desk()
    late, patient = desk.ask("late", within_s=0.01), desk.ask("patient")
    error = await error_of(late)
    assert isinstance(error, DeadlineExceeded)
    assert error.may_have_run
    await turn()
    assert desk.client.cancelled == ["rlate"]
    (sent,) = desk.client.sent
    sent.finish()
    assert await patient == "patient"
    assert sent.calls[0].cancelled
    assert not sent.calls[1].cancelled


# ---- left ------------------------------------------------------------------------------------------------------------------


async def test_a_caller_who_leaves_the_queue_is_never_sent() -> None:
    desk = Desk()
    first = await desk.fill()
    gone, stays = desk.ask("gone"), desk.ask("stays")
    await turn()
    gone.cancel()
    await turn()
    assert desk.dispatcher.waiting == 1
    desk.client.sent[0].finish()
    await turn()
    assert desk.client.envelopes[-1] == ["stays"]
    for sent in desk.client.sent[1:]:
        sent.finish()
    await asyncio.gather(*first, stays)
    assert desk.client.cancelled == []


async def test_a_caller_who_leaves_in_the_moment_of_asking_is_never_sent() -> None:
    desk = Desk()
    gone = desk.ask("gone")
    await asyncio.sleep(0)
    gone.cancel()
    await turn()
    assert desk.client.sent == []
    assert desk.dispatcher.load == 0


async def test_when_one_of_several_leaves_the_replica_is_told() -> None:
    desk = Desk()
    callers = [desk.ask(number) for number in range(4)]
    await turn()
    callers[1].cancel()
    callers[2].cancel()
    await turn()
    assert sorted(desk.client.cancelled) == ["r1", "r2"]
    (sent,) = desk.client.sent
    assert not sent.closed
    sent.refuse(1, Cancelled())
    sent.refuse(2, Cancelled())
    sent.answer(0, 3)
    sent.end()
    assert [await callers[0], await callers[3]] == [0, 3]


async def test_a_call_that_nobody_waits_for_is_closed() -> None:
    desk = Desk()
    callers = [desk.ask(0), desk.ask(1)]
    await turn()
    desk.client.sent[0].answer(0)
    assert await callers[0] == 0
    callers[1].cancel()
    await turn()
    assert desk.client.sent[0].closed
    assert desk.dispatcher.load == 0
    again = desk.ask(2)
    await turn()
    desk.client.sent[1].finish()
    assert await again == 2


async def test_leaving_in_the_moment_of_an_error_leaves_no_trace() -> None:
    desk = Desk()
    caller = desk.ask(0)
    await turn()
    desk.client.sent[0].refuse(0, BadOutput())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    desk.client.sent[0].end()
    await turn()
    assert desk.dispatcher.load == 0
