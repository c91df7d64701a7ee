"""Who is asked, for whom and with which key; and an upstream that is still loading its model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import _common as providers
from huggingface_hub.inference._providers import get_provider_helper

from tests.workflows.remote.contract_upstream import quiescence
from tests.workflows.remote.faulty_upstream import FaultyUpstream, answer, parts, silence
from tests.workflows.remote.hand_clock import HandClock
from tests.workflows.tgi_client.tgi_dialects import chat_whole, tgi_events, tgi_whole
from workflows.batch import working_for
from workflows.context import CallContext
from workflows.errors import InvalidInput, ModelNotFound, NotReady, UpstreamFailed, UpstreamSilent, WorkflowError
from workflows.inference.hf_client.connection import OF_A_PROVIDER, OF_THE_HUB
from workflows.inference.hf_client.providers import addresses
from workflows.inference.hf_client.workflow import HFInferenceClientWorkflow
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
PROMPT = {"prompt": "hi"}
LOADING = answer(503, {"error": "Model acme/m is currently loading", "estimated_time": 20.0})
KEY = "hf_canary"


@pytest.fixture
def key(tmp_path: Path) -> SecretRef:
    file = tmp_path / "key"
    file.write_text(KEY)
    return SecretRef(file=str(file))


@asynccontextmanager
async def asking(workflow: HFInferenceClientWorkflow) -> AsyncGenerator[HFInferenceClientWorkflow]:
    await workflow.asetup()
    try:
        yield workflow
    finally:
        await workflow.ateardown()


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[FaultyUpstream]:
    """The way by which Hugging Face asks providers, and what it knows of two models there."""
    async with FaultyUpstream() as upstream:
        monkeypatch.setattr("huggingface_hub.constants.INFERENCE_PROXY_TEMPLATE", upstream.url + "/{provider}")
        for provider, model, task in (
            *(("groq", "acme/one", "conversational"), ("groq", "acme/two", "conversational")),
            *(("together", "acme/draws", "text-to-image"), ("replicate", "acme/draws", "text-to-image")),
        ):
            mapped = InferenceProviderMapping(
                provider=provider, hf_model_id=model, providerId=f"{model}-there", status="live", task=task
            )
            monkeypatch.setitem(providers.HARDCODED_MODEL_INFERENCE_MAPPING.setdefault(provider, {}), model, mapped)
        upstream.plays(answer(200, chat_whole()))
        yield upstream


# ---- providers -----------------------------------------------------------------------------------------------------------


async def test_a_provider_is_asked_by_way_of_the_hub(hub: FaultyUpstream, key: SecretRef) -> None:
    workflow = HFInferenceClientWorkflow(
        "conversational", provider="groq", model="acme/one", models=["acme/two"], key=key, bill_to="acme"
    )
    async with asking(workflow):
        await workflow.ainference(CHAT)
        await workflow.ainference({**CHAT, "model": "acme/two"})
        with pytest.raises(ModelNotFound):
            await workflow.ainference({**CHAT, "model": "acme/three"})
        assert workflow.card("m").model == "acme/one"
        assert "model" in workflow.card("m").input_schema["properties"]
    first, second = hub.asked
    assert first.target == second.target == "/groq/openai/v1/chat/completions"
    assert (first.json()["model"], second.json()["model"]) == ("acme/one-there", "acme/two-there")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.headers["x-hf-bill-to"] == "acme"


def test_a_providers_own_key_goes_to_the_provider_itself(hub: FaultyUpstream) -> None:
    def at(key: str) -> str:
        return addresses(get_provider_helper, "groq", "conversational", ["acme/one"], key, media=False)

    assert at(OF_A_PROVIDER) == "https://api.groq.com"
    assert at(OF_THE_HUB) == hub.url


async def test_a_picture_comes_from_a_provider_that_gives_files(hub: FaultyUpstream, key: SecretRef) -> None:
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    hub.plays(answer(200, {"data": [{"b64_json": picture}]}))
    options: dict[str, Any] = {"model": "acme/draws", "key": key}
    async with asking(HFInferenceClientWorkflow("text-to-image", provider="together", **options)) as workflow:
        got = await workflow.ainference({"prompt": "a cat", "num_inference_steps": 3})
    assert json.loads(got.model_dump_json()) == {"image": picture, "media_type": "image/png"}
    assert hub.asked[0].json()["steps"] == 3
    with pytest.raises(InvalidInput, match="provider: replicate gives addresses of files"):
        await HFInferenceClientWorkflow("text-to-image", provider="replicate", **options).asetup()


@pytest.mark.parametrize(
    ("provider", "model", "says"),
    [
        ("groq", "acme/three", "the hub does not say who serves acme/three"),  # nobody may ask it, in tests
        ("nobody", "acme/one", "model: the hub knows of no way to ask acme/one for conversational at nobody"),
    ],
)
async def test_a_model_that_nobody_serves_never_becomes_ready(
    hub: FaultyUpstream, key: SecretRef, provider: str, model: str, says: str
) -> None:
    workflow = HFInferenceClientWorkflow("conversational", provider=provider, model=model, key=key)
    with pytest.raises(WorkflowError, match=says):
        await workflow.asetup()
    assert not hub.asked


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"task": "conversational"}, "base_url"),
        ({"task": "conversational", "base_url": "http://127.0.0.1:1", "provider": "groq"}, "base_url"),
        ({"task": "conversational", "base_url": "ftp://127.0.0.1:1"}, "base_url"),
        ({"task": "conversational", "base_url": "http://user:word@127.0.0.1:1"}, "base_url"),
        ({"task": "conversational", "base_url": "http://example.com", "key": SecretRef(env="X")}, "base_url"),
        ({"task": "conversational", "provider": "groq", "key": SecretRef(env="X")}, "model"),
        ({"task": "conversational", "provider": "groq", "model": "acme/one"}, "key"),
        ({"task": "text-generation", "provider": "groq", "model": "a", "key": SecretRef(env="X")}, "task"),
        ({"task": "fill-mask", "base_url": "http://127.0.0.1:1", "models": ["a"]}, "models"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        HFInferenceClientWorkflow(**options)
    assert caught.value.param == param
    assert caught.value.message.partition(":")[0].split(",")[0] == param


async def test_only_a_token_of_the_hub_is_billed_to_others(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("canary")
    key = SecretRef(file=str(tmp_path / "own"))
    workflow = HFInferenceClientWorkflow("fill-mask", base_url="http://127.0.0.1:1", key=key, bill_to="acme")
    with pytest.raises(InvalidInput, match="bill_to"):
        await workflow.asetup()


async def test_the_machines_own_token_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    async with FaultyUpstream() as upstream:
        upstream.plays(answer(200, chat_whole()))
        async with asking(HFInferenceClientWorkflow("conversational", base_url=upstream.url)) as workflow:
            await workflow.ainference(CHAT)
        (request,) = upstream.asked
    assert "authorization" not in request.headers
    assert request.json()["model"] == "dummy"
    assert request.headers["user-agent"] == "infernet-serve"


# ---- loading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_that_is_being_loaded_is_waited_for(streamed: bool) -> None:
    clock = HandClock(sleepless=True)
    async with FaultyUpstream() as upstream:
        good = parts(tgi_events()) if streamed else answer(200, tgi_whole())
        upstream.plays(LOADING, answer(503, {"error": "loading", "estimated_time": 0}), good)
        workflow = HFInferenceClientWorkflow("text-generation", base_url=upstream.url)
        workflow.clock = clock
        async with asking(workflow):
            if streamed:
                assert [chunk async for chunk in workflow.astream(PROMPT)][-1].finish_reason == "length"
            else:
                assert getattr(await workflow.ainference(PROMPT), "finish_reason", None) == "length"
        assert len(upstream.asked) == 3
    assert clock.slept == [10.0, 0.5]  # not all of the 20 s that it takes at most: it may be there sooner


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("waits", "left"), [(False, None), (True, 10.0), (True, None)])
async def test_who_has_no_time_to_wait_hears_when_to_come_back(streamed: bool, waits: bool, left: float | None) -> None:
    """With no limit of the caller's, that of the policy holds."""
    upstream_policy = UpstreamPolicy(total_s=15.0)
    call = CallContext("request-1", None if left is None else time.monotonic() + left)
    async with FaultyUpstream() as upstream:
        upstream.plays(LOADING)
        workflow = HFInferenceClientWorkflow(
            "text-generation", base_url=upstream.url, wait_for_model=waits, upstream=upstream_policy
        )
        workflow.clock = HandClock()
        async with asking(workflow):
            asking_for = anext(workflow.astream(PROMPT)) if streamed else workflow.ainference(PROMPT)
            with working_for(call), pytest.raises(NotReady) as caught:
                await asking_for
        assert len(upstream.asked) == 1
    assert caught.value.retry_after_s == 20.0
    assert "acme" not in caught.value.message


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_that_has_waited_has_no_more_time_than_others(streamed: bool) -> None:
    clock, policy = HandClock(), UpstreamPolicy(total_s=25.0, first_byte_s=24.0)
    async with FaultyUpstream() as upstream:
        upstream.plays(LOADING, silence)
        workflow = HFInferenceClientWorkflow("text-generation", base_url=upstream.url, upstream=policy)
        workflow.clock = clock
        async with asking(workflow):
            asking_for = anext(workflow.astream(PROMPT)) if streamed else workflow.ainference(PROMPT)
            waiting = asyncio.ensure_future(asking_for)
            await clock.until_asleep()
            clock.advance(10.0)
            await upstream.until(lambda seen: len(seen.asked) == 2)
            await quiescence()
            clock.advance(15.0)
            await quiescence()
            assert waiting.done()
            with pytest.raises(UpstreamSilent):
                await waiting


