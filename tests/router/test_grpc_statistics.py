"""Statistics over gRPC: the same as over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict

from tests.router.grpc_front import REQUEST, failure, listening
from tests.router.test_in_process import Doubling, Spelling, serving
from tests.router.test_statistics import TIMES, of

CODE = grpc.StatusCode


def numbers(*values: int) -> Any:
    array = np.array(values, np.int64)
    request = REQUEST(model_name="m", raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="INT64", shape=array.shape)
    return request


async def test_runs_are_counted_and_said_as_over_http() -> None:
    async with serving(("m", Doubling()), ("s", Spelling())) as front, listening(front) as it, it.caller() as caller:
        for value in (1, 2):
            answer = await caller.call("ModelInfer", numbers(value))
            assert np.frombuffer(answer.raw_output_contents[0], np.int64) == [2 * value]
        await failure(caller.call("ModelInfer", numbers(13)))
        async with asyncio.timeout(5):
            while True:  # until the last run is counted
                (model,) = (await caller.ask("ModelStatistics", name="m")).model_stats
                (expected,) = (await of(front, "/v2/models/m/stats")).values()
                if as_text(expected).items() <= plain(model).items() and model.inference_stats.fail.count:
                    break
        both = [model.name for model in (await caller.ask("ModelStatistics")).model_stats]
        with_triton = await asyncio.to_thread(statistics_of, it.target)
        error = await failure(caller.ask("ModelStatistics", name="absent"))
    assert both == ["m", "s"]
    assert (model.inference_count, model.execution_count) == (2, 3)
    assert model.inference_stats.fail.count == 1
    assert set(plain(model)["inference_stats"]) == TIMES
    assert with_triton["model_stats"][0]["inference_count"] == "2"
    assert error.code() == CODE.NOT_FOUND


def statistics_of(target: str) -> Any:
    with triton.InferenceServerClient(target) as client:
        return client.get_inference_statistics("m", as_json=True)


def plain(model: Any) -> dict[str, Any]:
    said: dict[str, Any] = MessageToDict(
        model, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return said


def as_text(value: Any) -> Any:
    """Whole numbers as protobuf writes those of 64 bits."""
    if isinstance(value, dict):
        return {name: as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_text(part) for part in value]
    return str(value) if isinstance(value, int) else value
