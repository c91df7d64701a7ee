"""What providers who follow OpenAI are sent for what callers ask, and what is refused by its name."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.workflows.css.played import played
from tests.workflows.remote.faulty_upstream import answer
from workflows.errors import ContextTooLong, InvalidInput, Unsupported
from workflows.inference.css.asked import AskText
from workflows.inference.css.openai_requests import chat_body, completion_body
from workflows.inference.css.providers import ENDPOINTS, PROVIDERS, Changes, ProviderName, takes
from workflows.remote.secret import SecretRef
from workflows.types.text import Generate

HI: Final = {"messages": [{"role": "user", "content": "hi"}]}
PIXEL: Final = "iVBORw0KGgo="


def body(provider: ProviderName, asked: dict[str, Any], most: int | None = None, **changes: Any) -> dict[str, Any]:
    row = takes(provider, "chat", None, Changes(changes))  # type: ignore[arg-type]
    assert row is not None
    return chat_body(AskText.model_validate(asked), row, provider, most)


def sampled(**sampling: Any) -> dict[str, Any]:
    return {**HI, "sampling": sampling}


def test_what_was_not_said_is_not_sent_but_for_the_length() -> None:
    assert body("openai", HI) == {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 128}


def test_everything_that_openai_takes() -> None:
    said = {
        "temperature": 0.0,
        "top_p": 0.5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 7,
        "stop": ["x"],
    }
    assert body("openai", sampled(**said, logit_bias={"5": 1.5}, max_tokens=9)) == {
        "messages": [{"role": "user", "content": "hi"}],
        **said,
        "logit_bias": {"5": 1.5},
        "max_completion_tokens": 9,
    }


@pytest.mark.parametrize(
    ("provider", "name", "wire"),
    [
        ("openai", "max_tokens", "max_completion_tokens"),
        ("openai-compatible", "max_tokens", "max_tokens"),
        ("groq", "max_tokens", "max_completion_tokens"),
        ("mistral", "max_tokens", "max_tokens"),
        ("mistral", "seed", "random_seed"),
        ("together", "top_k", "top_k"),
        ("perplexity", "top_k", "top_k"),
    ],
)
def test_each_provider_in_its_own_words(provider: ProviderName, name: str, wire: str) -> None:
    assert body(provider, sampled(**{name: 5}))[wire] == 5


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("openai", {"top_k": 5}),
        ("openai", {"min_p": 0.5}),
        ("openai", {"repetition_penalty": 1.5}),
        ("openai", {"typical_p": 0.5}),
        ("openai", {"min_tokens": 3}),
        ("groq", {"logit_bias": {"5": 1.0}}),
        ("deepseek", {"seed": 1}),
        ("perplexity", {"stop": ["x"]}),
        ("xai", {"presence_penalty": 1.0}),
        ("gemini", {"seed": 1}),
    ],
)
def test_sampling_that_a_provider_has_not_is_refused_by_its_name(provider: ProviderName, said: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=provider) as caught:
        body(provider, sampled(**said))
    (name,) = said
    assert caught.value.param == f"sampling.{name}"


def test_what_changes_nothing_is_not_refused() -> None:
    neutral: dict[str, Any] = {
        "top_k": None,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "logit_bias": {},
        "stop": [],
    }
    assert body("openai", sampled(**neutral, max_tokens=None)) == {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("provider", "said", "param"),
    [
        ("openai", {"stop": ["a", "b", "c", "d", "e"]}, "sampling.stop"),
        ("mistral", {"temperature": 1.8}, "sampling.temperature"),
    ],
)
def test_limits(provider: ProviderName, said: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        body(provider, sampled(**said))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt_tokens": [1, 2]}, "prompt_tokens"),
        ({**HI, "truncate": 5}, "truncate"),
        ({**HI, "include_stop": True, "sampling": {"stop": ["x"]}}, "include_stop"),
    ],
)
def test_what_no_chat_takes(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        body("openai", asked)
    assert caught.value.param == param


@pytest.mark.parametrize("provider", ["groq", "mistral", "gemini", "perplexity"])
def test_logprobs_where_there_are_none(provider: ProviderName) -> None:
    with pytest.raises(Unsupported) as caught:
        body(provider, {**HI, "top_logprobs": 0})
    assert caught.value.param == "top_logprobs"


def test_tools() -> None:
    tools = [{"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}, {"name": "g"}]
    asked = {**HI, "tools": tools, "tool_choice": {"name": "f"}, "parallel_tool_calls": False}
    sent = body("openai", asked)
    assert sent["tools"] == [{"type": "function", "function": tool} for tool in tools]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["parallel_tool_calls"] is False
    with pytest.raises(Unsupported) as caught:
        body("perplexity", asked)
    assert caught.value.param == "tools"


def test_a_conversation_with_calls_and_their_results() -> None:
    call = {"id": "c1", "name": "f", "arguments": "{}"}
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert body("openai", {"messages": turns})["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


def test_images() -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image", "media_type": "image/png", "data": PIXEL, "detail": "low"},
        {"type": "remote_image", "url": "https://example.org/a.png"},
    ]
    asked = {"messages": [{"role": "user", "content": parts}]}
    assert body("openai", asked)["messages"][0]["content"] == [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]
    for provider in ("deepseek", "gemini"):
        with pytest.raises(Unsupported) as caught:
            body(provider, asked)
        assert caught.value.param == "messages.0.content"


@pytest.mark.parametrize(
    ("form", "wire"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "json_schema": {"type": "object"}, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
        ),
    ],
)
def test_answers_in_json(form: dict[str, Any], wire: dict[str, Any]) -> None:
    assert body("openai", {**HI, "response_format": form})["response_format"] == wire
    assert "response_format" not in body("openai", {**HI, "response_format": {"type": "text"}})


def test_a_form_of_answers_that_a_provider_has_not() -> None:
    schema = {"type": "json_schema", "name": "n", "json_schema": {"type": "object"}}
    for provider, form in (("deepseek", schema), ("perplexity", {"type": "json_object"})):
        with pytest.raises(Unsupported) as caught:
            body(provider, {**HI, "response_format": form})  # type: ignore[arg-type]
        assert caught.value.param == "response_format"


def test_no_answer_is_longer_than_the_operator_lets_it_be() -> None:
    assert body("openai", sampled(max_tokens=500), most=100)["max_completion_tokens"] == 100
    assert body("openai", sampled(max_tokens=None), most=100)["max_completion_tokens"] == 100
    assert body("openai", sampled(max_tokens=50), most=100)["max_completion_tokens"] == 50


def test_an_operator_says_what_a_model_takes() -> None:
    asked = sampled(top_k=5, temperature=0.0, max_tokens=7)
    sent = body("openai-compatible", asked, top_k="top_k", temperature="dropped", max_tokens="max_new")
    assert sent == {"messages": [{"role": "user", "content": "hi"}], "top_k": 5, "max_new": 7}
    with pytest.raises(Unsupported):
        body("openai-compatible", asked, top_k="top_k", temperature="refused")


def test_completions() -> None:
    row = takes("openai", "completions", None, Changes())
    assert row is not None
    text = completion_body(Generate(prompt="once"), row, "openai", None)
    assert text == {"prompt": "once", "max_tokens": 128}
    tokens = completion_body(Generate(prompt_tokens=[5, 6]), row, "openai", None)
    assert tokens["prompt"] == [5, 6]
    one = AskText.model_validate(HI)
    assert completion_body(one, row, "openai", None)["prompt"] == "hi"
    two = AskText.model_validate({"messages": [*HI["messages"], {"role": "assistant", "content": "x"}]})
    with pytest.raises(Unsupported) as caught:
        completion_body(two, row, "openai", None)
    assert caught.value.param == "messages"


async def test_gooseais_model_stands_in_its_path(key: SecretRef) -> None:
    told = {"choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]}
    async with played(answer(200, told), provider="gooseai", model="gpt-neo/20b", endpoint="completions", key=key) as (
        workflow,
        upstream,
    ):
        given: Any = await workflow.ainference({"prompt": "hi"})
        (request,) = upstream.asked
    assert request.target == "/engines/gpt-neo%2F20b/completions"
    assert (given.text, given.usage.estimated) == ("x", True)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rows_are_whole(provider: ProviderName) -> None:
    row = PROVIDERS[provider]
    assert set(row.endpoints) <= set(ENDPOINTS)
    assert row.base_url is None or row.base_url.startswith("https://")
    for endpoint in row.endpoints.values():
        assert all(endpoint.parameters.values())
        assert endpoint.path.startswith("/")


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("max_completion_tokens", "sampling.max_tokens"),
        ("temperature", "sampling.temperature"),
        ("messages.[0].content", "messages"),
        ("tools[3].function.name", "tools"),
        ("model", "model"),
        ("sk-of-the-operator", None),  # a field that nobody has, and perhaps a secret
        ("messages_of_mine", None),
        ("a" * 128, None),
        (None, None),
    ],
)
async def test_the_providers_complaint_names_what_the_caller_said_and_nothing_else(
    wire: str | None, ours: str | None, key: SecretRef
) -> None:
    told = {"error": {"message": "no", "type": "invalid_request_error", "param": wire, "code": None}}
    async with played(answer(400, told), provider="groq", key=key) as (workflow, _):
        for asking in (workflow.ainference(HI), anext(workflow.astream(HI))):
            with pytest.raises(InvalidInput) as caught:
                await asking
            said = "the upstream model does not take this input"
            assert (caught.value.param, caught.value.message) == (ours, f"{ours}: {said}" if ours else said)
            assert str(caught.value) == caught.value.message


@pytest.mark.parametrize("asked", [{"text": "hi"}, {"tokens": [1, 2]}], ids=["text", "tokens"])
async def test_a_complaint_about_the_input_names_the_way_in_which_it_came(asked: Any, key: SecretRef) -> None:
    told = {"error": {"message": "no", "param": "input"}}
    async with played(answer(400, told), provider="openai", endpoint="embeddings", key=key) as (workflow, _):
        with pytest.raises(InvalidInput) as caught:
            await workflow.ainference(asked)
    assert [caught.value.param] == list(asked)


async def test_a_context_that_is_too_long_is_told_as_such(key: SecretRef) -> None:
    """In the words that the protocols, and gateways before them, know it by."""
    told = {"error": {"message": "no", "param": "messages", "code": "context_length_exceeded"}}
    async with played(answer(400, told), provider="openai", key=key) as (workflow, _):
        with pytest.raises(ContextTooLong) as caught:
            await workflow.ainference(HI)
    assert (caught.value.param, caught.value.message) == ("messages", ContextTooLong.default_message)
