"""Triton's gRPC client against the real router: tensors, models of every kind, many requests over one call, refusals."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from hypothesis import given
from tritonclient.utils import InferenceServerException

from tests.clients.system import System
from tests.clients.tensors import ON_A_SERVER, inputs_of, named_tensors, outputs_of, same_bits
from workflows import types

IMAGE = np.random.default_rng(3).random((3, 64), np.float32)
MANY = 100
WAIT_S = 30


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Any]:
    with triton.InferenceServerClient(system.grpc) as made:
        yield made


# ---- one at a time ---------------------------------------------------------------------------------------------------------


@ON_A_SERVER
@given(arrays=named_tensors())
def test_any_tensors_come_back_bit_for_bit(client: Any, arrays: dict[str, Any]) -> None:
    answer = client.infer("identity", inputs_of(triton, arrays), request_id="r-1")
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r-1", "identity", "1")
    assert [output.name for output in response.outputs] == list(arrays)
    for name, array in arrays.items():
        assert same_bits(answer.as_numpy(name), array), name


def test_only_the_outputs_asked_for_come(client: Any) -> None:
    arrays = {"a": np.zeros(1, np.int8), "b": np.ones(1, np.int8)}
    answer = client.infer("identity", inputs_of(triton, arrays), outputs=outputs_of(triton, ["b"]))
    assert answer.as_numpy("a") is None
    assert same_bits(answer.as_numpy("b"), arrays["b"])


def test_a_large_tensor_comes_back(client: Any) -> None:
    array = np.random.default_rng(4).random((1 << 20, 4), np.float32)  # 16 MiB
    assert same_bits(client.infer("identity", inputs_of(triton, {"x": array})).as_numpy("x"), array)


def test_the_models_own_answer(system: System, client: Any) -> None:
    answer = client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}))
    alone = system.direct("digits-onnx", types.Tensors(inputs={"image": IMAGE}))
    assert same_bits(answer.as_numpy("logits"), alone.outputs["logits"])


def test_texts_are_embedded(system: System, client: Any) -> None:
    answer = client.infer("text-embedding", inputs_of(triton, {"text": np.array([b"A text."], np.object_)}))
    alone = system.direct("text-embedding", {"text": "A text."})
    assert same_bits(answer.as_numpy("embedding"), alone.embedding[None])


def test_own_types_travel_as_documents(client: Any) -> None:
    answer = client.infer("echo", inputs_of(triton, {"input": np.array([b'{"a": 1}', b"{}"], np.object_)}))
    assert answer.as_numpy("output").tolist() == [b'{"seen":{"a":1}}', b'{"seen":{}}']


def test_the_server_its_models_and_what_they_have_done(system: System, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits-onnx", "1")
    assert client.get_server_metadata().name == "infernet-serve"
    (image,) = client.get_model_metadata("digits-onnx").inputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "FP32", [-1, 64])
    found = client.get_model_repository_index().models
    assert {model.name: model.state for model in found} == dict.fromkeys(system.workflows, "READY")
    before = client.get_inference_statistics("digits-onnx").model_stats[0].inference_count
    client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}))
    assert client.get_inference_statistics("digits-onnx").model_stats[0].inference_count == before + 1


def test_a_model_is_unloaded_and_comes_back(client: Any) -> None:
    document = inputs_of(triton, {"input": np.array([b"{}"], np.object_)})
    try:
        client.unload_model("echo")
        assert not client.is_model_ready("echo")
        with pytest.raises(InferenceServerException, match="unloaded") as caught:
            client.infer("echo", document)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
    finally:
        client.load_model("echo")
    assert client.infer("echo", document).as_numpy("output").tolist() == [b'{"seen":{}}']


# ---- many at once ----------------------------------------------------------------------------------------------------------


def test_one_call_holds_many_requests(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        for number in range(MANY):
            model = "nowhere" if number % 10 == 9 else "identity"
            array = np.full((number % 3 + 1,), number, np.int32)
            client.async_stream_infer(model, inputs_of(triton, {"x": array}), request_id=str(number))
        for number in range(MANY):
            result, error = answers.get(timeout=WAIT_S)
            if number % 10 == 9:
                assert error.message() == "model not found"
            else:
                assert result.get_response().id == str(number)
                assert same_bits(result.as_numpy("x"), np.full((number % 3 + 1,), number, np.int32))
    finally:
        client.stop_stream()


def test_a_text_comes_piece_by_piece(system: System, client: Any) -> None:
    sampling = {"max_tokens": 8, "temperature": 0.0}
    alone = system.direct("tiny-gpt", {"prompt": "The for statement", "sampling": sampling})
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        prompt = inputs_of(triton, {"text_input": np.array([b"The for statement"], np.object_)})
        client.async_stream_infer("tiny-gpt", prompt, parameters=sampling, enable_empty_final_response=True)
        pieces: list[Any] = []
        while not pieces or not pieces[-1].get_response().parameters["triton_final_response"].bool_param:
            result, error = answers.get(timeout=WAIT_S)
            assert error is None
            pieces.append(result)
    finally:
        client.stop_stream()
    assert len(pieces) > 1
    assert b"".join(piece.as_numpy("text_output").item() for piece in pieces).decode() == alone.text


@pytest.fixture
async def aio_client(system: System) -> AsyncIterator[Any]:
    async with triton_aio.InferenceServerClient(system.grpc) as made:
        yield made


async def test_many_requests_at_once_get_their_own_answers(system: System, aio_client: Any) -> None:
    rows = np.random.default_rng(5).random((MANY, 1, 64), np.float32)

    async def ask(number: int) -> Any:
        if number % 5 == 4:
            with pytest.raises(InferenceServerException, match="image"):
                await aio_client.infer("digits-onnx", inputs_of(triton, {"image": rows[number][:, 1:]}))
        inputs = inputs_of(triton, {"image": rows[number]})
        answer = await aio_client.infer("digits-onnx", inputs, request_id=str(number))
        assert answer.get_response().id == str(number)
        return answer.as_numpy("logits")

    found = await asyncio.gather(*map(ask, range(MANY)))
    for row, logits in zip(rows, found, strict=True):
        alone = system.direct("digits-onnx", types.Tensors(inputs={"image": row})).outputs["logits"]
        np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)


async def test_the_async_client_has_streams_as_well(aio_client: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            inputs = inputs_of(triton, {"x": np.array([number], np.uint8)})
            yield {"model_name": "identity", "inputs": inputs, "request_id": str(number)}

    found = [(result, error) async for result, error in aio_client.stream_infer(requests())]
    assert [error for _, error in found] == [None] * 3
    assert [result.as_numpy("x").tolist() for result, _ in found] == [[0], [1], [2]]


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message", "status"),
    [
        ({"sequence_id": 7, "sequence_start": True}, "'sequence_[a-z]*' is not supported", "INVALID_ARGUMENT"),
        ({"priority": 1}, "'priority' is not supported", "INVALID_ARGUMENT"),
        ({"parameters": {"unheard": 1}}, "parameter 'unheard' is unknown", "INVALID_ARGUMENT"),
        ({"timeout": 1}, "deadline exceeded", "DEADLINE_EXCEEDED"),
        ({"compression_algorithm": "gzip"}, "'gzip' is disabled", "UNIMPLEMENTED"),
        ({"model_version": "2"}, "model not found", "NOT_FOUND"),
        ({"outputs": [triton.InferRequestedOutput("logits", class_count=3)]}, "'classification'", "INVALID_ARGUMENT"),
        ({"outputs": outputs_of(triton, ["logits", "logits"])}, "asked for twice", "INVALID_ARGUMENT"),
        ({"outputs": outputs_of(triton, ["scores"])}, "scores", "INVALID_ARGUMENT"),
    ],
)
def test_what_is_not_here_is_refused_by_name(client: Any, options: dict[str, Any], message: str, status: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("digits-onnx", inputs_of(triton, {"image": IMAGE}), **options)
    assert caught.value.status() == f"StatusCode.{status}"


def test_there_is_no_shared_memory(client: Any) -> None:
    there = triton.InferInput("image", [1, 64], "FP32")
    there.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException, match="'shared_memory_"):
        client.infer("digits-onnx", [there])
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("region", "/region", 256)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


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
    with pytest.raises(InferenceServerException) as caught:
        ask(client)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
