"""The main job: the default system gives right answers, the same ones however it is asked."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from ray import serve

from deployments import connect, connect_async
from deployments.building import build_workflow
from deployments.config import WorkflowArgs
from tests.ray.cluster import ROOT, Cluster
from workflows import Generated, TensorsResult
from workflows.demo.voice import TinyBark
from workflows.errors import InvalidInput, ModelNotFound

DEMO = ROOT / "workflows" / "demo"


def sample() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEMO / "digits_sample.json").read_text())
    return loaded


def native(http: httpx.Client, name: str, body: Any) -> Any:
    answer = http.post(f"/v1/workflows/{name}/inference", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def logits(tensor: dict[str, Any]) -> NDArray[np.float32]:
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


@pytest.mark.parametrize("name", ["digits-onnx", "digits-torch"])
def test_the_right_digit_bit_for_bit_the_same_on_every_way_in(
    http: httpx.Client, default_system: Cluster, name: str
) -> None:
    body = sample()
    (args,) = [app["args"] for app in default_system.config()["applications"] if app["name"] == name]
    alone = build_workflow(WorkflowArgs.model_validate(args))
    in_process = alone.setup().inference(body).outputs["logits"]

    by_native = logits(native(http, name, body)["outputs"]["logits"])
    image = body["inputs"]["image"]
    v2 = {"inputs": [{"name": "image", "datatype": "FP32", "shape": image["shape"], "data": image["data"]}]}
    answer = http.post(f"/v2/models/{name}/infer", json=v2)
    by_v2 = logits(answer.json()["outputs"][0])
    by_handle = serve.get_app_handle(name).inference.remote(body).result(timeout_s=30)
    with connect(name) as client:
        by_client = client.inference(body)

    assert isinstance(by_handle, TensorsResult)
    assert isinstance(by_client, TensorsResult)
    assert in_process.argmax() == 8
    for other in (by_native, by_v2, by_handle.outputs["logits"], by_client.outputs["logits"]):
        assert other.dtype == in_process.dtype
        assert other.tobytes() == in_process.tobytes()


def test_a_batch_of_requests_gives_each_its_own_rows(http: httpx.Client) -> None:
    image = np.array(sample()["inputs"]["image"]["data"], np.float32)
    bodies = [
        {"inputs": {"image": {"dtype": "float32", "shape": [rows, 64], "data": [*image.tolist()] * rows}}}
        for rows in (1, 7, 3)
    ]
    alone = logits(native(http, "digits-onnx", bodies[0])["outputs"]["logits"])

    answers = native(http, "digits-onnx", bodies)

    for rows, answer in zip((1, 7, 3), answers, strict=True):
        got = logits(answer["outputs"]["logits"])
        assert got.shape == (rows, 10)
        assert np.allclose(got, alone, atol=1e-4)
        assert (got.argmax(axis=1) == 8).all()


def test_embeddings_of_like_texts_are_near(http: httpx.Client) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
    vectors = [np.array(answer["embedding"]) for answer in native(http, "text-embedding", [{"text": t} for t in texts])]

    assert vectors[0].shape == (384,)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_tiny_gpt_streams_what_it_would_have_said_at_once(http: httpx.Client) -> None:
    body = {"prompt": "The for statement", "sampling": {"max_tokens": 24, "temperature": 0}}
    whole = native(http, "tiny-gpt", body)

    with http.stream("POST", "/v1/workflows/tiny-gpt/stream", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]

    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert len(chunks) > 5
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_stream_has_no_more_answers_than_a_replica_runs(http: httpx.Client) -> None:
    body = {"model": "tiny-gpt", "prompt": ["a"] * 257, "max_tokens": 1, "stream": True}
    refused = http.post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    assert http.post("/v1/completions", json={**body, "prompt": ["a"] * 8}).text.endswith("data: [DONE]\n\n")


def test_tiny_bark_says_the_same_in_every_process(http: httpx.Client) -> None:
    text, voice = "Good morning. How are you?", "v2/en_speaker_9"
    alone = TinyBark(threads=1).setup()
    said = alone.inference({"text": text, "voice": voice, "format": "wav"})
    alone.teardown()
    speech = {"model": "tiny-bark", "input": text, "voice": voice, "response_format": "wav"}

    with http.stream("POST", "/v1/audio/speech", json=speech) as answer:
        assert answer.headers["content-type"] == "audio/wav"
        pieces = list(answer.iter_raw())
    whole = native(http, "tiny-bark", {"text": text, "voice": voice, "format": "wav"})

    assert said.audio is not None
    assert len(pieces) > 1
    assert b"".join(pieces)[44:] == said.audio[44:]  # behind the header, which does not say how long it is
    assert whole["audio"] == base64.b64encode(said.audio).decode()
    refused = http.post("/v1/audio/speech", json={**speech, "voice": "../../x"})
    assert refused.status_code == 400
    assert voice in refused.json()["error"]["message"]


async def test_the_async_client_streams_exchange_types(default_system: Cluster) -> None:
    gpt = await connect_async("tiny-gpt")
    body = {"prompt": "The while statement", "sampling": {"max_tokens": 12, "temperature": 0}}

    chunks = [chunk async for chunk in gpt.stream(body)]
    whole = await gpt.inference(body)

    assert isinstance(whole, Generated)
    assert "".join(chunk.text for chunk in chunks) == whole.text


def test_the_error_tree_comes_back_through_the_client(default_system: Cluster) -> None:
    with connect("digits-onnx") as client:
        with pytest.raises(InvalidInput) as refused:
            client.inference({"inputs": {"image": np.zeros((1, 63), np.float32)}})
        good, bad = client.inference_batch([sample(), {"inputs": {}}])
    assert refused.value.param == "image"
    assert "63" in refused.value.message
    assert isinstance(good, TensorsResult)
    assert isinstance(bad, InvalidInput)
    with pytest.raises(ModelNotFound):
        connect("nobody")


def test_plain_values_and_the_error_tree_through_a_bare_handle(default_system: Cluster) -> None:
    handle: Any = serve.get_app_handle("tiny-gpt")
    body = {"prompt": "The if statement", "sampling": {"max_tokens": 6, "temperature": 0}}

    chunks = list(handle.options(stream=True).stream.remote(body))

    assert "".join(chunk.text for chunk in chunks) == handle.inference.remote(body).result(timeout_s=60).text
    with pytest.raises(InvalidInput):
        handle.inference.remote({"prompt": 5}).result(timeout_s=60)


def test_metrics_and_the_access_log_tell_of_requests_but_not_of_their_content(http: httpx.Client) -> None:
    http.post("/v1/workflows/tiny-gpt/inference", json={"prompt": "canary-4711", "sampling": {"max_tokens": 2}})

    metrics = http.get("/metrics").text
    node: Any = ray._private.worker.global_worker.node
    logs = Path(node.get_logs_dir_path())
    written = "".join(file.read_text(errors="replace") for file in logs.rglob("*.log"))

    assert 'workflow="tiny-gpt"' in metrics
    assert "canary-4711" not in metrics
    assert '"workflow":"tiny-gpt"' in written
    assert "canary-4711" not in written


def test_a_card_shows_what_batches_have_cost(http: httpx.Client) -> None:
    for text in ("a few words", "and a few words more"):
        assert http.post("/v1/workflows/text-embedding/inference", json={"text": text}).status_code == 200
    # A card is asked for again now and then; a Python handle has the newest one.
    card = serve.get_app_handle("text-embedding").card.remote().result(timeout_s=30)
    assert all(cost["seconds"] > 0 for curve in card["batch_costs"] for cost in curve)
    assert card["batch_costs"]
