"""Asking an upstream: in turn, in time, again where that helps. The clock is moved by hand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.remote.contract_upstream import quiescence
from tests.workflows.remote.hand_clock import HandClock
from workflows.batch import working_for
from workflows.context import CallContext
from workflows.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    RateLimited,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
)
from workflows.remote.breaker import BreakerState
from workflows.remote.failures import FailureKind, UpstreamFailure, of_status
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.upstream import Attempt, Upstream


def failure(kind: FailureKind = FailureKind.CUT, **about: Any) -> UpstreamFailure:
    return UpstreamFailure(kind, **about)


class Script:
    """An adapter, and the upstream that it asks: each attempt does the next of these, the last again and again.

    A list is streamed, an exception raised, an event waited for; anything else is the answer.
    """

    def __init__(self, *steps: Any, clock: HandClock | None = None, **policy: Any) -> None:
        self.clock = clock or HandClock(sleepless=True)
        self.steps = list(steps)
        self.attempts: list[Attempt] = []
        self.closed = 0
        said = {"retry_reserve": 100, "backoff_s": 1.0, **policy}
        self.upstream = Upstream("test", UpstreamPolicy.model_validate(said), clock=self.clock, draw=lambda: 0.5)

    async def ask(self) -> Any:
        async def attempt(about: Attempt) -> Any:
            return await self._play(about)

        return await self.upstream.ask(attempt)

    def stream(self) -> AsyncGenerator[Any]:
        return self.upstream.stream(self._streamed)

    async def streamed(self) -> list[Any]:
        async with aclosing(self.stream()) as items:
            return [item async for item in items]

    async def _play(self, about: Attempt, step: Any = None) -> Any:
        if step is None:
            self.attempts.append(about)
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
        return step

    async def _streamed(self, about: Attempt) -> AsyncGenerator[Any]:
        try:
            items = await self._play(about)
            for item in items:
                yield await self._play(about, item)
        finally:
            self.closed += 1


async def within(seconds: float, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """`work` for a caller with so much time; the clock at hand need not be the one it is measured with."""
    with working_for(CallContext("request-1", time.monotonic() + seconds)):
        return await work()


async def test_the_first_answer_counts() -> None:
    script = Script(failure(), "answer")
    assert await script.ask() == "answer"
    assert script.clock.slept == [0.5]
    assert [about.number for about in script.attempts] == [1, 2]


async def test_attempts_have_an_end_and_their_pauses_grow() -> None:
    script = Script(failure(), attempts=4, backoff_max_s=3.0)
    with pytest.raises(UpstreamFailed, match="broke off"):
        await script.ask()
    assert script.clock.slept == [0.5, 1.0, 1.5]
    assert len(script.attempts) == 4


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if not UpstreamFailure(kind).retryable])
async def test_what_another_attempt_would_not_mend_is_not_asked_again(kind: FailureKind) -> None:
    script = Script(failure(kind))
    with pytest.raises(type(failure(kind).error)):
        await script.ask()
    assert len(script.attempts) == 1


async def test_no_retry_without_budget() -> None:
    script = Script(failure(), retry_reserve=0, breaker={"failures": 100})
    for _ in range(9):
        with pytest.raises(UpstreamFailed):
            await script.ask()
    assert len(script.attempts) == 9
    with pytest.raises(UpstreamFailed):
        await script.ask()
    assert len(script.attempts) == 11


async def test_an_upstream_is_left_alone_for_as_long_as_it_says() -> None:
    script = Script(of_status(429, {"retry-after": "7"}), "answer")
    assert await script.ask() == "answer"
    assert script.clock.slept == [7.5]


@pytest.mark.parametrize(("seconds", "policy"), [(5.0, {}), (500.0, {"retry_after_max_s": 6.0})])
async def test_who_cannot_wait_so_long_is_told(seconds: float, policy: dict[str, Any]) -> None:
    script = Script(of_status(429, {"retry-after": "7"}), **policy)
    with pytest.raises(RateLimited) as caught:
        await within(seconds, script.ask)
    assert caught.value.retry_after_s == 7.0
    assert script.clock.slept == []


async def test_no_attempt_begins_after_the_deadline() -> None:
    script = Script(failure(), "answer", backoff_s=8.0)
    with pytest.raises(UpstreamFailed):
        await within(3.0, script.ask)
    assert script.clock.slept == []
    with pytest.raises(DeadlineExceeded) as caught:
        await within(-1.0, script.ask)
    assert caught.value.may_have_run is False
    assert len(script.attempts) == 1


async def test_a_caller_who_has_left_asks_nothing() -> None:
    script = Script("answer")
    call = CallContext()
    call.cancel()
    with working_for(call), pytest.raises(Cancelled):
        await script.ask()
    assert script.attempts == []
    assert script.upstream.statistics().in_flight == 0


async def passing(script: Script, seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` comes to when so much time passes once it waits."""
    task = asyncio.create_task(work)
    await quiescence()
    script.clock.advance(seconds)
    return await task


