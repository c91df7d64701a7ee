"""What an operator says: what is refused before anything is asked, which models may be named, and what stays out."""

from __future__ import annotations

from typing import Any, Final

import pytest

from deployments.building import ConfigError, build_workflow, check_workflow
from deployments.config import WorkflowArgs
from tests.workflows.css.played import asked_for, played
from tests.workflows.remote.contract_upstream import KEY
from tests.workflows.remote.faulty_upstream import answer
from workflows.errors import InvalidInput, ModelNotFound, Unsupported, WorkflowError
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.remote.secret import SecretRef

HI: Final = {"messages": [{"role": "user", "content": "hi"}]}
TOLD: Final = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}


def args(**options: Any) -> WorkflowArgs:
    return WorkflowArgs(workflow="workflows.CSSInferenceWorkflow", options=options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"provider": "nobody", "model": "m"}, "args.options.provider: Input should be"),
        ({"provider": "openai", "model": "m"}, "key: openai answers nobody without a key"),
        ({"provider": "openai", "model": "m", "key": KEY}, "args.options.key"),
        ({"provider": "openai", "model": "m", "key": {"env": "K"}, "endpoint": "speech2"}, "args.options.endpoint"),
        ({"provider": "groq", "model": "m", "key": {"env": "K"}, "endpoint": "embeddings"}, "groq has no embeddings"),
        ({"provider": "azure", "model": "m", "key": {"env": "K"}, "api_version": "2024-10-21"}, "base_url: azure"),
        ({"provider": "azure", "model": "m", "key": {"env": "K"}, "base_url": "https://x"}, "api_version: azure needs"),
        ({"provider": "groq", "model": "m", "key": {"env": "K"}, "api_version": "1"}, "api_version: groq has no"),
        ({"provider": "openai-compatible", "model": "m"}, "base_url: openai-compatible"),
        ({"provider": "openai-compatible", "model": "m", "base_url": "ftp://x"}, "base_url: give http"),
        ({"provider": "openai-compatible", "model": "m", "base_url": "http://u:p@x"}, "base_url: give http"),
        ({"provider": "openai-compatible", "model": "m", "base_url": "http://[x"}, "base_url: give http"),
        (
            {"provider": "openai", "model": "m", "key": {"env": "K"}, "base_url": "http://example.org/v1"},
            "would go to example.org for everybody to read",
        ),
        (
            {"provider": "openai-compatible", "model": "m", "base_url": "http://x", "parameters": {"nothing": "x"}},
            "args.options.parameters.nothing",
        ),
        ({"provider": "openai-compatible", "model": "m", "base_url": "http://x", "tokenizer": "/nowhere"}, "nowhere"),
        (
            {"provider": "openai-compatible", "model": "m", "base_url": "http://x", "upstream": {"attempt": 2}},
            "attempt",
        ),
    ],
)
def test_what_cannot_work_is_said_by_check(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")) as caught:
        check_workflow(args(**options))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/v1", "http://localhost:1", "http://[::1]:1", "https://example.org"]
)
def test_a_key_may_go_to_this_machine_or_in_secret(url: str) -> None:
    check_workflow(args(provider="openai-compatible", model="m", base_url=url, key={"env": "K"}))


def test_an_upstream_without_a_key_may_be_anywhere() -> None:
    made = build_workflow(args(provider="openai-compatible", model="m", base_url="http://example.org:8000/v1"))
    assert made.card("m").kind == "generate"


@pytest.mark.parametrize(
    ("options", "tells"),
    [
        ({}, False),
        ({"tokenizer": "tiny_gpt"}, True),
        ({"tokenizer": "tiny_gpt", "parameters": {"top_logprobs": "refused"}}, False),
        ({"tokenizer": "tiny_gpt", "parameters": {"top_logprobs": "dropped"}}, False),
        ({"tokenizer": "tiny_gpt", "endpoint": "embeddings"}, False),
    ],
)
def test_the_card_says_whether_tokens_are_told_with_their_ids(options: dict[str, Any], tells: bool) -> None:
    made = CSSInferenceWorkflow("openai-compatible", "m", base_url="http://x", root="package:workflows.demo", **options)
    assert made.card("m").tells_tokens is tells


