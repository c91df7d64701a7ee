"""Asks one upstream for many callers: in turn, in time, again where that helps, and not at all while it keeps failing.

call -> breaker, gate -> attempt -> answer, or failure -> budget, backoff -> next attempt
Knows no HTTP: an attempt is a coroutine, or an async generator, of an adapter.
"""

from __future__ import annotations

import logging
import math
import random
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from workflows.context import CallContext, current_call
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, WorkflowError
from workflows.remote.breaker import Breaker, BreakerState, Permit
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_exception
from workflows.remote.gate import FULL, Gate
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.retries import RetryBudget, backoff

__all__ = ["Attempt", "Upstream", "UpstreamStatistics"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_END: Final[Any] = object()
# Others are warnings: the upstream's doing. These are the caller's, and the operator's.
_LEVELS: Final = {
    FailureKind.REJECTED: logging.INFO,
    FailureKind.MISSING: logging.INFO,
    FailureKind.DENIED: logging.ERROR,
}


class Attempt:
    """One try of one call.

    Attributes:
        number: The first is 1.
        call_id: The same for all attempts of a call, and no other's: for providers that tell by it what they have done.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.number = run.attempts
        self.call_id = run.call_id

    def seconds_left(self) -> float:
        """Until the whole call has to have ended, never below 0."""
        return max(0.0, self._run.left())


@dataclass(frozen=True, slots=True)
class UpstreamStatistics:
    """Since the workflow was set up, but for the last four, which are of now.

    Attributes:
        calls: Callers' requests, refused ones included.
        attempts: Times that the upstream was asked.
        failures: How many of them failed, by `FailureKind`.
        retries_left: How many retries the budget allows.
    """

    calls: int
    attempts: int
    failures: dict[str, int]
    breaker: BreakerState
    in_flight: int
    waiting: int
    retries_left: int


@dataclass(slots=True)
class _Run:
    """One caller's call, over all its attempts."""

    call: CallContext
    clock: Clock
    ends: float
    by_caller: bool  # whose limit `ends` is
    call_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    attempts: int = 0
    failure: UpstreamFailure | None = None  # of the last attempt

    def left(self) -> float:
        return self.ends - self.clock.now()

    def late(self) -> WorkflowError:
        asked = self.attempts > 0
        if self.by_caller:
            return DeadlineExceeded(
                "the deadline passed" if asked else "the deadline passed in line", may_have_run=asked
            )
        if not asked:
            return Overloaded(FULL)
        return UpstreamFailure(FailureKind.SILENT).error


class Upstream:
    """One per workflow and replica; belongs to the event loop that the workflow was set up on.

    Args:
        name: For the log: the provider's, say. No address.
        draw: Numbers from 0 to 1, for the time before a retry.
    """

    def __init__(
        self,
        name: str,
        policy: UpstreamPolicy,
        *,
        clock: Clock = SYSTEM_CLOCK,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._gate = Gate(policy.max_concurrent, policy.max_waiting)
        self._breaker = Breaker(policy.breaker, clock, self._tell)
        self._budget = RetryBudget(policy.retry_budget, policy.retry_reserve)
        self._calls = self._attempts = 0
        self._failures: Counter[str] = Counter()

    async def ask(self, attempt: Callable[[Attempt], Awaitable[T]], *, at_most_s: float = math.inf) -> T:
        """The first answer that an attempt gives. `at_most_s`: what is left of the policy's `total_s`, where that is less.

        An attempt raises UpstreamFailure, or whatever its library does; a WorkflowError of its own is the caller's.
        Raises the WorkflowError of the last failure, DeadlineExceeded, or Overloaded where nothing was asked.
        """
        run = self._run(at_most_s)
        while True:
            async with self._turn(run) as permit:
                try:
                    answer = await self._within(run, partial(attempt, Attempt(run)), math.inf)
                except UpstreamFailure as failure:
                    self._failed(run, failure, permit)
                else:
                    permit.succeeded()
                    return answer
            await self._pause(run)

    async def stream(
        self, attempt: Callable[[Attempt], AsyncGenerator[T | None]], *, at_most_s: float = math.inf
    ) -> AsyncGenerator[T]:
        """The items of the first attempt that gives one; from then on a failure is the end. Raises as `ask` does, and
        Cancelled for a caller who has left.

        None is no item but a sign of life: a model that thinks before it speaks is not silent.

        Close it with `aclose()` when you leave early: that closes the attempt, and with it the connection, at once.
        """
        run = self._run(at_most_s)
        begun = False
        while True:
            async with self._turn(run) as permit:
                try:
                    async with aclosing(attempt(Attempt(run))) as items:
                        while True:
                            patience = self._policy.between_tokens_s if begun else self._policy.first_byte_s
                            item = await self._within(run, partial(anext, items, _END), patience)
                            if run.call.cancelled:
                                raise Cancelled
                            if item is None:
                                continue
                            if not begun:
                                permit.succeeded()
                            if item is _END:
                                return
                            begun = True
                            yield item
                except UpstreamFailure as failure:
                    self._failed(run, failure, permit)
            await self._pause(run, begun)

    def statistics(self) -> UpstreamStatistics:
        return UpstreamStatistics(
            calls=self._calls,
            attempts=self._attempts,
            failures=dict(self._failures),
            breaker=self._breaker.state,
            in_flight=self._gate.inside,
            waiting=self._gate.waiting,
            retries_left=self._budget.retries,
        )

    def _run(self, at_most_s: float) -> _Run:
        self._calls += 1
        self._budget.earn()
        call = current_call()
        left = call.seconds_left()
        total = min(self._policy.total_s, at_most_s)
        by_caller = left is not None and left <= total
        seconds = left if left is not None and by_caller else total
        return _Run(call, self._clock, self._clock.now() + seconds, by_caller)

    @asynccontextmanager
    async def _turn(self, run: _Run) -> AsyncGenerator[Permit]:
        """For one attempt, from when it may begin."""
        permit = await self._admitted(run)
        try:
            run.attempts += 1
            self._attempts += 1
            yield permit
        finally:
            permit.end()
            self._gate.leave()

    async def _admitted(self, run: _Run) -> Permit:
        """Takes a place at the gate. Who has failed before and is not admitted again gets the error of then."""
        try:
            self._breaker.check()  # now as well, so that nobody waits in line for a no
            await self._within(run, self._gate.enter, math.inf)
            try:
                if run.call.cancelled:
                    raise Cancelled
                if run.left() <= 0:
                    raise run.late()
                return self._breaker.enter()
            except BaseException:
                self._gate.leave()
                raise
        except Overloaded:
            if run.failure is None:
                raise
        raise run.failure.error

    async def _within(self, run: _Run, step: Callable[[], Awaitable[T]], patience_s: float) -> T:
        """What `step` returns. Raises UpstreamFailure for a fault of the upstream, and WorkflowError otherwise.

        Both without what led to them: an exception of a library may hold a prompt, an answer or a key.
        """
        left = run.left()
        if left <= 0:  # a step that need not wait would not notice
            raise run.late()
        try:
            async with self._clock.limit(min(left, patience_s)) as limit:
                return await step()
        except WorkflowError:
            raise
        except Exception as raised:  # noqa: BLE001 - told apart below
            problem = self._told_apart(run, raised, limit.expired(), patience_s < left)
        raise problem

    def _told_apart(self, run: _Run, raised: Exception, expired: bool, silent: bool) -> UpstreamFailure | WorkflowError:
        if expired:  # whatever a library has made of being cancelled for it
            return UpstreamFailure(FailureKind.SILENT) if silent else run.late()
        failure = of_exception(raised)
        if failure is not None:
            return failure
        where = traceback.extract_tb(raised.__traceback__)[-1]
        log.error(
            "request %s: upstream %s: %s at %s:%s",
            run.call.request_id or "-",
            self._name,
            type(raised).__qualname__,
            where.filename,
            where.lineno,
        )
        return WorkflowError()

    def _failed(self, run: _Run, failure: UpstreamFailure, permit: Permit) -> None:
        run.failure = failure
        self._failures[failure.kind.value] += 1
        if failure.counts:
            permit.failed()
        else:
            permit.succeeded()  # it has answered, if not what was hoped for

    async def _pause(self, run: _Run, begun: bool = False) -> None:
        """Wait until the next attempt; raises the last failure's error where there is to be none."""
        failure = run.failure
        assert failure is not None
        after = failure.retry_after_s or 0.0
        pause = after + backoff(self._policy, run.attempts, self._draw)
        if begun:
            end = "its answer had begun"
        elif not failure.retryable:
            end = "asking again would not help"
        elif run.attempts >= self._policy.attempts:
            end = "no attempt is left"
        elif after > self._policy.retry_after_max_s or pause >= run.left():
            end = "there is no time to ask again"
        elif self._breaker.state is BreakerState.OPEN:
            end = "it keeps failing"
        elif not self._budget.spend():
            end = "the retry budget is used up"
        else:
            self._log(run, failure, f"again in {pause:.3f} s")
            await self._clock.sleep(pause)
            return
        self._log(run, failure, end)
        raise failure.error

    def _tell(self) -> None:
        seen = self.statistics()
        log.warning(
            "upstream %s: breaker %s, after %d calls, %d attempts and failures of these kinds: %s",
            self._name,
            seen.breaker,
            seen.calls,
            seen.attempts,
            seen.failures,
        )

    def _log(self, run: _Run, failure: UpstreamFailure, then: str) -> None:
        log.log(
            _LEVELS.get(failure.kind, logging.WARNING),
            "request %s: upstream %s: %s, attempt %d: %s",
            run.call.request_id or "-",
            self._name,
            failure,
            run.attempts,
            then,
        )
