"""Who answers in place of a workflow that cannot, seen from outside: headers, streams, metrics and the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.router.directory import State
from deployments.router.keys import Key, Keys, mint_key
from tests.router.openai_house import CHAT, events
from tests.router.router_front import Front, ScriptedClient, Visit
from tests.router.test_counting import samples
from workflows.card import Preserved
from workflows.context import CallContext
from workflows.errors import (
    BadOutput,
    ContextTooLong,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    NotReady,
    Overloaded,
    RateLimited,
    ReplicaLost,
    Unloaded,
    Unsupported,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
)

NATIVE = "/v1/workflows/api/inference"
STREAM = "/v1/workflows/api/stream"
ASKED = {"messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
LONG = Preserved(context_length=4096)


class Writer(ScriptedClient):
    """Says its own name in two chunks, or raises: at once, or after the first chunk."""

    def __init__(self, name: str) -> None:
        super().__init__(self.whole, self.pieces)
        self.name = name
        self.error: WorkflowError | None = None
        self.late = False

    async def whole(self, input_data: Any, call: CallContext) -> Any:
        if self.error is not None:
            raise self.error
        return {"text": self.name, "finish_reason": "stop", "usage": USAGE}

    async def pieces(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        if self.error is not None and not self.late:
            raise self.error
        yield [{"text": self.name, "finish_reason": None, "usage": None}]
        if self.error is not None:
            raise self.error
        yield [{"text": "!", "finish_reason": "stop", "usage": USAGE}]


class House(Front):
    """`api` falls back on `second` and then on `local`."""

    def __init__(self, keys: Keys | None = None, **args: Any) -> None:
        super().__init__(keys, **args)
        self.api, self.second, self.local = (self.writer(name) for name in ("api", "second", "local"))
        self.tell("api", fallbacks=["second", "local"])

    def writer(self, name: str) -> Writer:
        made = Writer(name)
        self.add(name, made, kind="generate")
        self.tell(name, preserves=LONG)
        return made

    def tell(self, name: str, **told: Any) -> None:
        entry = self.directory.find(name)
        assert entry.card is not None
        entry.card = entry.card.model_copy(update=told)

    def stand(self, name: str, state: State) -> None:
        self.directory.find(name).state = state

    def falls(self) -> dict[tuple[str, ...], float]:
        found = samples(self.metrics.exposition().decode())
        return {labels: value for (name, labels), value in found.items() if name == "infernet_fallbacks_total"}


async def test_who_has_answered_is_told() -> None:
    house = House()
    answer = await house.post(NATIVE, ASKED)
    assert (answer.json()["text"], answer.headers["x-served-by"]) == ("api", "api")
    assert "x-degraded" not in answer.headers
    assert house.falls() == {}
    assert "x-served-by" not in (await house.get("/v1/models")).headers


@pytest.mark.parametrize(
    "error", [UpstreamFailed, UpstreamSilent, Overloaded, ReplicaLost, NotReady, Unloaded, RateLimited]
)
async def test_another_answers_where_the_workflow_cannot(error: type[WorkflowError]) -> None:
    house = House()
    house.api.error = error()
    answer = await house.post(NATIVE, ASKED)
    assert (answer.status_code, answer.json()["text"]) == (200, "second")
    assert (answer.headers["x-served-by"], answer.headers["x-degraded"]) == ("second", "true")
    assert house.falls() == {("second", "api"): 1}
    assert (house.lines.last["workflow"], house.lines.last["served_by"]) == ("api", ["second"])


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidInput, 400), (ContextTooLong, 400), (Unsupported, 400), (BadOutput, 500), (DeadlineExceeded, 504)],
)
@pytest.mark.parametrize("path", [NATIVE, STREAM])
async def test_nobody_else_is_asked_for_what_is_no_outage(error: type[WorkflowError], status: int, path: str) -> None:
    house = House()
    house.api.error = error()
    answer = await house.post(path, ASKED)
    assert answer.status_code == status
    assert not house.second.calls
    assert "x-served-by" not in answer.headers


async def test_the_ladder_is_gone_down_to_its_end() -> None:
    house = House()
    house.api.error, house.second.error = UpstreamFailed(), UpstreamFailed()
    answer = await house.post(NATIVE, ASKED)
    assert (answer.headers["x-served-by"], house.falls()) == ("local", {("local", "api"): 1})
    house.local.error = Overloaded()
    answer = await house.post(NATIVE, ASKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream")  # as the one that was asked said
    assert "x-served-by" not in answer.headers


@pytest.mark.parametrize("error", [Unsupported("no tools", param="tools"), BadOutput(), ModelNotFound()])
async def test_what_a_fallback_cannot_do_is_not_the_callers_fault(error: WorkflowError) -> None:
    house = House()
    house.api.error, house.second.error = UpstreamFailed(), error
    assert (await house.post(NATIVE, ASKED)).headers["x-served-by"] == "local"
    house.local.error = error
    assert (await house.post(NATIVE, ASKED)).json()["error"]["code"] == "upstream"


async def test_a_fallbacks_own_fallbacks_are_not_asked() -> None:
    house = House()
    house.tell("api", fallbacks=["second"])
    house.tell("second", fallbacks=["local"])
    house.api.error, house.second.error = UpstreamFailed(), UpstreamFailed()
    assert (await house.post(NATIVE, ASKED)).status_code == 502
    assert not house.local.calls


@pytest.mark.parametrize("path", [NATIVE, STREAM])
async def test_nothing_is_left_of_a_caller_that_leaves_in_mid_fall(path: str) -> None:
    house = House()
    house.api.error = UpstreamFailed()
    asked, ended = asyncio.Event(), asyncio.Event()

    async def never(*asked_with: Any) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def no_chunk(input_data: Any) -> AsyncGenerator[list[Any]]:
        await never()
        yield []

    house.second.answer, house.second.chunks = never, no_chunk
    visit = Visit(house.app, "POST", path, ASKED)
    running = visit.start()
    async with asyncio.timeout(5):
        await asked.wait()
        visit.leave()
        await running
        await ended.wait()
    assert not house.local.calls
    assert house.falls() == {}
    assert json.loads(house.lines.texts[-1])["code"] == "cancelled"


async def test_a_workflow_under_two_names_is_asked_once() -> None:
    house = House()
    house.tell("second", aliases=["other"])
    house.tell("api", fallbacks=["second", "other", "local"])
    house.api.error, house.second.error = UpstreamFailed(), UpstreamFailed()
    assert (await house.post(NATIVE, ASKED)).headers["x-served-by"] == "local"
    assert len(house.second.calls) == 1


# ---- who is passed over ------------------------------------------------------------------------------------------------


async def test_a_key_reaches_no_workflow_that_it_does_not_cover() -> None:
    secret, stored = mint_key("team", workflows=["api", "local"])
    house = House(Keys([stored]))
    house.api.error = UpstreamFailed()
    answer = await house.post(NATIVE, ASKED, headers={"x-api-key": secret})
    assert answer.headers["x-served-by"] == "local"
    assert not house.second.calls
    alone, key = mint_key("alone", workflows=["api"])
    house = House(Keys([key]))
    house.api.error = UpstreamFailed()
    assert (await house.post(NATIVE, ASKED, headers={"x-api-key": alone})).status_code == 502


async def test_what_is_away_is_passed_over() -> None:
    house = House()
    house.api.error = UpstreamFailed()
    house.stand("second", "failed")
    assert (await house.post(NATIVE, ASKED)).headers["x-served-by"] == "local"


@pytest.mark.parametrize("state", ["loading", "failed", "stopping", "unloaded"])
async def test_nobody_waits_for_what_is_away(state: State) -> None:
    house = House()
    house.stand("api", state)
    for path in (NATIVE, STREAM):
        assert (await house.post(path, ASKED)).headers["x-served-by"] == "second"
    assert not house.api.calls
    house.second.error = house.local.error = UpstreamFailed()
    assert (await house.post(NATIVE, ASKED)).headers["x-served-by"] == "api"  # it may be back by now


async def test_a_workflow_that_keeps_to_something_else_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.tell("second", preserves=Preserved(context_length=1))
    house.api.error = UpstreamFailed()
    assert (await house.post(NATIVE, ASKED)).headers["x-served-by"] == "local"
    assert "api does not fall back on second" in caplog.text


# ---- streams -------------------------------------------------------------------------------------------------------------


async def test_a_stream_that_has_not_begun_is_another_ones() -> None:
    house = House()
    house.api.error, house.second.error = UpstreamFailed(), Overloaded()
    answer = await house.post(CHAT, {**ASKED, "model": "api", "stream": True})
    assert (answer.headers["x-served-by"], answer.headers["x-degraded"]) == ("local", "true")
    told = events(answer.text)
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in told) == "local!"
    assert {event["model"] for event in told} == {"api"}  # as it was asked
    assert house.falls() == {("local", "api"): 1}
    found = samples(house.metrics.exposition().decode())
    assert found["infernet_tokens_total", ("completion", "anyone", "local")] == 2
    assert not found.get(("infernet_tokens_total", ("completion", "anyone", "api")))


async def test_a_stream_of_nothing_is_an_answer_of_whoever_gave_it() -> None:
    async def nothing(input_data: Any) -> AsyncGenerator[list[Any]]:
        for group in list[list[Any]]():
            yield group

    house = House()
    house.api.error = UpstreamFailed()
    house.second.chunks = nothing
    answer = await house.post(STREAM, ASKED)
    assert (answer.headers["x-served-by"], answer.headers["x-degraded"]) == ("second", "true")
    assert house.falls() == {("second", "api"): 1}


async def test_a_fallback_that_is_not_known_yet_is_woken_and_passed_over() -> None:
    house, woken = House(), asyncio.Event()
    second = house.directory.find("second")
    second.card, second.wake = None, woken.set
    house.api.error = UpstreamFailed()
    answer = await house.post(NATIVE, ASKED)
    assert (answer.json()["text"], answer.headers["x-served-by"]) == ("local", "local")
    assert woken.is_set()


@pytest.mark.parametrize(
    ("path", "more"),
    [("/tgi/api/generate", {}), ("/tgi/api/generate_stream", {}), ("/hf/api", {}), ("/hf/api", {"stream": True})],
)
async def test_other_protocols_tell_who_has_answered_as_well(path: str, more: dict[str, Any]) -> None:
    house = House()
    house.api.error = UpstreamFailed()
    answer = await house.post(path, {"inputs": "hi", **more})
    assert (answer.status_code, answer.headers["x-served-by"], answer.headers["x-degraded"]) == (200, "second", "true")
    assert "second" in answer.text


@pytest.mark.parametrize("path", [NATIVE, STREAM])
async def test_a_fallback_that_goes_in_mid_fall_is_passed_over(path: str) -> None:
    house = House()

    async def goes(input_data: Any, call: CallContext) -> Any:
        house.directory.remove("second")
        raise UpstreamFailed()

    async def goes_in_stream(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield await goes(input_data, CallContext())

    house.api.answer, house.api.chunks = goes, goes_in_stream
    answer = await house.post(path, ASKED)
    assert (answer.status_code, answer.headers["x-served-by"]) == (200, "local")
    house.directory.remove("local")
    assert (await house.post(path, ASKED)).status_code == 502


async def test_a_stream_that_has_begun_ends_where_it_breaks() -> None:
    house = House()
    house.api.error, house.api.late = UpstreamFailed(), True
    answer = await house.post(CHAT, {**ASKED, "model": "api", "stream": True})
    assert answer.headers["x-served-by"] == "api"
    assert '"code":"upstream_error"' in answer.text
    assert "[DONE]" not in answer.text
    assert not house.second.calls
    assert house.falls() == {}


async def test_several_answers_may_be_of_several_workflows() -> None:
    house = House()
    gone = iter([None, UpstreamFailed(), None])
    whole = house.api.whole

    async def one_fails(input_data: Any, call: CallContext) -> Any:
        house.api.error = next(gone)
        return await whole(input_data, call)

    house.api.answer = one_fails
    answer = await house.post(CHAT, {**ASKED, "model": "api", "n": 3})
    assert [choice["message"]["content"] for choice in answer.json()["choices"]] == ["api", "second", "api"]
    assert set(answer.headers["x-served-by"].split(", ")) == {"api", "second"}
    assert answer.headers["x-degraded"] == "true"
    found = samples(house.metrics.exposition().decode())
    assert found["infernet_tokens_total", ("prompt", "anyone", "api")] == 6
    assert found["infernet_tokens_total", ("prompt", "anyone", "second")] == 3


async def test_no_fallback_outlives_the_deadline() -> None:
    house = House()
    house.api.error = UpstreamFailed()
    hang = asyncio.Event()

    async def never(input_data: Any, call: CallContext) -> Any:
        await hang.wait()

    house.second.answer = never
    answer = await house.post(NATIVE, ASKED, headers={"x-deadline-s": "0.05"})
    assert answer.status_code == 504
    assert not house.local.calls
    (call,) = house.second.calls
    assert call.deadline == house.api.calls[0].deadline


# ---- tokens --------------------------------------------------------------------------------------------------------------


async def test_tokens_are_counted_by_key() -> None:
    secrets, stored = zip(*(mint_key(name) for name in ("team-a", "team-b")), strict=True)
    keys: list[Key] = list(stored)
    house = House(Keys(keys))
    for secret, path in ((secrets[0], NATIVE), (secrets[0], STREAM), (secrets[1], NATIVE)):
        assert (await house.post(path, ASKED, headers={"x-api-key": secret})).status_code == 200
    found = samples(house.metrics.exposition().decode())
    counted = {labels: value for (name, labels), value in found.items() if name == "infernet_tokens_total" and value}
    assert counted == {
        ("prompt", "team-a", "api"): 6,
        ("completion", "team-a", "api"): 4,
        ("prompt", "team-b", "api"): 3,
        ("completion", "team-b", "api"): 2,
    }


async def test_what_had_come_is_counted_of_a_stream_that_is_left() -> None:
    house = House()
    waiting = asyncio.Event()

    async def slow(input_data: Any) -> AsyncGenerator[list[Any]]:
        for text in ("a", "b"):
            yield [{"text": text, "finish_reason": None, "usage": None}]
        waiting.set()
        await asyncio.Event().wait()

    house.api.chunks = slow
    visit = Visit(house.app, "POST", STREAM, ASKED)
    running = visit.start()
    async with asyncio.timeout(5):
        await waiting.wait()
        visit.leave()
        await running
    found = samples(house.metrics.exposition().decode())
    assert found["infernet_tokens_total", ("cut", "anyone", "api")] == 2
    assert found["infernet_tokens_total", ("completion", "anyone", "api")] == 0
    assert json.loads(house.lines.texts[-1])["code"] == "cancelled"