async def test_a_missing_key_fails_the_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    workflow = CSSInferenceWorkflow("openai", "m", key=SecretRef(env="NO_SUCH_KEY"))
    with pytest.raises(WorkflowError, match="no key: the variable NO_SUCH_KEY is empty"):
        await workflow.asetup()
    assert not workflow.is_setup


async def test_only_models_that_the_operator_allows() -> None:
    async with played(answer(200, TOLD), models=["other"]) as (workflow, upstream):
        await workflow.ainference(HI)
        await workflow.ainference({**HI, "model": "other"})
        with pytest.raises(ModelNotFound) as caught:
            await workflow.ainference({**HI, "model": "third"})
        assert caught.value.param == "model"
        assert [request.json()["model"] for request in upstream.asked] == ["m", "other"]


async def test_what_the_libraries_find_in_the_environment_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, key: SecretRef
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "canary-of-the-environment")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Canary: canary-of-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.org")
    for provider in ("openai", "anthropic"):
        async with played(answer(404), provider=provider, key=key) as (workflow, upstream):
            with pytest.raises(ModelNotFound):
                await workflow.ainference(HI)
            (request,) = upstream.asked
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert "canary-of-the-environment" not in str(request.headers)


# ---- the predecessor's form ---------------------------------------------------------------------------------------------


def old(**more: Any) -> dict[str, Any]:
    params = {"messages": [{"role": "user", "content": "hi"}]}
    return {"provider": "OPENAI", "endpoint": "completions", "model": "m", "params": params, **more}


async def test_a_request_of_the_predecessor(key: SecretRef) -> None:
    extra = {"temperature": 0.5, "stop": "end"}
    asked = old(extra_args=extra, stream=True, api_keys={"OPENAI": None})
    given, sent = await asked_for(TOLD, asked, provider="openai", key=key)
    assert given.text == "x"
    assert sent == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "stop": ["end"]}


async def test_an_embedding_as_the_predecessor_asks_for_it(key: SecretRef) -> None:
    asked = old(endpoint="embeddings", params={"input": "hi"})
    told = {"data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 1}}
    given, sent = await asked_for(told, asked, provider="openai", endpoint="embeddings", key=key)
    assert given.embedding.tolist() == [1.0]
    assert sent["input"] == "hi"


@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"provider": "GOOSEAI"}, InvalidInput, "provider"),
        ({"endpoint": "embeddings"}, InvalidInput, "endpoint"),
        ({"model": "gpt-5"}, ModelNotFound, "model"),
        ({"api_keys": {"OPENAI": "sk-mine"}}, Unsupported, "api_keys"),
        ({"params": {"input": "hi"}}, InvalidInput, "params"),
        ({"params": {}}, InvalidInput, "params"),
        ({"params": {"messages": "hi"}}, InvalidInput, "params.messages"),
        ({"extra_args": {"model": "gpt-5"}}, Unsupported, "extra_args"),
        ({"extra_args": {"messages": []}}, Unsupported, "extra_args"),
        ({"extra_args": {"stream": True}}, Unsupported, "extra_args"),
        ({"extra_args": {"temperature": "hot"}}, InvalidInput, "sampling.temperature"),
        ({"base_url": "https://example.org"}, InvalidInput, None),
    ],
)
async def test_what_a_request_may_not_choose(
    key: SecretRef, more: dict[str, Any], error: type[WorkflowError], param: str | None
) -> None:
    async with played(answer(200, TOLD), provider="openai", key=key) as (workflow, upstream):
        with pytest.raises(error) as caught:
            await workflow.ainference(old(**more))
        assert not upstream.asked
    assert caught.value.param == param
    assert "sk-mine" not in str(caught.value)