async def test_a_silent_upstream_is_given_up_at_the_deadline() -> None:
    script = Script(asyncio.Event())
    with pytest.raises(DeadlineExceeded) as caught:
        await passing(script, 10.0, within(9.0, script.ask))
    assert caught.value.may_have_run is True
    assert len(script.attempts) == 1


async def test_being_given_up_is_no_failure_of_another_kind_whatever_a_library_makes_of_it() -> None:
    script = Script("", first_byte_s=20.0)

    async def breaks(attempt: Attempt) -> AsyncGenerator[str]:
        script.attempts.append(attempt)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionResetError from None
        yield ""

    async def ask() -> None:
        async with aclosing(script.upstream.stream(breaks)) as items:
            await anext(items)

    with pytest.raises(DeadlineExceeded):
        await passing(script, 10.0, within(9.0, ask))
    with pytest.raises(UpstreamSilent):
        await passing(script, 20.0, ask())
    assert len(script.attempts) == 2


async def test_a_call_ends_when_the_policy_says() -> None:
    script = Script(asyncio.Event(), total_s=100.0)
    with pytest.raises(UpstreamFailed, match="in time"):
        await passing(script, 100.0, script.ask())
    with pytest.raises(UpstreamFailed, match="in time"):
        await passing(script, 100.0, within(200.0, script.ask))


async def test_an_attempt_knows_how_much_time_is_left() -> None:
    script = Script(failure(), "answer", total_s=50.0)
    await script.ask()
    assert script.attempts[0].seconds_left() == 49.5
    await within(20.0, script.ask)
    assert 19.0 < script.attempts[-1].seconds_left() <= 20.0
    script.clock.advance(21.0)
    assert script.attempts[-1].seconds_left() == 0.0


async def test_attempts_of_a_call_share_an_id() -> None:
    script = Script(failure(), "answer")
    await script.ask()
    await script.ask()
    first, second, other = (about.call_id for about in script.attempts)
    assert first == second != other


# ---- streams ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_begun_again_until_its_first_item() -> None:
    script = Script(failure(), [failure()], ["a", "b"])
    assert await script.streamed() == ["a", "b"]
    assert len(script.attempts) == script.closed == 3


async def test_a_stream_is_not_begun_again_after_its_first_item() -> None:
    script = Script(["a", failure()], ["a", "b"])
    async with aclosing(script.stream()) as items:
        assert await anext(items) == "a"
        with pytest.raises(UpstreamFailed, match="broke off"):
            await anext(items)
    assert len(script.attempts) == script.closed == 1


@pytest.mark.parametrize(
    ("items", "passes"), [([asyncio.Event()], 20.0), (["a", asyncio.Event()], 10.0)], ids=["first", "between"]
)
async def test_a_stream_that_falls_silent(items: list[Any], passes: float) -> None:
    script = Script(items, first_byte_s=20.0, between_tokens_s=10.0)
    task = asyncio.create_task(script.streamed())
    await quiescence()
    script.clock.advance(passes - 0.1)
    await quiescence()
    assert not task.done()
    script.clock.advance(0.1)
    with pytest.raises(UpstreamFailed, match="in time"):
        await task
    assert script.closed == 1


async def test_a_slow_drip_ends_when_the_policy_says() -> None:
    script = Script(list(range(1000)), between_tokens_s=30.0, total_s=600.0)
    async with aclosing(script.stream()) as items:
        for number in range(30):
            assert await anext(items) == number
            script.clock.advance(20.0)
        with pytest.raises(UpstreamFailed, match="in time"):
            await anext(items)


