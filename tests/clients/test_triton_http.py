"""Triton's HTTP client, sync and async, against the real router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.clients.system import System
from tests.clients.tensors import named_tensors, same_bits
from workflows import types

ON_A_SERVER = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NO_JSON = ("FP16", "BF16")  # for which this client, or the protocol, has no JSON form


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Any]:
    with triton.InferenceServerClient(system.http) as made:
        yield made


def inputs_of(arrays: dict[str, Any], *, binary: bool, aio: bool = False) -> list[Any]:
    module = triton_aio if aio else triton
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


def outputs_of(names: Any, *, binary: bool, aio: bool = False) -> list[Any]:
    module = triton_aio if aio else triton
    return [module.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_and_its_models(system: System, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits-onnx")
    assert client.is_model_ready("digits-onnx", "1")
    assert not client.is_model_ready("nowhere")
    assert client.get_server_metadata()["name"] == "infernet-serve"
    metadata = client.get_model_metadata("digits-onnx")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    with pytest.raises(InferenceServerException, match="model not found"):
        client.get_model_metadata("nowhere")


@ON_A_SERVER
@given(arrays=named_tensors(), binary_out=st.just(True))
def test_any_tensors_in_binary_form_come_back_bit_for_bit(
    client: Any, arrays: dict[str, Any], binary_out: bool
) -> None:
    answer = client.infer(
        "identity", inputs_of(arrays, binary=True), outputs=outputs_of(arrays, binary=binary_out), request_id="r-1"
    )
    for name, array in arrays.items():
        assert same_bits(answer.as_numpy(name), array), name
    assert answer.get_response()["id"] == "r-1"


@ON_A_SERVER
@given(
    arrays=named_tensors(
        tuple(name for name in ("BOOL", "INT8", "INT64", "UINT64", "FP32", "FP64", "BYTES", "INT16", "UINT8")),
        finite=True,
    ),
    binary_in=st.booleans(),
    binary_out=st.booleans(),
)
def test_json_and_binary_mix_as_the_client_likes(
    client: Any, arrays: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    answer = client.infer(
        "identity", inputs_of(arrays, binary=binary_in), outputs=outputs_of(arrays, binary=binary_out)
    )
    for name, array in arrays.items():
        assert same_bits(answer.as_numpy(name), array), name


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_answers_are_compressed_where_the_client_asks(client: Any, coding: str | None, binary: bool) -> None:
    array = np.zeros((100, 100), np.float32)
    answer = client.infer(
        "identity",
        inputs_of({"x": array}, binary=True),
        outputs=outputs_of(["x"], binary=binary),
        response_compression_algorithm=coding,
    )
    assert same_bits(answer.as_numpy("x"), array)


def test_the_models_own_answer(system: System, client: Any) -> None:
    image = np.random.default_rng(0).random((3, 64), np.float32)
    answer = client.infer("digits-onnx", inputs_of({"image": image}, binary=True))
    alone = system.direct("digits-onnx", types.Tensors(inputs={"image": image}))
    assert same_bits(answer.as_numpy("logits"), alone.outputs["logits"])


def test_texts_are_embedded(system: System, client: Any) -> None:
    text = np.array([b"A text to place."], np.object_)
    answer = client.infer("text-embedding", inputs_of({"text": text}, binary=True))
    alone = system.direct("text-embedding", {"text": "A text to place."})
    assert same_bits(answer.as_numpy("embedding"), alone.embedding[None])
    assert answer.as_numpy("tokens").tolist() == [alone.tokens]


def test_texts_are_continued(system: System, client: Any) -> None:
    prompts = np.array([[b"The for statement"], [b"A class"]], np.object_)
    parameters = {"max_tokens": 6, "temperature": 0.0}
    answer = client.infer("tiny-gpt", inputs_of({"text_input": prompts}, binary=True), parameters=parameters)
    alone = [
        system.direct("tiny-gpt", {"prompt": prompt.decode(), "sampling": {"max_tokens": 6, "temperature": 0.0}})
        for prompt in prompts.ravel()
    ]
    assert answer.as_numpy("text_output").tolist() == [[one.text.encode()] for one in alone]
    assert answer.as_numpy("completion_tokens").tolist() == [[one.usage.completion_tokens] for one in alone]


def test_own_types_travel_as_documents(client: Any) -> None:
    document = np.array([b'{"a": [1, 2.5, "\xc3\xa4"]}'], np.object_)
    answer = client.infer("echo", inputs_of({"input": document}, binary=True))
    assert answer.as_numpy("output").tolist() == ['{"seen":{"a":[1,2.5,"ä"]}}'.encode()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_id": 7, "sequence_start": True}, "'sequence_id' is not supported"),
        ({"priority": 1}, "'priority' is not supported"),
        ({"parameters": {"unheard": 1}}, "parameter 'unheard' is unknown"),
        ({"request_compression_algorithm": "gzip"}, "compressed bodies are not accepted"),
        ({"model_version": "2"}, "model not found"),
        ({"timeout": 1}, "deadline exceeded"),
    ],
)
def test_what_is_not_here_is_refused_by_name(client: Any, options: dict[str, Any], message: str) -> None:
    image = np.zeros((1, 64), np.float32)
    with pytest.raises(InferenceServerException, match=message):
        client.infer("digits-onnx", inputs_of({"image": image}, binary=True), **options)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((1, 63), np.float32)}, "image"),
        ({"image": np.zeros((1, 64), np.float64)}, "image"),
        ({"picture": np.zeros((1, 64), np.float32)}, "picture"),
        ({"image": np.zeros((1, 64), np.float32), "more": np.zeros(1, np.int8)}, "more"),
    ],
)
def test_wrong_tensors_are_named(client: Any, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("digits-onnx", inputs_of(arrays, binary=True))
    assert caught.value.status() == "400"


async def test_the_async_client_does_the_same(system: System) -> None:
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([b"x", "ä".encode()], np.object_)}
    async with triton_aio.InferenceServerClient(system.http) as client:
        assert await client.is_model_ready("identity")
        for binary in (True, False):
            answer = await client.infer(
                "identity",
                inputs_of(arrays, binary=binary, aio=True),
                outputs=outputs_of(arrays, binary=binary, aio=True),
            )
            assert all(same_bits(answer.as_numpy(name), array) for name, array in arrays.items())
        with pytest.raises(InferenceServerException, match="model not found"):
            await client.infer("nowhere", inputs_of(arrays, binary=True, aio=True))
