"""What a replica is given: GPUs as Ray allots them, and a garbage collector that suits its kind of workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import serve

from tests.ray.cluster import Cluster

Deploy = Callable[..., Any]


def placements(name: str, replicas: int) -> list[dict[str, Any]]:
    """Where each replica of an application says it is."""
    handle = serve.get_app_handle(name)
    found: dict[int, dict[str, Any]] = {}
    for _ in range(200):
        said = handle.inference.remote(1).result(timeout_s=30)
        found[said["pid"]] = said
        if len(found) == replicas:
            break
    return list(found.values())


def test_two_replicas_get_a_gpu_each(default_system: Cluster, deployed: Deploy) -> None:
    deployed(
        "placed",
        "tests.ray.sample_workflows.Placed",
        num_replicas=2,
        ray_actor_options={"num_cpus": 0.1, "num_gpus": 1},
    )
    assert sorted(place["gpu_ids"] for place in placements("placed", 2)) == [["0"], ["1"]]


def test_fractions_share_one_gpu(default_system: Cluster, deployed: Deploy) -> None:
    options = {"num_cpus": 0.1, "num_gpus": 0.5}
    deployed("placed", "tests.ray.sample_workflows.Placed", num_replicas=2, ray_actor_options=options)
    first, second = placements("placed", 2)
    assert first["gpu_ids"] == second["gpu_ids"]
    assert first["fraction"] == 0.5


def test_no_gpu_asked_for_means_cpu_even_where_cuda_is_visible(default_system: Cluster, deployed: Deploy) -> None:
    environment = {"env_vars": {"CUDA_VISIBLE_DEVICES": "0,1"}}
    deployed(
        "placed", "tests.ray.sample_workflows.Placed", ray_actor_options={"num_cpus": 0.5, "runtime_env": environment}
    )
    (place,) = placements("placed", 1)
    assert place["gpu_ids"] == []
    assert place["cpus"] == 0.5


def test_where_calls_wait_the_collector_runs_less_often(default_system: Cluster, deployed: Deploy) -> None:
    deployed("waits", "tests.ray.sample_workflows.Waits")
    assert serve.get_app_handle("waits").inference.remote(1).result(timeout_s=30) == 10_000
