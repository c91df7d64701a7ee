"""A remote model that fails, and a local one that answers in its place: official clients notice nothing but the headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI
from text_generation import Client

from tests.clients.system import System, running
from workflows import (
    AsyncInferenceWorkflow,
    Generate,
    Generated,
    TextChunk,
    TransformersTextGenerationWorkflow,
)
from workflows.card import Preserved
from workflows.errors import UpstreamFailed

MESSAGES: Any = [{"role": "user", "content": "What is a list?"}]
KEPT = Preserved(context_length=256)


class Failing(AsyncInferenceWorkflow[Generate, Generated, TextChunk]):
    """Fails at once, or after its first word where the request asks for two tokens at most."""

    async def do_stream(self, preprocessed_data: Generate) -> AsyncGenerator[TextChunk]:
        if preprocessed_data.sampling.max_tokens == 2:
            yield TextChunk(text="word")
        raise UpstreamFailed()


@pytest.fixture(scope="module")
def house() -> Iterator[System]:
    told: dict[str, dict[str, Any]] = {
        "api": {"fallbacks": ["tiny-gpt"], "preserves": KEPT},
        "tiny-gpt": {"preserves": KEPT},
    }
    local = TransformersTextGenerationWorkflow(root="package:workflows.demo", model="tiny_gpt")
    with running({"api": Failing(), "tiny-gpt": local}, told=told) as made:
        yield made


@pytest.fixture
def client(house: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://{house.http}/v1", api_key="none", max_retries=0) as made:
        yield made


def alone(house: System, **asked: Any) -> str:
    text: str = house.direct("tiny-gpt", {**asked, "sampling": {"temperature": 0, "max_tokens": 12}}).text
    return text


def test_a_whole_answer(house: System, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="api", messages=MESSAGES, temperature=0, max_tokens=12)
    answer = raw.parse()
    assert answer.choices[0].message.content == alone(house, messages=MESSAGES)
    assert answer.model == "api"
    assert (raw.headers["x-served-by"], raw.headers["x-degraded"]) == ("tiny-gpt", "true")


def test_the_stream_is_valid(house: System, client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="api",
            messages=MESSAGES,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == alone(house, messages=MESSAGES)
    *_, last, usage = chunks
    assert last.choices[0].finish_reason in ("stop", "length")
    assert usage.usage is not None
    assert usage.usage.completion_tokens > 0


def test_a_stream_that_broke_off_is_not_patched_with_another_ones_text(client: OpenAI) -> None:
    stream = iter(client.chat.completions.create(model="api", messages=MESSAGES, max_tokens=2, stream=True))
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "word"]
    with pytest.raises(openai.APIError, match="upstream"):
        next(stream)


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")
def test_clients_of_other_protocols(house: System) -> None:
    said = alone(house, prompt="The for statement")
    tgi = Client(f"http://{house.http}/tgi/api")
    assert tgi.generate("The for statement", max_new_tokens=12).generated_text == said
    pieces = [each.token.text for each in tgi.generate_stream("The for statement", max_new_tokens=12)]
    assert "".join(pieces) == said
    answer = house.caller.post(
        "/v1/workflows/api/inference",
        json={"prompt": "The for statement", "sampling": {"temperature": 0, "max_tokens": 12}},
    )
    assert (answer.json()["text"], answer.headers["x-degraded"]) == (said, "true")
    answer = house.caller.post("/v2/models/api/generate", json={"text_input": "a", "parameters": {"max_tokens": 3}})
    assert (answer.json()["model_name"], answer.headers["x-served-by"]) == ("api", "tiny-gpt")


def test_hugging_faces_client(house: System, online: None) -> None:
    hub = InferenceClient(model=f"http://{house.http}/hf/api")
    assert hub.text_generation("The for statement", max_new_tokens=12) == alone(house, prompt="The for statement")
