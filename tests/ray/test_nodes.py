"""A second node: its replicas are reached over the handle, and when it is lost, nobody else's requests are.

It is one more raylet on this machine, as `ray start` makes it on another one, with the resource `far`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from tests.ray.cluster import Cluster, gauges, replicas, states
from tests.ray.load import Load
from tests.waiting import until

Deploy = Callable[..., Any]
Node = subprocess.Popen[bytes]


@pytest.fixture
def far_node(default_system: Cluster) -> Iterator[Node]:
    address = ray.get_runtime_context().gcs_address
    what = [f"--address={address}", "--num-cpus=4", '--resources={"far": 1}', "--object-store-memory=100000000"]
    before = alive()
    with (default_system.folder / "far_node.log").open("wb") as log:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *what]
        node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: alive() == before + 1, seconds=60, what=lambda: f"{alive()} nodes instead of {before + 1}")
        yield node
    finally:
        kill(node)
        until(lambda: alive() == before, seconds=60, what=lambda: f"{alive()} nodes instead of {before}")


def alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]


def kill(node: Node) -> None:
    """All processes of a node at once, as when its machine loses power."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == node.pid:
                    os.kill(int(entry.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
    node.wait()


def on_both_nodes(deployed: Deploy, name: str, workflow: str) -> None:
    options = {"num_cpus": 0.1}
    deployed(name, workflow, num_replicas=2, max_replicas_per_node=1, ray_actor_options=options)


async def test_the_near_replica_has_a_lane_and_the_far_one_gets_its_share_over_the_handle(
    default_system: Cluster, far_node: Node, deployed: Deploy
) -> None:
    on_both_nodes(deployed, "placed", "tests.ray.sample_workflows.Placed")

    def ways() -> tuple[float | None, float | None]:
        lanes, replicas = (gauges(default_system, f"infernet_workflow_{what}") for what in ("lanes", "replicas"))
        return lanes.get("placed"), replicas.get("placed")

    until(lambda: ways() == (1, 2), seconds=30, what=lambda: f"lanes and replicas: {ways()}")
    pids: set[int] = set()

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=default_system.url, timeout=60) as http:
            for _ in range(50):
                pids.add((await http.post("/v1/workflows/placed/inference", json=1)).json()["pid"])

    await asyncio.gather(*(ask() for _ in range(8)))  # one after the other, all would take the lane
    far = {pid for pid in pids if os.getsid(pid) == far_node.pid}
    assert (len(pids - far), len(far)) == (1, 1)


async def test_a_lost_node_costs_nobody_else_a_request(
    default_system: Cluster, far_node: Node, deployed: Deploy
) -> None:
    on_both_nodes(deployed, "doubler", "tests.ray.sample_workflows.Doubler")
    until(
        lambda: gauges(default_system, "infernet_workflow_replicas").get("doubler") == 2,
        seconds=30,
        what=lambda: f"two replicas, got {states(default_system)}",
    )
    async with Load(default_system.url) as load:
        load.unary("text-embedding", {"text": "still here"}, None)
        load.unary("doubler", 21, 42)  # may run twice: what was lost with the node is asked for again
        await load.answers(200)
        kill(far_node)
        await load.answers(200, "doubler")
        await load.answers(50, "text-embedding")
        await load.until(lambda: replicas("doubler").get("RUNNING") == 1)
    assert load.failures == []
