"""A model that thinks before it speaks: what is told of that keeps a stream alive, and is no part of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import UpstreamFailed
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.upstream import Attempt, Upstream


async def test_signs_of_life_are_waited_for_and_not_told() -> None:
    clock = HandClock()

    async def thinks(attempt: Attempt) -> AsyncGenerator[str | None]:
        for item in (None, None, None, "so", None, None, "on"):
            clock.advance(25.0)  # each time less than the patience with one silence
            yield item

    upstream = Upstream("thinker", UpstreamPolicy(first_byte_s=30.0, between_tokens_s=30.0), clock=clock)
    assert [item async for item in upstream.stream(thinks)] == ["so", "on"]


@pytest.mark.parametrize(("told", "attempts"), [(None, 2), ("so", 1)])
async def test_a_stream_with_nothing_but_signs_of_life_is_tried_again(told: str | None, attempts: int) -> None:
    async def breaks(attempt: Attempt) -> AsyncGenerator[str | None]:
        yield told
        raise UpstreamFailure(FailureKind.CUT)

    policy = UpstreamPolicy(attempts=2, retry_reserve=5)
    upstream = Upstream("thinker", policy, clock=HandClock(sleepless=True))
    with pytest.raises(UpstreamFailed):
        _ = [item async for item in upstream.stream(breaks)]
    assert upstream.statistics().attempts == attempts