@pytest.mark.parametrize("told", [None, "20", True, -1, float("inf"), [20]])
async def test_a_503_that_tells_no_time_is_a_failure_like_others(told: Any) -> None:
    async with FaultyUpstream() as upstream:
        upstream.plays(answer(503, {"error": "no", "estimated_time": told}))
        async with asking(HFInferenceClientWorkflow("text-generation", base_url=upstream.url)) as workflow:
            with pytest.raises(WorkflowError, match="the upstream model failed"):
                await workflow.ainference(PROMPT)


@pytest.mark.parametrize("asked", [PROMPT, CHAT], ids=["prompt", "chat"])
async def test_a_whole_answer_in_place_of_a_stream_is_none_and_is_not_asked_for_again(asked: Any) -> None:
    async with FaultyUpstream() as upstream:
        upstream.plays(answer(200, tgi_whole()))
        async with asking(HFInferenceClientWorkflow("text-generation", base_url=upstream.url)) as workflow:
            with pytest.raises(UpstreamFailed, match="cannot be read"):
                await anext(workflow.astream(asked))
        assert len(upstream.asked) == 1


async def test_a_stream_without_a_last_token_has_broken_off() -> None:
    async with FaultyUpstream() as upstream:
        upstream.plays(parts(tgi_events()[:-1]))
        async with asking(HFInferenceClientWorkflow("text-generation", base_url=upstream.url)) as workflow:
            stream: Any = workflow.astream(PROMPT)
            assert (await anext(stream)).text
            with pytest.raises(UpstreamFailed, match="broke off"):
                await anext(stream)
