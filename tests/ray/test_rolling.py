"""Changing the router and a workflow while both are used: no request fails, and no stream is cut."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
from ray import serve
from ray.serve.schema import ApplicationStatus

from tests.ray.cluster import Cluster
from tests.ray.load import Load
from tests.waiting import until


async def test_redeploying_the_router_and_a_workflow_under_load_fails_no_request(default_system: Cluster) -> None:
    config = default_system.config()
    apps = {app["name"]: app for app in config["applications"]}
    body = {"prompt": "The with statement", "sampling": {"max_tokens": 40, "temperature": 0}}
    async with Load(default_system.url) as load:
        load.unary("digits-onnx", _image(), None)
        load.stream("tiny-gpt", body)
        await load.answers(40)

        for number in (1, 2):
            apps["router"]["args"]["drain_s"] = 300 + number
            apps["digits-onnx"]["args"]["summary"] = f"version {number}"
            apps["tiny-gpt"]["args"]["summary"] = f"version {number}"
            default_system.deploy(config)
            await load.until(partial(_settled, default_system, f"version {number}"))
            await load.answers(40)

    assert load.failures == []
    assert load.right["digits-onnx"] > 40
    assert load.right["tiny-gpt stream"] > 2
    default_system.deploy(default_system.config())
    until(lambda: _settled(default_system, "Continues a text"), seconds=60, what=lambda: "the default system again")


def _image() -> dict[str, Any]:
    return {"inputs": {"image": {"dtype": "float32", "shape": [1, 64], "data": [1.0] * 64}}}


def _settled(cluster: Cluster, summary: str) -> bool:
    """Whether the new versions answer and no old replica is left."""
    cards = [w["card"] for w in httpx.get(f"{cluster.url}/v1/workflows", timeout=60).json()["workflows"]]
    new = any(card and card["name"] == "tiny-gpt" and card["summary"].startswith(summary) for card in cards)
    apps = serve.status().applications
    return new and all(apps[name].status == ApplicationStatus.RUNNING for name in ("router", "digits-onnx", "tiny-gpt"))
