"""The model repository and the statistics, as Triton's HTTP client asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.clients.system import System
from tests.clients.tensors import inputs_of

DOCUMENT = {"input": np.array([b"{}"], np.object_)}


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Any]:
    with triton.InferenceServerClient(system.http) as made:
        yield made


def states(client: Any) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get_model_repository_index()}


def test_the_index_has_every_model(system: System, client: Any) -> None:
    assert states(client) == dict.fromkeys(system.workflows, "READY")
    assert all(model["version"] == "1" for model in client.get_model_repository_index())


def test_a_model_is_unloaded_and_comes_back(client: Any) -> None:
    try:
        client.unload_model("echo")
        assert states(client)["echo"] == "UNAVAILABLE"
        assert not client.is_model_ready("echo")
        assert client.is_model_ready("identity")
        with pytest.raises(InferenceServerException, match="unloaded") as caught:
            client.infer("echo", inputs_of(triton, DOCUMENT))
        assert caught.value.status() == "503"
    finally:
        client.load_model("echo")
    assert states(client)["echo"] == "READY"
    assert client.infer("echo", inputs_of(triton, DOCUMENT)).as_numpy("output").tolist() == [b'{"seen":{}}']


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda client: client.load_model("nowhere"), "model not found"),
        (lambda client: client.unload_model("nowhere"), "model not found"),
        (lambda client: client.load_model("echo", config="{}"), "'config' cannot be loaded"),
        (lambda client: client.load_model("echo", config="{}", files={"file:1/m": b"x"}), "cannot be loaded"),
    ],
)
def test_nothing_else_can_be_loaded(client: Any, ask: Any, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(client)


def test_statistics_count_what_was_asked(client: Any) -> None:
    def counts() -> dict[str, int]:
        (of_one,) = client.get_inference_statistics("identity")["model_stats"]
        return {
            "inference": of_one["inference_count"],
            "success": of_one["inference_stats"]["success"]["count"],
            "fail": of_one["inference_stats"]["fail"]["count"],
        }

    before = counts()
    client.infer("identity", inputs_of(triton, DOCUMENT))
    with pytest.raises(InferenceServerException, match="no 'nothing' to give back"):
        client.infer("identity", inputs_of(triton, DOCUMENT), outputs=[triton.InferRequestedOutput("nothing")])
    after = counts()
    assert {name: after[name] - before[name] for name in after} == {"inference": 1, "success": 1, "fail": 1}
    names = {model["name"] for model in client.get_inference_statistics()["model_stats"]}
    assert {"identity", "echo", "digits-onnx"} <= names


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_model_config("echo"),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_system_shared_memory_status(),
    ],
)
def test_what_triton_has_besides_is_not_here(client: Any, ask: Any) -> None:
    with pytest.raises(InferenceServerException, match="no such path") as caught:
        ask(client)
    assert caught.value.status() == "404"
