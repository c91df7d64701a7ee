"""Triton's asyncio HTTP client against the real router, many requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tests.clients.system import System
from tests.clients.tensors import inputs_of, outputs_of, same_bits
from workflows import types

MANY = 100


@pytest.fixture
async def client(system: System) -> AsyncIterator[Any]:
    async with triton.InferenceServerClient(system.http) as made:
        yield made


async def test_the_server_and_its_models(client: Any) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("identity")
    assert not await client.is_model_ready("nowhere")
    assert (await client.get_server_metadata())["name"] == "infernet-serve"
    assert (await client.get_model_metadata("digits-onnx"))["name"] == "digits-onnx"
    with pytest.raises(InferenceServerException, match="model not found"):
        await client.get_model_metadata("nowhere")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
async def test_tensors_come_back(client: Any, binary: bool, coding: str | None) -> None:
    arrays = {"a": np.arange(600, dtype=np.int16).reshape(200, 3), "b": np.array([b"x", "ä".encode()], np.object_)}
    answer = await client.infer(
        "identity",
        inputs_of(triton, arrays, binary_data=binary),
        outputs=outputs_of(triton, arrays, binary_data=binary),
        response_compression_algorithm=coding,
    )
    assert all(same_bits(answer.as_numpy(name), array) for name, array in arrays.items())


async def test_many_requests_at_once_get_their_own_answers(system: System, client: Any) -> None:
    rows = np.random.default_rng(1).random((MANY, 1, 64), np.float32)

    async def ask(number: int) -> None:
        image = rows[number]
        if number % 3 == 2:  # neighbours of another model, and wrong ones
            with pytest.raises(InferenceServerException, match="image"):
                await client.infer("digits-onnx", inputs_of(triton, {"image": image[:, 1:]}))
            image = rows[number] * 2
            back = await client.infer("identity", inputs_of(triton, {"x": image}), request_id=str(number))
            assert same_bits(back.as_numpy("x"), image)
        else:
            back = await client.infer("digits-onnx", inputs_of(triton, {"image": image}), request_id=str(number))
            found[number] = back.as_numpy("logits")
        assert back.get_response()["id"] == str(number)

    found: dict[int, Any] = {}
    await asyncio.gather(*map(ask, range(MANY)))
    assert len(found) == MANY - MANY // 3
    for number, logits in found.items():
        alone = system.direct("digits-onnx", types.Tensors(inputs={"image": rows[number]})).outputs["logits"]
        np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)


async def test_errors_are_told(client: Any) -> None:
    inputs = inputs_of(triton, {"image": np.zeros((1, 64), np.float32)})
    for options, message in (
        ({"request_compression_algorithm": "gzip"}, "compressed bodies are not accepted"),
        ({"priority": 3}, "'priority' is not supported"),
        ({"model_version": "7"}, "model not found"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            await client.infer("digits-onnx", inputs, **options)
