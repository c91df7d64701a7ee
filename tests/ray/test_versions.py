"""Two versions of one workflow side by side: both by their numbers, and traffic shared among them as it is configured."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tests.ray.cluster import Cluster, states
from tests.waiting import until

IMAGE = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]}
REQUESTS = 800
MANY = 5000


async def shares(
    cluster: Cluster, path: str = "/v2/models/digits-onnx/infer", requests: int = REQUESTS
) -> Counter[str]:
    """Which versions have answered."""
    found: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as caller:

        async def some(count: int) -> None:
            for _ in range(count):
                answer = await caller.post(path, json=IMAGE)
                assert answer.status_code == 200, answer.text
                assert answer.json()["model_name"] == "digits-onnx"
                found[answer.json()["model_version"]] += 1

        await asyncio.gather(*(some(requests // 20) for _ in range(20)))
    return found


def image() -> list[grpc.InferInput]:
    tensor = grpc.InferInput("image", [1, 64], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 64), np.float32))
    return [tensor]


def router_replicas(cluster: Cluster) -> set[str]:
    families = text_string_to_metric_families(httpx.get(f"{cluster.url}/metrics", timeout=60).text)
    return {sample.labels["replica"] for family in families for sample in family.samples if "replica" in sample.labels}


async def test_traffic_is_shared_and_shares_change_while_it_flows(default_system: Cluster) -> None:
    config = default_system.config()
    apps: dict[str, Any] = {app["name"]: app for app in config["applications"]}
    second = {**apps["digits-torch"], "name": "digits-second"}
    second["args"] = {**second["args"], "version_of": "digits-onnx", "version": "2"}
    config["applications"].append(second)
    settings = apps["router"]["deployments"][0]["user_config"] = {"traffic": {"digits-onnx": {"1": 90, "2": 10}}}
    default_system.deploy(config)
    until(
        lambda: states(default_system).get("digits-second") == "ready",
        seconds=120,
        what=lambda: str(states(default_system)),
    )
    routers = router_replicas(default_system)
    assert len(routers) == 1

    async with httpx.AsyncClient(base_url=default_system.url, timeout=60) as caller:
        assert (await caller.get("/v2/models/digits-onnx")).json()["versions"] == ["1", "2"]
        for version in ("1", "2"):
            path = f"/v2/models/digits-onnx/versions/{version}/infer"
            assert await shares(default_system, path) == {version: REQUESTS}
    async with triton.InferenceServerClient(f"127.0.0.1:{default_system.grpc_port}") as client:
        for version in ("1", "2"):
            assert (await client.infer("digits-onnx", image(), version)).get_response().model_version == version
        with pytest.raises(InferenceServerException, match="model not found"):
            await client.infer("digits-onnx", image(), "3")
        found = Counter([(await client.infer("digits-onnx", image())).get_response().model_version for _ in range(100)])
        assert abs(found["2"] - 10) <= 2, found
    found = await shares(default_system, requests=MANY)
    assert abs(found["2"] - 0.1 * MANY) <= 0.02 * MANY, found

    settings["traffic"]["digits-onnx"] = {"1": 1, "2": 1}
    default_system.deploy(config)
    found = await shares(default_system)  # which `serve deploy` has not waited for
    while abs(found["2"] - 0.5 * REQUESTS) > 0.02 * REQUESTS:
        assert found["2"] >= 0.08 * REQUESTS, found
        found = await shares(default_system)
    assert router_replicas(default_system) == routers  # not restarted

    default_system.deploy(default_system.config())
    until(lambda: "digits-second" not in states(default_system), seconds=60, what=lambda: str(states(default_system)))
    assert await shares(default_system) == {"1": REQUESTS}
