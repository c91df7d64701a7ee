"""The default system over gRPC: the same answers as over HTTP, keys, and a router that is replaced while it is called."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import yaml
from ray import serve
from ray.serve.schema import ApplicationStatus
from tritonclient.utils import InferenceServerException

from deployments.app import router
from deployments.router.keys import mint_key
from tests.ports import free_port
from tests.ray.cluster import ROOT, Cluster
from tests.waiting import until

SAMPLE: dict[str, Any] = json.loads((ROOT / "workflows/demo/digits_sample.json").read_text())["inputs"]["image"]


def image() -> Any:
    array = np.array(SAMPLE["data"], np.float32).reshape(SAMPLE["shape"])
    tensor = triton.InferInput("image", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def prompt() -> Any:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"The with statement"], object))
    return [tensor]


def target(cluster: Cluster) -> str:
    return f"127.0.0.1:{cluster.grpc_port}"


async def test_the_default_system_answers_over_grpc_as_over_http(default_system: Cluster) -> None:
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": SAMPLE["shape"], "data": SAMPLE["data"]}]}
    native = {"prompt": "The with statement", "sampling": {"max_tokens": 20, "temperature": 0}}
    async with httpx.AsyncClient(base_url=default_system.url, timeout=60) as http:
        (expected,) = (await http.post("/v2/models/digits-onnx/infer", json=body)).json()["outputs"]
        text = (await http.post("/v1/workflows/tiny-gpt/inference", json=native)).json()["text"]
    async with triton_aio.InferenceServerClient(target(default_system)) as client:
        assert await client.is_server_ready()
        logits = (await client.infer("digits-onnx", image())).as_numpy("logits")
        np.testing.assert_array_equal(logits.ravel(), np.array(expected["data"], np.float32))

        async def requests() -> Any:
            yield {"model_name": "tiny-gpt", "inputs": prompt(), "parameters": {"max_tokens": 20, "temperature": 0.0}}

        answers = [answer async for answer in client.stream_infer(requests())]
    assert [error for _, error in answers] == [None] * len(answers)
    assert b"".join(answer.as_numpy("text_output")[0] for answer, _ in answers).decode() == text
    assert len(answers) > 2


async def test_keys_are_asked_for_where_they_are_configured(default_system: Cluster, tmp_path: Path) -> None:
    secret, key = mint_key("user", workflows=["digits-*"])
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [key.model_dump()]}))
    grpc_port = free_port()
    app = router(
        {"port": free_port(), "grpc": {"port": grpc_port}, "keys_file": str(file), "access_log": str(tmp_path / "a")}
    )
    app._bound_deployment = app._bound_deployment.options(ray_actor_options={"num_cpus": 0.1})
    serve.run(app, name="router-with-keys", route_prefix=None)
    try:
        headers = {"authorization": f"Bearer {secret}"}
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            assert await client.is_server_live()
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                await client.infer("digits-onnx", image())
            await client.infer("digits-onnx", image(), headers=headers)
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                await client.infer("tiny-gpt", prompt(), headers=headers)
    finally:
        serve.delete("router-with-keys")


class Calls:
    """Callers that ask as soon as they have their answer: some keep their connection, some open a new one each time."""

    def __init__(self, at: str) -> None:
        self._at = at
        self._done = asyncio.Event()
        self.right: Counter[str] = Counter()
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._ask(fresh=number % 2 == 0)) for number in range(4)]
        self._callers.append(asyncio.create_task(self._stream()))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._done.set()
        await asyncio.gather(*self._callers)

    async def more(self, count: int) -> None:
        """Returns after so many more right answers."""
        goal = self.right.total() + count
        async with asyncio.timeout(60):
            while self.right.total() < goal:
                await asyncio.sleep(0.02)

    async def _ask(self, *, fresh: bool) -> None:
        while not self._done.is_set():
            async with triton_aio.InferenceServerClient(self._at) as client:
                while not self._done.is_set():
                    await self._note("digits-onnx", client.infer("digits-onnx", image(), client_timeout=30))
                    if fresh:
                        break

    async def _stream(self) -> None:
        parameters = {"max_tokens": 20, "temperature": 0.0}

        async def requests() -> Any:
            yield {"model_name": "tiny-gpt", "inputs": prompt(), "parameters": parameters}

        async def whole(client: Any) -> None:
            answers = [answer async for answer in client.stream_infer(requests())]
            last, error = answers[-1]
            if error is not None or not last.get_response().parameters["triton_final_response"].bool_param:
                raise InferenceServerException(f"ended with {error}")

        async with triton_aio.InferenceServerClient(self._at) as client:
            while not self._done.is_set():
                await self._note("tiny-gpt", whole(client))

    async def _note(self, name: str, asking: Any) -> None:
        try:
            await asking
            self.right[name] += 1
        except (InferenceServerException, grpc.RpcError) as error:
            self.failures.append(f"{name}: {error}")


async def test_redeploying_the_router_fails_no_call(default_system: Cluster) -> None:
    config = default_system.config()

    def redeploy(drain_s: int) -> None:
        config["applications"][0]["args"]["drain_s"] = drain_s
        default_system.deploy(config)
        until(replaced, seconds=120, what=lambda: str(serve.status().applications["router"]))

    async with Calls(target(default_system)) as calls:
        for drain_s in (301, 302):
            await calls.more(40)
            await asyncio.to_thread(redeploy, drain_s)
            await calls.more(40)
    assert calls.failures == []
    assert min(calls.right["digits-onnx"], calls.right["tiny-gpt"]) > 0
    default_system.deploy(default_system.config())


def replaced() -> bool:
    """Whether the new router runs, and no old one."""
    return serve.status().applications["router"].status == ApplicationStatus.RUNNING
