"""Hugging Face's two official clients in front of their own workflows, in front of our routes: nothing is lost on the way.

client -> router -> workflow that asks a remote model -> router of the model -> the model
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub import errors as hub_errors
from text_generation import AsyncClient, Client

from tests.clients.system import System, running
from tests.workflows.remote.faulty_upstream import Exchange, FaultyUpstream, answer
from workflows import HFInferenceClientWorkflow, TGIClientInferenceWorkflow
from workflows.side_loop import SideLoop

pytestmark = [
    pytest.mark.usefixtures("online"),
    pytest.mark.filterwarnings("ignore:The `dict` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20"),
]
PROMPT = "The for statement"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def front(system: System) -> Iterator[System]:
    """A router whose models are all behind the other one."""
    behind = f"http://{system.http}"
    workflows: dict[str, Any] = {
        "tgi": TGIClientInferenceWorkflow(f"{behind}/tgi/tiny-gpt"),
        "hub": HFInferenceClientWorkflow("text-generation", base_url=f"{behind}/hf/tiny-gpt"),
        "vectors": HFInferenceClientWorkflow("feature-extraction", base_url=f"{behind}/hf/text-embedding"),
        "nobody": HFInferenceClientWorkflow("conversational", base_url=f"{behind}/hf/nobody"),
    }
    with running(workflows) as made:
        yield made


@pytest.mark.parametrize("name", ["tgi", "hub"])
def test_text_generations_client_hears_what_the_model_says(front: System, system: System, name: str) -> None:
    near, far = Client(f"http://{front.http}/tgi/{name}"), Client(f"http://{system.http}/tgi/tiny-gpt")
    asked: dict[str, Any] = {"max_new_tokens": 8, "top_n_tokens": 2}
    assert near.generate(PROMPT, **asked).model_dump() == far.generate(PROMPT, **asked).model_dump()
    streamed = list(near.generate_stream(PROMPT, **asked))
    assert [each.model_dump() for each in streamed] == [
        each.model_dump() for each in far.generate_stream(PROMPT, **asked)
    ]
    stop = streamed[-1].generated_text[4:9]
    stopped = near.generate(PROMPT, max_new_tokens=8, stop_sequences=[stop])
    assert stopped.details.finish_reason == "stop_sequence"
    assert stopped == far.generate(PROMPT, max_new_tokens=8, stop_sequences=[stop])


async def test_text_generations_async_client_hears_it_too(front: System, system: System) -> None:
    client = AsyncClient(f"http://{front.http}/tgi/tgi")
    whole = (await client.generate(PROMPT, max_new_tokens=8)).generated_text
    pieces = [each async for each in client.generate_stream(PROMPT, max_new_tokens=8)]
    assert pieces[-1].generated_text == whole == "".join(each.token.text for each in pieces)


@pytest.mark.parametrize("way", ["hf/hub", "hf/tgi", "tgi/tgi", "tgi/hub"])
def test_the_hubs_client_hears_what_the_model_says(front: System, system: System, way: str) -> None:
    near = InferenceClient(f"http://{front.http}/{way}", timeout=30)
    far = InferenceClient(f"http://{system.http}/hf/tiny-gpt", timeout=30)
    asked: dict[str, Any] = {"max_new_tokens": 8, "return_full_text": True}
    assert near.text_generation(PROMPT, **asked) == far.text_generation(PROMPT, **asked)
    assert list(near.text_generation(PROMPT, max_new_tokens=8, stream=True)) == list(
        far.text_generation(PROMPT, max_new_tokens=8, stream=True)
    )
    messages = [{"role": "user", "content": PROMPT}]
    said = near.chat_completion(messages, max_tokens=8, temperature=0)
    assert (
        said.choices[0].message.content
        == far.chat_completion(messages, max_tokens=8, temperature=0).choices[0].message.content
    )
    assert said.usage.completion_tokens == 8
    pieces = list(near.chat_completion(messages, max_tokens=8, temperature=0, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == said.choices[0].message.content
    near.close()
    far.close()


async def test_the_hubs_async_client_gets_vectors(front: System, system: System) -> None:
    async with AsyncInferenceClient(f"http://{front.http}/hf/vectors", timeout=30) as near:
        got = await near.feature_extraction("hello")
    alone = system.direct("text-embedding", {"text": "hello"})
    np.testing.assert_allclose(got, alone.embedding, atol=1e-6)


def test_errors_keep_their_meaning_over_two_routers(front: System) -> None:
    client = InferenceClient(f"http://{front.http}/tgi/tgi", timeout=30)
    with pytest.raises(hub_errors.ValidationError, match="context length exceeded"):
        client.text_generation("for " * 4000, max_new_tokens=2)
    client.close()
    nobody = InferenceClient(f"http://{front.http}/hf/nobody", timeout=30)
    with pytest.raises(hub_errors.HfHubHTTPError, match="model not found") as caught:
        nobody.chat_completion([{"role": "user", "content": "hi"}], max_tokens=2)
    assert caught.value.response.status_code == 404
    nobody.close()


@pytest.mark.parametrize("name", ["tgi", "hub"])
def test_everybody_elses_protocol_reaches_them_as_well(front: System, system: System, name: str) -> None:
    asked = {"prompt": PROMPT, "sampling": {"max_tokens": 8, "temperature": 0}}
    native = front.caller.post(f"/v1/workflows/{name}/inference", json=asked).json()
    assert native["text"] == system.direct("tiny-gpt", asked).text
    body = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    completion = front.caller.post("/v1/completions", json=body).json()
    assert completion["choices"][0]["text"] == native["text"]
    assert completion["usage"]["total_tokens"] == sum(
        native["usage"][each] for each in ("prompt_tokens", "completion_tokens")
    )


# ---- tasks, over the router to an endpoint that is played ------------------------------------------------------------------


async def endpoint(exchange: Exchange) -> None:
    """Says to every task what belongs to it."""
    said: dict[str, Any] = {
        "/tables": {"answer": "1815", "cells": ["1815"], "coordinates": [[0, 0]], "aggregator": "NONE"},
        "/pictures": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}],
        "/questions": [{"answer": "a cat", "score": 0.5}],
    }
    path = exchange.asked.target
    await (answer(200, PNG, kind="image/png") if path == "/drawn" else answer(200, said[path]))(exchange)


@pytest.fixture(scope="module")
def played() -> Iterator[System]:
    side, upstream = SideLoop(), FaultyUpstream()
    upstream.plays(endpoint)
    side.call(upstream.__aenter__)
    tasks = {
        "tables": "table-question-answering",
        "pictures": "zero-shot-image-classification",
        "questions": "visual-question-answering",
        "drawn": "text-to-image",
    }
    made: dict[str, Any] = {
        name: HFInferenceClientWorkflow(task, base_url=f"{upstream.url}/{name}")  # type: ignore[arg-type]
        for name, task in tasks.items()
    }
    with running(made) as system:
        yield system
    side.call(upstream.__aexit__, None, None, None)
    side.close()


def test_the_hubs_client_asks_about_tables_and_pictures(played: System) -> None:
    def client(name: str) -> Any:
        return InferenceClient(f"http://{played.http}/hf/{name}", timeout=30)

    table = client("tables").table_question_answering({"name": ["Ada"], "born": ["1815"]}, "When was Ada born?")
    assert (table.answer, table.cells, table.aggregator) == ("1815", ["1815"], "NONE")
    best, _ = client("pictures").zero_shot_image_classification(PNG, ["cat", "dog"])
    assert (best.label, best.score) == ("cat", 0.75)
    (said,) = client("questions").visual_question_answering(PNG, "what is it?")
    assert said.answer == "a cat"
    assert client("drawn").text_to_image("a cat").size == (1, 1)
