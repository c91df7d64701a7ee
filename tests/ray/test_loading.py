"""A workflow is taken out of memory and back by somebody else than the routers, which find out, with lanes and without."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.util.state import list_actors

from deployments.ray_client import RayClient
from tests.contract import Deployment, Place, collect
from tests.orders import AsyncOrders
from tests.ray.cluster import Cluster, replicas, states
from tests.waiting import until
from workflows.errors import NotReady

Deploy = Callable[..., Any]
PATIENCE_S = 60.0


def pids(application: str) -> set[int]:
    filters: Any = [("class_name", "=", f"ServeReplica:{application}:WorkflowDeployment"), ("state", "=", "ALIVE")]
    return {int(actor.pid or 0) for actor in list_actors(filters=filters)}


def entry(cluster: Cluster, name: str) -> tuple[str, str]:
    """State and reason."""
    answer = httpx.get(f"{cluster.url}/v1/workflows/{name}").json()
    return answer["state"], answer["reason"]


async def answers(cluster: Cluster, name: str, count: int) -> set[int]:
    async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as http:
        found = await asyncio.gather(*(http.post(f"/v1/workflows/{name}/inference", json=21) for _ in range(count)))
    return {answer.status_code for answer in found}


async def seen(routers: list[Cluster], name: str, expected: Callable[[tuple[str, str]], bool]) -> None:
    def all_say_so() -> bool:
        return all(expected(entry(router, name)) for router in routers)

    await asyncio.to_thread(
        until, all_say_so, seconds=20, what=lambda: f"{[entry(router, name) for router in routers]}"
    )


async def another_one_is_loaded(client: RayClient) -> None:
    """Of two replicas, beside one that is unloaded. How a router describes the two does not say that it is there: until
    Serve has noticed a death it counts the dead one."""

    async def loaded() -> list[bool]:
        return sorted(standing.loaded for standing in await client.standings())

    async with asyncio.timeout(PATIENCE_S):
        while await loaded() != [False, True]:
            await asyncio.sleep(0.1)


async def test_unloaded_and_loaded_again_in_the_same_process(
    default_system: Cluster, by_handle: Cluster, deployed: Deploy
) -> None:
    routers = [default_system, by_handle]
    deployed("doubler", "tests.ray.sample_workflows.Doubler")
    await seen(routers, "doubler", lambda found: found == ("ready", ""))
    client = await RayClient.of_application("doubler")
    process = pids("doubler")

    (gone,) = await client.unload(PATIENCE_S)
    assert gone.state == "unloaded"
    for router in routers:  # whether they have heard of it or not
        async with httpx.AsyncClient(base_url=router.url, timeout=60) as http:
            refused = await http.post("/v1/workflows/doubler/inference", json=1)
        assert refused.status_code == 503
        assert (refused.json()["error"]["message"], refused.json()["error"]["code"]) == (
            "doubler is unloaded",
            "loading",
        )
        assert "retry-after" not in refused.headers
    await seen(routers, "doubler", lambda found: found == ("unloaded", ""))
    assert states(default_system)["text-embedding"] == "ready"

    (back,) = await client.load(PATIENCE_S)
    assert back.loaded
    for router in routers:
        assert await answers(router, "doubler", 1) == {200}
    await seen(routers, "doubler", lambda found: found == ("ready", ""))
    assert pids("doubler") == process
    assert replicas("doubler") == {"RUNNING": 1}


async def test_requests_go_to_the_replica_that_is_loaded(
    default_system: Cluster, by_handle: Cluster, deployed: Deploy
) -> None:
    routers = [default_system, by_handle]
    deployed("doubler", "tests.ray.sample_workflows.Doubler", num_replicas=2)
    await seen(routers, "doubler", lambda found: found == ("ready", ""))
    client = await RayClient.of_application("doubler")
    assert [standing.state for standing in await client.unload(PATIENCE_S)] == ["unloaded"] * 2
    await seen(routers, "doubler", lambda found: found == ("unloaded", ""))

    before = pids("doubler")
    os.kill(min(before), signal.SIGKILL)  # Serve starts another one, which does its setup as always
    await another_one_is_loaded(client)
    for router in routers:  # a router that has not heard of it yet says truly that nothing is loaded that it knows of
        async with asyncio.timeout(PATIENCE_S):
            while await answers(router, "doubler", 1) != {200}:
                await asyncio.sleep(0.1)
    await seen(routers, "doubler", lambda found: found == ("ready", "1 of 2 replicas are unloaded"))
    for router in routers:
        assert await answers(router, "doubler", 40) == {200}

    standings = await client.load(PATIENCE_S)
    assert [standing.state for standing in standings] == ["loaded"] * 2
    assert len({standing.replica for standing in standings}) == 2
    assert len(pids("doubler") & before) == 1


async def test_a_handle_passes_over_what_it_is_told_to_avoid_however_idle_that_is(
    default_system: Cluster, deployed: Deploy, tmp_path: Path
) -> None:
    deployed("orders", "tests.orders.AsyncOrders", num_replicas=2)
    client = await RayClient.of_application("orders")
    place = Place(tmp_path, Deployment(AsyncOrders))
    await client.unload(PATIENCE_S)
    os.kill(min(pids("orders")), signal.SIGKILL)
    await another_one_is_loaded(client)
    client.avoid = frozenset(standing.replica for standing in await client.standings() if not standing.loaded)
    async with AsyncExitStack() as open_ones:
        for value in range(4):  # Serve prefers who has less to do
            stream = await open_ones.enter_async_context(
                aclosing(client.stream(place.order(value, count=9, gate=f"gate-{value}", at=1)))
            )
            await anext(stream)
            open_ones.push_async_callback(_all, stream)
            open_ones.push_async_callback(place.let_pass, f"gate-{value}")
        outcomes = [(await collect(client, [place.order(value)]))[0] for value in range(10, 20)]
    assert [outcome.output and outcome.output["value"] for outcome in outcomes] == list(range(20, 40, 2))


async def _all(stream: AsyncGenerator[Any]) -> None:
    async for _ in stream:
        pass


async def test_nothing_runs_that_could_be_unloaded(default_system: Cluster, deployed: Deploy) -> None:
    scaling = {
        "min_replicas": 0,
        "initial_replicas": 0,
        "max_replicas": 1,
        "policy": {"policy_function": "deployments.autoscaling:by_items"},
    }
    deployed("asleep", "tests.ray.sample_workflows.Doubler", autoscaling_config=scaling)
    client = await RayClient.of_application("asleep")
    for change in (client.unload, client.load):
        with pytest.raises(NotReady, match="this workflow has no running replica"):
            await change(1.0)
