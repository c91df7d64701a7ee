"""Workflows that come, change and go while the router runs; and the app behind Serve's own ingress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from ray import serve

from deployments.app import router
from tests.ray.cluster import Cluster, states
from tests.waiting import until

Deploy = Callable[..., Any]


def test_a_workflow_comes_changes_and_goes(default_system: Cluster, deployed: Deploy) -> None:
    url = f"{default_system.url}/v1/workflows/doubler/inference"
    assert httpx.post(url, json=4).status_code == 404

    deployed("doubler", "tests.ray.sample_workflows.Doubler")
    until(lambda: states(default_system).get("doubler") == "ready", seconds=20, what=lambda: "doubler ready")
    assert httpx.post(url, json=4, timeout=60).json() == 8

    deployed("doubler", "tests.ray.sample_workflows.Doubler", {"factor": 10})
    until(lambda: httpx.post(url, json=4, timeout=60).json() == 40, seconds=30, what=lambda: "the new factor")

    serve.delete("doubler")
    until(lambda: httpx.post(url, json=4, timeout=60).status_code == 404, seconds=30, what=lambda: "it is gone")


def test_applications_of_others_are_left_alone(default_system: Cluster) -> None:
    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Stranger:
        def card(self) -> dict[str, Any]:
            raise AssertionError("the router must not call this")

    serve.run(Stranger.bind(), name="stranger", route_prefix=None)  # type: ignore[attr-defined]
    try:
        httpx.get(f"{default_system.url}/v1/workflows")
        assert "stranger" not in states(default_system)
    finally:
        serve.delete("stranger")


def test_the_same_app_behind_serves_own_ingress(default_system: Cluster) -> None:
    app = router({"listen": "serve"})
    app._bound_deployment = app._bound_deployment.options(
        ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1
    )
    serve.run(app, name="behind-serve", route_prefix="/")
    try:
        url = f"http://127.0.0.1:{default_system.serve_port}"
        until(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200, seconds=20, what=lambda: "ready")
        answer = httpx.post(f"{url}/v1/workflows/text-embedding/inference", json={"text": "hello"}, timeout=60)
        assert len(answer.json()["embedding"]) == 384
        refused = httpx.post(
            f"{url}/v1/workflows/text-embedding/inference", content=b"{", headers={"content-type": "application/json"}
        )
        assert refused.json()["error"]["code"] == "parse"
        with httpx.stream(
            "POST",
            f"{url}/v1/workflows/tiny-gpt/stream",
            json={"prompt": "The try statement", "sampling": {"max_tokens": 5, "temperature": 0}},
            timeout=60,
        ) as stream:
            assert [line for line in stream.iter_lines() if line][-1] == "data: [DONE]"
    finally:
        serve.delete("behind-serve")
