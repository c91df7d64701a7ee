"""Triton's own client over gRPC, in both of its forms."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from deployments.router.keys import Keys, mint_key
from tests.router.grpc_front import GrpcFront, listening
from tests.router.router_front import Front, ScriptedClient
from workflows.tensors import Array


async def words(input_data: Any) -> AsyncGenerator[list[Any]]:
    yield [{"text": word, "finish_reason": None, "usage": None} for word in input_data["prompt"].split()]
    yield [{"text": "", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}]


@pytest.fixture
async def it() -> AsyncIterator[GrpcFront]:
    front = Front()
    front.add("m", kind="tensors")
    front.add("text", ScriptedClient(chunks=words), kind="generate")
    async with listening(front) as made:
        yield made


def tensor(name: str, array: Array, datatype: str) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


async def test_everything_but_streams(it: GrpcFront) -> None:
    numbers, texts = np.array([[1.5, np.nan]], np.float32), np.array([b"a", "é".encode(), b""], object)

    def use() -> None:
        with triton.InferenceServerClient(it.target) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("m")
            assert client.get_server_metadata().name == "infernet-serve"
            assert client.get_model_metadata("m", as_json=True)["inputs"][0]["datatype"] == "FP32"
            inputs = [tensor("x", numbers, "FP32"), tensor("t", texts, "BYTES")]
            result = client.infer("m", inputs, outputs=[triton.InferRequestedOutput("t")], request_id="7")
            assert result.get_response().id == "7"
            result = client.infer("m", inputs)
            np.testing.assert_array_equal(result.as_numpy("x"), numbers)
            np.testing.assert_array_equal(result.as_numpy("t"), texts)
            with pytest.raises(InferenceServerException, match=r"\[StatusCode\.NOT_FOUND\] model not found"):
                client.infer("absent", inputs)
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
                client.get_model_config("m")
            with pytest.raises(InferenceServerException, match=r"'sequence_.*' is not supported"):
                client.infer("m", inputs, sequence_id=1, sequence_start=True)

    await asyncio.to_thread(use)


async def test_a_stream(it: GrpcFront) -> None:
    def use() -> list[Any]:
        answers: queue.Queue[Any] = queue.Queue()
        with triton.InferenceServerClient(it.target) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            prompt = [tensor("text_input", np.array([b"one two"], object), "BYTES")]
            client.async_stream_infer("text", prompt, request_id="t", enable_empty_final_response=True)
            found: list[Any] = []
            while not found or not found[-1].get_response().parameters["triton_final_response"].bool_param:
                result, error = answers.get(timeout=10)
                assert error is None
                found.append(result)
            client.async_stream_infer("absent", prompt)
            _, error = answers.get(timeout=10)
            assert error.message() == "model not found"
            client.stop_stream()
        assert {result.get_response().id for result in found} == {"t"}
        return [result.as_numpy("text_output")[0] for result in found]

    assert await asyncio.to_thread(use) == [b"one", b"two", b""]


async def test_the_asynchronous_client(it: GrpcFront) -> None:
    numbers = np.array([[1, 2]], np.int64)
    async with triton_aio.InferenceServerClient(it.target) as client:
        assert await client.is_model_ready("m")
        result = await client.infer("m", [tensor("x", numbers, "INT64")], client_timeout=10)
        np.testing.assert_array_equal(result.as_numpy("x"), numbers)

        async def requests() -> AsyncGenerator[dict[str, Any]]:
            for request_id in ("1", "2"):
                yield {"model_name": "m", "inputs": [tensor("x", numbers, "INT64")], "request_id": request_id}

        answers = [answer async for answer in client.stream_infer(requests())]
    assert [(result.get_response().id, error) for result, error in answers] == [("1", None), ("2", None)]


async def test_a_key_goes_along_as_a_header() -> None:
    secret, key = mint_key("user")
    async with listening(keys=Keys([key])) as it, triton_aio.InferenceServerClient(it.target) as client:
        assert await client.is_server_live()
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            await client.get_server_metadata()
        await client.get_server_metadata(headers={"authorization": f"Bearer {secret}"})
