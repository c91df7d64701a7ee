"""What a TGI server is asked before there are callers, what it says of itself, and what an operator may say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.remote.faulty_upstream import Exchange, FaultyUpstream, Step, answer
from tests.workflows.tgi_client.tgi_dialects import tgi_whole
from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.tgi_client.settings import RetryParams, policy_of
from workflows.inference.tgi_client.workflow import TGIClientInferenceWorkflow
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

INFO = {
    "model_id": "acme/model",
    "max_total_tokens": 100,
    "max_input_tokens": 60,
    "max_stop_sequences": 2,
    "max_best_of": 2,
    "version": "3.3.4",
    "sha": None,
}


def server(info: Any, *, health: int = 200) -> Step:
    """A server that is asked how it is, then what it takes, then for text."""

    async def step(exchange: Exchange) -> None:
        path = exchange.asked.target
        if path == "/health":
            await answer(health)(exchange)
        elif path == "/info":
            await (answer(404) if info is None else answer(200, info))(exchange)
        else:
            await answer(200, tgi_whole())(exchange)

    return step


@asynccontextmanager
async def asking(step: Step, **options: Any) -> AsyncGenerator[tuple[TGIClientInferenceWorkflow, FaultyUpstream]]:
    async with FaultyUpstream() as upstream:
        upstream.plays(step)
        workflow = await TGIClientInferenceWorkflow(upstream.url, **options).asetup()
        try:
            yield workflow, upstream
        finally:
            await workflow.ateardown()


async def test_setup_asks_how_the_server_is_and_generates_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary")
    async with asking(server(INFO), key=SecretRef(file=str(tmp_path / "key"))) as (workflow, upstream):
        assert [(each.method, each.target) for each in upstream.asked] == [("GET", "/health"), ("GET", "/info")]
        assert all(each.headers["authorization"] == "Bearer canary" for each in upstream.asked)
        card = workflow.card("m")
        assert (card.kind, card.model, card.context_tokens, card.streams) == ("generate", "acme/model", 100, True)


@pytest.mark.parametrize(
    ("told", "model", "context"),
    [
        ({**INFO, "model_id": "/data/models/acme"}, "acme", 100),
        ({"model_id": "a", "max_input_length": 8}, "a", None),
        ({"max_total_tokens": "many"}, None, None),
        ([], None, None),
        (None, None, None),
    ],
)
async def test_a_server_that_says_less_is_asked_all_the_same(told: Any, model: str | None, context: int | None) -> None:
    async with asking(server(told)) as (workflow, _):
        card = workflow.card("m")
        assert (card.model, card.context_tokens) == (model, context)
        assert (await workflow.ainference({"prompt": "hi"})).finish_reason == "length"


async def test_what_the_operator_calls_the_model_is_shown() -> None:
    async with asking(server(INFO), model="ours") as (workflow, _):
        assert workflow.card("m").model == "ours"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"sampling": {"stop": ["a", "b", "c"]}}, "sampling.stop"),
        ({"sampling": {"max_tokens": 100}}, "sampling.max_tokens"),
        ({"truncate": 61}, "truncate"),
    ],
)
async def test_what_the_server_says_that_it_refuses_is_not_sent(asked: dict[str, Any], param: str) -> None:
    async with asking(server(INFO)) as (workflow, upstream):
        with pytest.raises(InvalidInput, match=f"^{param}: the upstream takes at most") as caught:
            await workflow.ainference({"prompt": "hi", **asked})
        assert caught.value.param == param
        assert len(upstream.asked) == 2
        await workflow.ainference({"prompt": "hi", "truncate": 60, "sampling": {"max_tokens": 99}})
        assert len(upstream.asked) == 3


async def test_who_says_no_length_gets_no_more_than_the_server_has() -> None:
    async with asking(server(INFO)) as (workflow, upstream):
        await workflow.ainference({"prompt": "hi"})
        assert upstream.asked[-1].json()["parameters"]["max_new_tokens"] == 99


@pytest.mark.parametrize("health", [503, 500, 404])
async def test_a_server_that_is_not_well_is_no_workflow(health: int) -> None:
    async with FaultyUpstream() as upstream:
        upstream.plays(server(INFO, health=health))
        workflow = TGIClientInferenceWorkflow(upstream.url)
        with pytest.raises(WorkflowError, match=r"^server_url: the server says that it is not well"):
            await workflow.asetup()
        assert not workflow.is_setup
        await upstream.until(lambda seen: seen.connections == 0)
        upstream.plays(server(INFO))
        await workflow.asetup()
        await workflow.ateardown()


async def test_a_server_that_is_not_there_is_no_workflow_unless_it_may_come_later() -> None:
    async with FaultyUpstream() as upstream:
        url = upstream.url
    with pytest.raises(WorkflowError, match=r"^server_url: no answer from /health: ConnectError"):
        await TGIClientInferenceWorkflow(url).asetup()
    workflow = await TGIClientInferenceWorkflow(url, ask_at_setup=False).asetup()
    await workflow.ateardown()


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://", "http://user@127.0.0.1:1", "http://127.0.0.1/?a=b"])
def test_an_address_is_one(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^server_url: ") as caught:
        TGIClientInferenceWorkflow(url)
    assert caught.value.param == "server_url"


# ---- patience, as the predecessor had it -----------------------------------------------------------------------------------


def test_retry_parameters_of_old_mean_a_policy() -> None:
    said = policy_of(None, 30, RetryParams.model_validate({"tries": 5, "delay": 2, "max_delay": 20}))
    assert (said.first_byte_s, said.between_tokens_s) == (30.0, 30.0)
    assert (said.attempts, said.backoff_s, said.backoff_max_s) == (5, 2.0, 20.0)
    assert policy_of(None, None, RetryParams(delay=9, max_delay=1)).backoff_max_s == 9.0
    assert policy_of(None, None, None) == UpstreamPolicy()


@pytest.mark.parametrize("old", [{"timeout": 30.0}, {"retry_params": RetryParams()}])
def test_patience_is_said_in_one_way_only(old: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="upstream says this, and more"):
        TGIClientInferenceWorkflow("http://127.0.0.1:1", upstream=UpstreamPolicy(), **old)


@pytest.mark.parametrize("field", ["backoff", "jitter", "exceptions"])
def test_retry_parameters_that_have_no_meaning_any_more_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        RetryParams.model_validate({field: 1})
