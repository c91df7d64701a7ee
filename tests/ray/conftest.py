"""One Ray cluster for the whole suite, on loopback with free ports, started and ended by handle.

It has more logical CPUs than the machine, and two logical GPUs that do not exist.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from deployments.app import router, workflow
from tests.ports import free_port
from tests.ray.cluster import ROOT, Cluster, states
from tests.waiting import until


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.timeout(300))
            item.add_marker(pytest.mark.filterwarnings("default"))  # Ray's own are not ours to mend


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="infernet-", dir="/tmp"))  # short: it holds Unix sockets
    # Every process of the cluster inherits it, and finds this suite's workflows.
    os.environ["PYTHONPATH"] = str(ROOT)
    dashboard_port, serve_port = free_port(), free_port()
    ray.init(
        address="local",
        num_cpus=16,
        num_gpus=2,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        _temp_dir=str(folder / "ray"),
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    try:
        started = Cluster(f"http://127.0.0.1:{dashboard_port}", free_port(), serve_port, folder, free_port())
        # Serve's proxy is on for the tests of `listen: serve`; the default system does not use it.
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": serve_port},
            controller_options=started.config()["controller_options"],
        )
        yield started
        serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
        gc.collect()  # what Ray left open is collected here, where warnings are not ours, and not at the run's very end
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def default_system(cluster: Cluster) -> Cluster:
    """Every application of serve_config.yaml, ready behind the router."""
    names = {app["name"] for app in cluster.config()["applications"]} - {"router"}
    cluster.deploy(cluster.config())

    def ready() -> bool:
        return {name for name, state in states(cluster).items() if state == "ready"} >= names

    until(ready, seconds=120, what=lambda: f"all of {names} ready, got {states(cluster)}")
    return cluster


@pytest.fixture(scope="session")
def by_handle(default_system: Cluster) -> Iterator[Cluster]:
    """A second router, which has no lanes."""
    other = Cluster(default_system.dashboard, free_port(), default_system.serve_port, default_system.folder)
    log = str(other.folder / "by_handle.log")
    app = router({"port": other.port, "grpc": None, "local_lanes": False, "access_log": log})
    app._bound_deployment = app._bound_deployment.options(ray_actor_options={"num_cpus": 0.1})
    serve.run(app, name="router-by-handle", route_prefix=None)
    yield other
    serve.delete("router-by-handle")


@pytest.fixture
def http(default_system: Cluster) -> Iterator[httpx.Client]:
    """A client of the router; closed with the test, because an open socket is an error wherever it is collected."""
    with httpx.Client(base_url=default_system.url, timeout=60) as client:
        yield client


@pytest.fixture
def deployed(default_system: Cluster) -> Iterator[Callable[..., Any]]:
    """Deploys a workflow application beside the default system, for one test: `deployed(name, workflow, ...)`.

    `told`: more of its `WorkflowArgs`.
    """
    names: list[str] = []

    def deploy(
        name: str,
        path: str,
        options: dict[str, Any] | None = None,
        *,
        user_config: dict[str, Any] | None = None,
        told: Mapping[str, Any] | None = None,
        **deployment: Any,
    ) -> Any:
        names.append(name)
        app = workflow({"workflow": path, "options": options or {}, **(told or {})})
        settings = {"ray_actor_options": {"num_cpus": 0.1}, **deployment}
        app._bound_deployment = app._bound_deployment.options(user_config=user_config or {}, **settings)
        return serve.run(app, name=name, route_prefix=None)

    yield deploy
    for name in names:
        serve.delete(name)
