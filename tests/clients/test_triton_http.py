"""Triton's HTTP client against the real router: tensors, models, and what is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import gevent.monkey
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY
from tests.clients.system import System
from tests.clients.tensors import ON_A_SERVER, inputs_of, named_tensors, outputs_of, same_bits
from workflows import types
from workflows.tensors import BFLOAT16

IN_JSON = tuple(sorted(DATATYPES.keys() - ONLY_BINARY))
IMAGE = np.random.default_rng(0).random((3, 64), np.float32)


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Any]:
    with triton.InferenceServerClient(system.http) as made:
        yield made


def test_importing_the_client_changes_nobodys_sockets() -> None:
    assert not gevent.monkey.saved
    assert socket.socket.__module__ == "socket"
    assert not gevent.monkey.is_object_patched("threading", "Thread")
    assert threading.Thread.__module__ == "threading"


# ---- the server and its models ---------------------------------------------------------------------------------------------


def test_the_server_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits-onnx")
    assert client.is_model_ready("digits-onnx", "1")
    assert not client.is_model_ready("nowhere")
    assert not client.is_model_ready("digits-onnx", "2")
    server = client.get_server_metadata()
    assert server["name"] == "infernet-serve"
    assert "binary_tensor_data" in server["extensions"]


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("digits-onnx", {"image": ("FP32", [-1, 64])}, {"logits": ("FP32", [-1, 10])}),
        ("text-embedding", {"text": ("BYTES", [-1])}, {"embedding": ("FP32", [-1, -1]), "tokens": ("INT64", [-1])}),
        ("echo", {"input": ("BYTES", [-1])}, {"output": ("BYTES", [-1])}),
        ("identity", {}, {}),
    ],
)
def test_models_tell_their_tensors(client: Any, model: str, inputs: Any, outputs: Any) -> None:
    metadata = client.get_model_metadata(model)
    assert metadata["name"] == model
    assert metadata["versions"] == ["1"]
    for told, known in ((metadata["inputs"], inputs), (metadata["outputs"], outputs)):
        assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in told} == known


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_model_metadata("nowhere"),
        lambda client: client.get_model_metadata("digits-onnx", "2"),
        lambda client: client.infer("nowhere", inputs_of(triton, {"image": IMAGE})),
    ],
)
def test_other_models_do_not_exist(client: Any, ask: Any) -> None:
    with pytest.raises(InferenceServerException, match="model not found") as caught:
        ask(client)
    assert caught.value.status() == "404"


# ---- tensors ---------------------------------------------------------------------------------------------------------------


@ON_A_SERVER
@given(arrays=named_tensors())
def test_any_tensors_in_binary_form_come_back_bit_for_bit(client: Any, arrays: dict[str, Any]) -> None:
    answer = client.infer("identity", inputs_of(triton, arrays), request_id="r-1")
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("r-1", "identity", "1")
    assert [output["name"] for output in response["outputs"]] == list(arrays)
    for name, array in arrays.items():
        assert same_bits(answer.as_numpy(name), array), name


@ON_A_SERVER
@given(arrays=named_tensors(IN_JSON, finite=True), binary_in=st.booleans(), binary_out=st.booleans())
def test_json_and_binary_mix_as_the_client_likes(
    client: Any, arrays: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    outputs = outputs_of(triton, arrays, binary_data=binary_out)
    answer = client.infer("identity", inputs_of(triton, arrays, binary_data=binary_in), outputs=outputs)
    for name, array in arrays.items():
        assert same_bits(answer.as_numpy(name), array), name


def test_each_tensor_has_its_own_form_and_place(client: Any) -> None:
    arrays = {"a": np.array([1.5], np.float64), "b": np.array([[b"x", b""]], np.object_), "c": np.array(True)}
    inputs = [
        *inputs_of(triton, {"a": arrays["a"]}, binary_data=False),
        *inputs_of(triton, {"b": arrays["b"], "c": arrays["c"]}),
    ]
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary)
        for name, binary in (("c", True), ("a", False), ("b", True))
    ]
    answer = client.infer("identity", inputs, outputs=outputs)
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["c", "a", "b"]
    assert ["data" in output for output in answer.get_response()["outputs"]] == [False, True, False]
    assert all(same_bits(answer.as_numpy(name), array) for name, array in arrays.items())


def test_only_the_outputs_asked_for_come(client: Any) -> None:
    arrays = {"a": np.zeros(1, np.int8), "b": np.ones(1, np.int8)}
    answer = client.infer("identity", inputs_of(triton, arrays), outputs=outputs_of(triton, ["b"]))
    assert answer.as_numpy("a") is None
    assert same_bits(answer.as_numpy("b"), arrays["b"])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("side", [1, 100, 400])  # too small to pay, on the loop, on a thread
def test_answers_are_compressed_where_the_client_asks(client: Any, coding: str, binary: bool, side: int) -> None:
    array = np.arange(side * side, dtype=np.float32).reshape(side, side)
    outputs = outputs_of(triton, ["x"], binary_data=binary)
    answer = client.infer(
        "identity", inputs_of(triton, {"x": array}), outputs=outputs, response_compression_algorithm=coding
    )
    assert same_bits(answer.as_numpy("x"), array)


@pytest.mark.parametrize(
    ("array", "status", "message"),
    [
        (np.array([1, np.nan], np.float32), "500", "JSON cannot say NaN or infinity: ask for it in binary form"),
        (np.array([1, 2], BFLOAT16), "400", "BF16 has no form in JSON: ask for it in binary form"),
        (np.array([b"\xff"], np.object_), "400", "there are bytes that are no text: ask for it in binary form"),
    ],
)
def test_what_json_cannot_say_must_be_asked_for_in_binary_form(
    client: Any, array: Any, status: str, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=f"output 'x': {message}") as caught:
        client.infer("identity", inputs_of(triton, {"x": array}), outputs=outputs_of(triton, ["x"], binary_data=False))
    assert caught.value.status() == status


# ---- workflows of every kind -----------------------------------------------------------------------------------------------


def test_the_models_own_answer(system: System, client: Any) -> None:
    answer = client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}))
    alone = system.direct("digits-onnx", types.Tensors(inputs={"image": IMAGE}))
    assert same_bits(answer.as_numpy("logits"), alone.outputs["logits"])


def test_texts_are_embedded(system: System, client: Any) -> None:
    text = np.array([b"A text to place."], np.object_)
    answer = client.infer("text-embedding", inputs_of(triton, {"text": text}))
    alone = system.direct("text-embedding", {"text": "A text to place."})
    assert same_bits(answer.as_numpy("embedding"), alone.embedding[None])
    assert answer.as_numpy("tokens").tolist() == [alone.tokens]


def test_texts_are_continued(system: System, client: Any) -> None:
    prompts = np.array([[b"The for statement"], [b"A class"]], np.object_)
    sampling = {"max_tokens": 6, "temperature": 0.0}
    answer = client.infer("tiny-gpt", inputs_of(triton, {"text_input": prompts}), parameters=sampling)
    alone = [system.direct("tiny-gpt", {"prompt": prompt.decode(), "sampling": sampling}) for prompt in prompts.ravel()]
    assert answer.as_numpy("text_output").tolist() == [[one.text.encode()] for one in alone]
    assert answer.as_numpy("finish_reason").tolist() == [[one.finish_reason.encode()] for one in alone]
    assert answer.as_numpy("completion_tokens").tolist() == [[one.usage.completion_tokens] for one in alone]


def test_own_types_travel_as_documents(client: Any) -> None:
    documents = np.array([b'{"a": [1, 2.5, "\xc3\xa4"]}', b"{}"], np.object_)
    answer = client.infer("echo", inputs_of(triton, {"input": documents}))
    assert answer.as_numpy("output").tolist() == ['{"seen":{"a":[1,2.5,"ä"]}}'.encode(), b'{"seen":{}}']


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        ({"sequence_id": 7, "sequence_start": True}, "'sequence_id' is not supported", "400"),
        ({"sequence_id": "seven", "sequence_end": True}, "'sequence_id' is not supported", "400"),
        ({"priority": 1}, "'priority' is not supported", "400"),
        ({"parameters": {"unheard": 1}}, "parameter 'unheard' is unknown", "400"),
        ({"request_compression_algorithm": "gzip"}, "compressed bodies are not accepted", "415"),
        ({"request_compression_algorithm": "deflate"}, "compressed bodies are not accepted", "415"),
        ({"timeout": 1}, "deadline exceeded", "504"),
        ({"timeout": -1}, "timeout must be a positive number of microseconds", "400"),
        ({"outputs": [triton.InferRequestedOutput("logits", class_count=3)]}, "'classification'", "400"),
        ({"outputs": outputs_of(triton, ["logits", "logits"])}, "asked for twice", "400"),
        ({"outputs": outputs_of(triton, ["scores"])}, "scores", "400"),
        ({"request_id": "x" * 257}, "id must be a string of at most 256 characters", "400"),
    ],
)
def test_what_is_not_here_is_refused_by_name(client: Any, options: dict[str, Any], message: str, status: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}), **options)
    assert caught.value.status() == status


def test_there_is_no_shared_memory(client: Any) -> None:
    there = triton.InferInput("image", [1, 64], "FP32")
    there.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException, match="'shared_memory_"):
        client.infer("digits-onnx", [there])
    output = triton.InferRequestedOutput("logits")
    output.set_shared_memory("region", 40)
    with pytest.raises(InferenceServerException, match="'shared_memory_"):
        client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}), outputs=[output])
    with pytest.raises(InferenceServerException, match="no such path") as caught:
        client.register_system_shared_memory("region", "/region", 256)
    assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((1, 63), np.float32)}, "image"),
        ({"image": np.zeros(64, np.float32)}, "image"),
        ({"image": np.zeros((1, 64), np.float64)}, "image"),
        ({"image": np.zeros((1, 64), BFLOAT16)}, "image"),
        ({"picture": np.zeros((1, 64), np.float32)}, "picture"),
        ({"image": np.zeros((1, 64), np.float32), "more": np.zeros(1, np.int8)}, "more"),
    ],
)
def test_wrong_tensors_are_named(client: Any, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("digits-onnx", inputs_of(triton, arrays))
    assert caught.value.status() == "400"


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        ("text-embedding", {"text": np.zeros(1, np.int8)}, "datatype must be BYTES"),
        ("text-embedding", {"text": np.array([b"\xff"], np.object_)}, "text"),
        ("text-embedding", {"text": np.empty(0, np.object_)}, "must have 1 to 1024 elements"),
        ("text-embedding", {"words": np.array([b"a"], np.object_)}, "unknown input 'words'"),
        ("echo", {"input": np.array([b"{]"], np.object_)}, "element 0 is no JSON document"),
    ],
)
def test_wrong_texts_are_named(client: Any, model: str, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(model, inputs_of(triton, arrays))
    assert caught.value.status() == "400"