async def test_a_slow_reader_is_not_taken_for_a_silent_upstream() -> None:
    script = Script(["a", "b"], between_tokens_s=10.0)
    async with aclosing(script.stream()) as items:
        assert await anext(items) == "a"
        script.clock.advance(100.0)
        assert await anext(items) == "b"


async def test_who_leaves_a_stream_closes_its_attempt_at_once() -> None:
    script = Script(["a", asyncio.Event()], max_concurrent=1)
    stream = script.stream()
    assert await anext(stream) == "a"
    assert script.upstream.statistics().in_flight == 1
    await stream.aclose()
    assert script.closed == 1
    assert script.upstream.statistics().in_flight == 0


async def test_who_leaves_while_a_stream_is_silent_closes_its_attempt() -> None:
    script = Script(["a", asyncio.Event()])
    task = asyncio.create_task(script.streamed())
    await quiescence()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.closed == 1
    assert script.upstream.statistics().in_flight == 0


@pytest.mark.parametrize("last", ["more", None], ids=["an item", "a sign of life"])
async def test_whose_caller_is_said_to_have_left_a_stream_gets_no_more_of_it(last: str | None) -> None:
    call, ended = CallContext("request-1"), False

    async def goes_on(attempt: Attempt) -> AsyncGenerator[str | None]:
        nonlocal ended
        try:
            yield "so"
            call.cancel()
            while True:
                yield last
        finally:
            ended = True

    with working_for(call):
        items = Script().upstream.stream(goes_on)
        assert await anext(items) == "so"
        with pytest.raises(Cancelled):
            await anext(items)
    assert ended


async def test_a_stream_without_items_is_one_all_the_same() -> None:
    assert await Script([]).streamed() == []


# ---- in turn ---------------------------------------------------------------------------------------------------------


async def test_calls_take_turns_and_the_line_is_bounded() -> None:
    gate = asyncio.Event()
    script = Script(gate, max_concurrent=1, max_waiting=1)
    first, second = asyncio.create_task(script.ask()), asyncio.create_task(script.ask())
    await quiescence()
    assert len(script.attempts) == 1
    with pytest.raises(Overloaded):
        await script.ask()
    seen = script.upstream.statistics()
    assert (seen.calls, seen.attempts, seen.in_flight, seen.waiting) == (3, 1, 1, 1)
    first.cancel()
    await quiescence()
    assert len(script.attempts) == 2
    gate.set()
    await second
    assert script.upstream.statistics().in_flight == 0


@pytest.mark.parametrize(("seconds", "error"), [(9.0, DeadlineExceeded), (1000.0, Overloaded)])
async def test_who_stands_in_line_for_too_long(seconds: float, error: type[WorkflowError]) -> None:
    script = Script(asyncio.Event(), max_concurrent=1, total_s=100.0)
    first = asyncio.create_task(script.ask())
    await quiescence()
    script.clock.advance(1.0)
    with pytest.raises(error) as caught:
        await passing(script, min(seconds, 100.0) + 0.1, within(seconds, script.ask))
    assert caught.value.may_have_run is False
    assert len(script.attempts) == 1
    first.cancel()


# ---- the breaker -----------------------------------------------------------------------------------------------------


async def test_an_upstream_that_keeps_failing_is_left_alone_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(failure(), attempts=1, breaker={"failures": 3, "open_s": 10.0})
    for _ in range(3):
        with pytest.raises(UpstreamFailed):
            await script.ask()
    with pytest.raises(Overloaded) as caught:
        await script.ask()
    assert caught.value.retry_after_s == 10.0
    assert len(script.attempts) == 3
    assert "upstream test: breaker open" in caplog.text
    script.steps = ["answer"]
    script.clock.advance(10.0)
    assert await script.ask() == "answer"
    assert script.upstream.statistics().breaker is BreakerState.CLOSED
    assert "upstream test: breaker closed" in caplog.text


async def test_who_stands_in_line_when_it_opens_asks_nothing() -> None:
    script = Script(failure(), max_concurrent=1, attempts=1, breaker={"failures": 1, "open_s": 10.0})
    gate = asyncio.Event()

    async def fails(attempt: Attempt) -> None:
        await gate.wait()
        raise failure()

    first = asyncio.create_task(script.upstream.ask(fails))
    await quiescence()
    line = [asyncio.create_task(script.ask()) for _ in range(3)]
    await quiescence()
    assert script.upstream.statistics().waiting == 3
    gate.set()
    with pytest.raises(UpstreamFailed):
        await first
    for waiting in line:
        with pytest.raises(Overloaded, match="keeps failing"):
            await waiting
    assert script.attempts == []
    assert script.upstream.statistics().in_flight == 0


