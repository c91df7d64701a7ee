"""Official clients in front of models that others serve: OpenAI's to Anthropic, Text Generation Inference's to OpenAI.

The upstream is a scripted one for Anthropic, and a router of ours, with a model behind it, for everything that follows OpenAI.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import openai
import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI
from text_generation import Client

from deployments.config import RouterArgs
from tests.clients.system import System, running
from tests.workflows.css.dialects import anthropic_events, typed
from tests.workflows.remote.faulty_upstream import Exchange, FaultyUpstream, answer, parts
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.remote.secret import SecretRef
from workflows.side_loop import SideLoop

old_pydantic = pytest.mark.filterwarnings(
    "ignore:The `dict` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20"
)
CALLERS_KEY: Final = "canary-of-the-caller"
TOKENIZER: Final = {"tokenizer": "tiny_gpt", "root": "package:workflows.demo"}
PROMPT: Final = "If the file does not exist, then"


# ---- OpenAI's client, Anthropic's model -----------------------------------------------------------------------------------


async def anthropic(exchange: Exchange) -> None:
    """Calls the first tool that it is given; without one it says what was said last."""
    asked = exchange.asked.json()
    last = asked["messages"][-1]["content"][0]
    if "tools" in asked:
        said = {"type": "tool_use", "id": "toolu_1", "name": asked["tools"][0]["name"], "input": {"city": "Oslo"}}
        reason = "tool_use"
    else:
        said, reason = {"type": "text", "text": last["text"]}, "end_turn"
    if not asked.get("stream"):
        usage = {"input_tokens": 7, "output_tokens": 3}
        told = {"type": "message", "content": [said], "stop_reason": reason, "usage": usage}
        await answer(200, told)(exchange)
    elif "breaks" in last["text"]:
        failure = typed({"type": "error", "error": {"type": "overloaded_error", "message": "a secret of theirs"}})
        await parts([*anthropic_events(["it "])[:3], failure])(exchange)
    else:
        await parts(anthropic_events(last["text"].split(" ")))(exchange)


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    side, made = SideLoop(), FaultyUpstream()
    made.plays(anthropic)
    side.call(made.__aenter__)
    yield made
    side.call(made.__aexit__, None, None, None)
    side.close()


@pytest.fixture(scope="module")
def claude(upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    key = tmp_path_factory.mktemp("keys") / "anthropic"
    key.write_text("sk-of-the-operator")
    workflow = CSSInferenceWorkflow("anthropic", "claude", base_url=upstream.url, key=SecretRef(file=str(key)))
    with (
        running({"claude": workflow}) as system,
        OpenAI(base_url=f"http://{system.http}/v1", api_key=CALLERS_KEY, max_retries=0) as client,
    ):
        yield client


def says(text: str) -> dict[str, Any]:
    return {"model": "claude", "messages": [{"role": "user", "content": text}]}


def test_openais_client_talks_to_anthropic(claude: OpenAI, upstream: FaultyUpstream) -> None:
    upstream.asked.clear()
    whole = claude.chat.completions.create(**says("hello you"))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("hello you", "stop")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 3)
    stream = claude.chat.completions.create(**says("hello you"), stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "helloyou"
    assert chunks[-1].usage == whole.usage
    for request in upstream.asked:
        assert request.headers["authorization"] == "Bearer sk-of-the-operator"
        assert CALLERS_KEY not in str(request)


def test_tools_go_there_and_calls_come_back(claude: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    answered = claude.chat.completions.create(**says("how is it?"), tools=[tool])
    (call,) = answered.choices[0].message.tool_calls or []
    assert answered.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})


def test_what_anthropic_has_not_is_refused_by_the_callers_name(claude: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        claude.chat.completions.create(**says("hi"), temperature=0.5)
    assert caught.value.param == "temperature"
    assert "anthropic" in caught.value.message


def test_a_stream_that_fails_says_so_and_nothing_of_the_upstreams(claude: OpenAI) -> None:
    stream = claude.chat.completions.create(**says("it breaks"), stream=True)
    assert next(stream).choices[0].delta.role == "assistant"
    assert next(stream).choices[0].delta.content == "it "
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert "secret" not in str(caught.value)


# ---- everybody's clients, a model behind OpenAI's protocol ------------------------------------------------------------------


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A model, and in front of it a router that asks another one for it."""
    local = TransformersTextGenerationWorkflow(model="tiny_gpt", root="package:workflows.demo")
    with running({"tiny-gpt": local}) as inner:
        options: dict[str, Any] = {"base_url": f"http://{inner.http}/v1", **TOKENIZER}
        remote = CSSInferenceWorkflow("openai-compatible", "tiny-gpt", endpoint="completions", **options)
        chat = CSSInferenceWorkflow("openai-compatible", "tiny-gpt", **options)
        with running({"remote": remote, "chat": chat}, RouterArgs(tgi_root="remote")) as outer:
            outer.inner = inner  # type: ignore[attr-defined]
            yield outer


@pytest.mark.usefixtures("online")
@old_pydantic
def test_text_generations_client_is_answered_by_openai(system: System) -> None:
    client = Client(f"http://{system.http}")
    near = Client(f"http://{system.inner.http}/tgi/tiny-gpt")  # type: ignore[attr-defined]
    said, meant = (each.generate(PROMPT, max_new_tokens=7) for each in (client, near))
    assert said.generated_text == meant.generated_text
    assert said.details.generated_tokens == meant.details.generated_tokens
    assert [token.id for token in said.details.tokens] == [token.id for token in meant.details.tokens]
    streamed = list(client.generate_stream(PROMPT, max_new_tokens=7))
    assert streamed[-1].generated_text == said.generated_text
    assert "".join(each.token.text for each in streamed) == said.generated_text


@pytest.mark.usefixtures("online")
def test_hugging_faces_client_is_answered_by_openai(system: System) -> None:
    client = InferenceClient(model=f"http://{system.http}/tgi/remote")
    assert "".join(client.text_generation(PROMPT, max_new_tokens=7, stream=True)) == client.text_generation(
        PROMPT, max_new_tokens=7
    )


def test_a_router_before_a_router_answers_as_the_model_does(system: System) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is a list?"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    clients = (
        (OpenAI(base_url=f"http://{system.http}/v1", api_key="none"), "chat"),
        (OpenAI(base_url=f"http://{system.inner.http}/v1", api_key="none"), "tiny-gpt"),  # type: ignore[attr-defined]
    )
    texts: list[Any] = []
    usages: list[Any] = []
    for client, model in clients:
        with client:
            whole: Any = client.chat.completions.create(model=model, **asked)
            texts.append(whole.choices[0].message.content)
            usages.append((whole.usage.prompt_tokens, whole.usage.completion_tokens))
    assert texts[0] == texts[1]
    assert usages[0] == usages[1]
