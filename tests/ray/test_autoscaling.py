"""Serve scales a workflow by the items its replicas hold, which Serve itself cannot see."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ray.cluster import Cluster, gauges, replicas, states
from tests.waiting import until

Deploy = Callable[..., Any]


@pytest.mark.parametrize("local_lanes", [True, False])
async def test_items_bring_further_replicas_and_their_end_takes_them_away(
    default_system: Cluster, by_handle: Cluster, deployed: Deploy, tmp_path: Path, *, local_lanes: bool
) -> None:
    cluster = default_system if local_lanes else by_handle
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    scaling = {
        "min_replicas": 1,
        "max_replicas": 2,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 1,
        "policy": {
            "policy_function": "deployments.autoscaling:by_items",
            "policy_kwargs": {"target_items": 4},
        },
    }
    options = {"gate": str(gate), "closed": str(tmp_path / "closed")}
    deployed("gated", "tests.ray.sample_workflows.GatedStream", options, autoscaling_config=scaling)
    until(lambda: states(cluster).get("gated") == "ready", seconds=20, what=lambda: "gated ready")

    async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as http:
        asked = []
        for _ in range(6):  # one by one: each goes alone, until so many are out that the others wait at the router
            asked.append(asyncio.create_task(http.post("/v1/workflows/gated/inference", json=3)))
            await asyncio.to_thread(until, lambda: inflight(cluster) >= len(asked), seconds=20, what=lambda: "it came")
        asked += [asyncio.create_task(http.post("/v1/workflows/gated/inference", json=3)) for _ in range(6)]
        try:
            await asyncio.to_thread(
                until,
                lambda: replicas("gated").get("RUNNING") == 2,
                seconds=60,
                what=lambda: f"{replicas('gated')}, {sum(task.done() for task in asked)} answered",
            )
        finally:  # whoever stands at the gate would keep the application from going
            release = asyncio.create_task(asyncio.to_thread(open_the_gate, gate, asked))
            answers = await asyncio.gather(*asked)
            await release

    assert [answer.json() for answer in answers] == [[0, 1, 2]] * 12
    await asyncio.to_thread(
        until, lambda: replicas("gated") == {"RUNNING": 1}, seconds=60, what=lambda: f"{replicas('gated')}"
    )


def inflight(cluster: Cluster) -> float:
    return gauges(cluster, "infernet_workflow_inflight").get("gated", 0.0)


def open_the_gate(gate: Path, asked: list[asyncio.Task[Any]]) -> None:
    """Lets through whoever stands at it, until nobody is left to come."""
    while not all(task.done() for task in asked):
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody stands there right now
            os.sched_yield()


def test_a_workflow_without_replicas_gets_one_for_whoever_asks(default_system: Cluster, deployed: Deploy) -> None:
    scaling = {
        "min_replicas": 0,
        "max_replicas": 1,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
        "downscale_to_zero_delay_s": 1,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 1,
        "policy": {"policy_function": "deployments.autoscaling:by_items"},
    }
    deployed("asleep", "tests.ray.sample_workflows.Doubler", autoscaling_config=scaling)
    until(lambda: "asleep" in states(default_system), seconds=20, what=lambda: f"{states(default_system)}")
    assert not replicas("asleep")

    def ask() -> httpx.Response:
        return httpx.post(f"{default_system.url}/v1/workflows/asleep/inference", json=3, timeout=60)

    first = ask()  # nobody knows yet what it takes
    assert (first.status_code, first.headers["retry-after"]) == (503, "2")
    assert "the first request starts a replica" in first.json()["error"]["message"]
    until(lambda: ask().status_code == 200, seconds=60, what=lambda: ask().text)
    until(lambda: not replicas("asleep"), seconds=60, what=lambda: f"{replicas('asleep')}")
    assert ask().json() == 6  # and now it is waited for