async def test_who_has_failed_is_told_why_and_not_that_the_breaker_is_open() -> None:
    script = Script(failure(), clock=HandClock(), attempts=3, breaker={"failures": 2, "open_s": 10.0})
    first = asyncio.create_task(script.ask())
    await script.clock.until_asleep()
    with pytest.raises(UpstreamFailed):  # the second failure, which opens it
        await script.ask()
    script.clock.advance(1.0)
    with pytest.raises(UpstreamFailed):
        await first
    assert len(script.attempts) == 2


@pytest.mark.parametrize("told", [of_status(400, {}), of_status(401, {}), of_status(404, {}), of_status(429, {})])
async def test_what_is_not_the_upstreams_fault_does_not_speak_against_it(told: UpstreamFailure) -> None:
    script = Script(told, attempts=1, breaker={"failures": 1})
    for _ in range(20):
        with pytest.raises(type(told.error)):
            await script.ask()
    assert script.upstream.statistics().breaker is BreakerState.CLOSED


async def test_callers_in_a_hurry_do_not_speak_against_the_upstream() -> None:
    script = Script(asyncio.Event(), breaker={"failures": 1})
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await passing(script, 2.0, within(1.0, script.ask))
    assert script.upstream.statistics().breaker is BreakerState.CLOSED


async def test_a_stream_shows_with_its_first_item_that_the_upstream_is_back() -> None:
    script = Script(failure(), attempts=1, breaker={"failures": 1, "open_s": 10.0})
    with pytest.raises(UpstreamFailed):
        await script.ask()
    script.clock.advance(10.0)
    script.steps = [["a", "b"]]
    async with aclosing(script.stream()) as items:
        await anext(items)
        assert script.upstream.statistics().breaker is BreakerState.CLOSED


# ---- what is told ----------------------------------------------------------------------------------------------------


async def test_errors_bring_nothing_along(caplog: pytest.LogCaptureFixture) -> None:
    for raised in (ConnectionResetError("a secret"), KeyError("a secret")):
        script = Script(raised, attempts=1)
        with caplog.at_level(logging.DEBUG), pytest.raises(WorkflowError) as caught:
            await script.ask()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    assert "a secret" not in caplog.text
    assert "upstream test: KeyError at" in caplog.text


async def test_a_workflows_own_error_is_the_callers() -> None:
    script = Script(InvalidInput("mine"), breaker={"failures": 1})
    with pytest.raises(InvalidInput, match="mine"):
        await script.ask()
    seen = script.upstream.statistics()
    assert (seen.attempts, seen.failures, seen.breaker) == (1, {}, BreakerState.CLOSED)


async def test_one_line_for_each_failure(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(of_status(503, {}), attempts=2)
    with pytest.raises(UpstreamFailed):
        await within(100.0, script.ask)
    assert [record.getMessage() for record in caplog.records] == [
        "request request-1: upstream test: failed 503, attempt 1: again in 0.500 s",
        "request request-1: upstream test: failed 503, attempt 2: no attempt is left",
    ]
    assert script.upstream.statistics().failures == {"failed": 2}


KINDS = st.sampled_from([None, *FailureKind])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KINDS, KINDS, KINDS), min_size=1, max_size=60), st.booleans())
def test_whatever_fails_the_upstream_is_asked_no_more_than_a_tenth_more(fates: list[Any], streamed: bool) -> None:
    async def run() -> None:
        script = Script("", retry_reserve=0, breaker={"failures": 10_000})
        for calls, fate in enumerate(fates, 1):
            script.steps = [failure(kind) if kind is not None else ["a"] for kind in fate]
            with suppress(WorkflowError):
                await (script.streamed() if streamed else script.ask())
            assert len(script.attempts) <= 1.1 * calls
        seen = script.upstream.statistics()
        assert (seen.calls, seen.attempts) == (len(fates), len(script.attempts))
        assert (seen.in_flight, seen.waiting) == (0, 0)

    asyncio.run(run())
