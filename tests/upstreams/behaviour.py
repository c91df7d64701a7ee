"""What a workflow that asks a model elsewhere does, whoever serves it there: one suite for all, a check for each promise."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.upstreams.peers import Peer
from workflows.batch import working_for
from workflows.context import CallContext
from workflows.errors import DeadlineExceeded, InvalidInput, ModelNotFound
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef
from workflows.testing import check_workflow
from workflows.types.text import Generated

__all__ = ["CHECKS", "Check", "Given"]


@dataclass(frozen=True)
class Given:
    """A peer, where it is, a folder for files, what is logged, and the key that it asks for."""

    peer: Peer
    address: str
    folder: Path
    log: pytest.LogCaptureFixture
    key: SecretRef | None = None


Check = Callable[[Given], Awaitable[None]]
KEY: Final = "sk-canary-of-this-test"


@asynccontextmanager
async def _asking(given: Given, **options: Any) -> AsyncGenerator[Any]:
    workflow = await given.peer.make(given.address, **{"key": given.key, **options}).asetup()
    try:
        yield workflow
    finally:
        await workflow.ateardown()


async def _streamed(workflow: Any, asked: Any) -> list[Any]:
    async with aclosing(workflow.astream(asked)) as chunks:
        return [chunk async for chunk in chunks]


async def says_the_same_whole_and_in_pieces(given: Given) -> None:
    async with _asking(given) as workflow:
        whole = await workflow.ainference(given.peer.ask)
        chunks = await _streamed(workflow, given.peer.ask)
    assert Generated.fold(chunks).text == whole.text
    assert whole.text
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len(chunks) > 1


async def counts_what_it_took(given: Given) -> None:
    async with _asking(given) as workflow:
        whole = await workflow.ainference(given.peer.ask)
        (*_, last) = await _streamed(workflow, given.peer.ask)
    assert last.usage is not None
    for usage in (last.usage, whole.usage):
        assert (usage.prompt_tokens > 0, usage.completion_tokens > 0, usage.estimated) == (True, True, None)
    if given.peer.real:
        assert last.usage == whole.usage
        assert (whole.usage.completion_tokens, whole.finish_reason) == (8, "length")


async def ends_before_a_stop_string(given: Given) -> None:
    if not given.peer.stops:
        pytest.skip("its stop strings are part of the text, or it has none")
    async with _asking(given) as workflow:
        whole = (await workflow.ainference(given.peer.ask)).text
        stop = whole[len(whole) // 2 :][:3]
        asked = {**given.peer.ask, "sampling": {**given.peer.ask["sampling"], "stop": [stop]}}
        got = await workflow.ainference(asked)
        streamed = Generated.fold(await _streamed(workflow, asked))
    assert got.text == streamed.text == whole.partition(stop)[0]
    assert got.finish_reason == streamed.finish_reason == "stop"


async def refuses_what_is_too_long(given: Given) -> None:
    if not given.peer.bounded:
        pytest.skip("it says of no text that it is too long")
    long = "for " * 4000
    asked = {**given.peer.ask, "prompt": long}
    if "messages" in given.peer.ask:
        asked = {**given.peer.ask, "messages": [{"role": "user", "content": long}]}
    async with _asking(given) as workflow:
        with pytest.raises(InvalidInput):
            await workflow.ainference(asked)
        with pytest.raises(InvalidInput):
            await _streamed(workflow, asked)
        assert (await workflow.ainference(given.peer.ask)).text


async def does_not_find_another_model(given: Given) -> None:
    if not given.peer.named:
        pytest.skip("it knows its model by no name")
    async with _asking(given, model="nobody-has-it") as workflow:
        with pytest.raises(ModelNotFound):
            await workflow.ainference(given.peer.ask)
        with pytest.raises(ModelNotFound):
            await _streamed(workflow, given.peer.ask)


async def answers_many_at_once(given: Given) -> None:
    policy = UpstreamPolicy(max_concurrent=8, max_waiting=100)
    async with _asking(given, upstream=policy) as workflow:
        alone = (await workflow.ainference(given.peer.ask)).text
        answers = await asyncio.gather(
            *(workflow.ainference(given.peer.ask) for _ in range(16)),
            *(_streamed(workflow, given.peer.ask) for _ in range(8)),
        )
    texts = {Generated.fold(each).text if isinstance(each, list) else each.text for each in answers}
    assert texts == {alone}


async def can_be_left_at_any_time(given: Given) -> None:
    """With room for one call only, which would be gone if one that was left kept it."""
    policy = UpstreamPolicy(max_concurrent=1, max_waiting=0)
    async with _asking(given, upstream=policy) as workflow:
        for _ in range(3):
            async with aclosing(workflow.astream(given.peer.ask)) as chunks:
                assert (await anext(chunks)).usage is None
        asking = asyncio.create_task(workflow.ainference(given.peer.ask))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await workflow.ainference(given.peer.ask)).text


async def keeps_the_callers_time(given: Given) -> None:
    async with _asking(given) as workflow:
        with working_for(CallContext("request-1", time.monotonic() - 1)):
            with pytest.raises(DeadlineExceeded):
                await workflow.ainference(given.peer.ask)
            with pytest.raises(DeadlineExceeded):
                await _streamed(workflow, given.peer.ask)


async def tells_nobody_its_key(given: Given) -> None:
    """Sent to who does not ask for one, or for another, it is in no log and no error."""
    given.log.set_level(logging.DEBUG)
    (given.folder / "key").write_text(KEY)
    async with _asking(given, key=SecretRef(file=str(given.folder / "key"))) as workflow:
        outcomes = await asyncio.gather(
            workflow.ainference(given.peer.ask), _streamed(workflow, given.peer.ask), return_exceptions=True
        )
        assert KEY not in repr([vars(each) for each in outcomes if isinstance(each, Exception)])
        assert KEY not in workflow.card("m").model_dump_json()
    assert KEY not in given.log.text


async def is_a_workflow_like_any_other(given: Given) -> None:
    if not given.peer.ours:
        pytest.skip("the kit asks too often for a server that is slow")
    other = {**given.peer.ask, "prompt": "A class"}
    if "messages" in given.peer.ask:
        other = {**given.peer.ask, "messages": [{"role": "user", "content": "A class"}]}
    await asyncio.to_thread(check_workflow, given.peer.make(given.address), given.peer.ask, more=[other])


CHECKS: Final[list[Check]] = [
    says_the_same_whole_and_in_pieces,
    counts_what_it_took,
    ends_before_a_stop_string,
    refuses_what_is_too_long,
    does_not_find_another_model,
    answers_many_at_once,
    can_be_left_at_any_time,
    keeps_the_callers_time,
    tells_nobody_its_key,
    is_a_workflow_like_any_other,
]
