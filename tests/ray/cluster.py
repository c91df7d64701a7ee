"""The running test cluster as tests see it: its addresses, and what an operator and a caller do with it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray import serve

from deployments.ray_client import DEPLOYMENT

__all__ = ["ROOT", "Cluster", "gauges", "replicas", "states"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cluster:
    """The running cluster: where its router and its dashboard are, and how an operator deploys to it."""

    dashboard: str
    port: int
    serve_port: int
    folder: Path
    grpc_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self) -> dict[str, Any]:
        """The default system's file, with free ports and room on the proxies for `listen: serve`."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        grpc = {"port": self.grpc_port, "connection_age_s": 2}
        config["applications"][0]["args"].update(port=self.port, grpc=grpc)
        return config

    def deploy(self, config: dict[str, Any]) -> None:
        """What an operator does from a second terminal: `serve deploy FILE`."""
        file = self.folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "--address", self.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def states(cluster: Cluster) -> dict[str, str]:
    """What `/v1/workflows` says; empty while nobody listens."""
    try:
        answer = httpx.get(f"{cluster.url}/v1/workflows", timeout=10)
    except httpx.TransportError:
        return {}
    return {entry["name"]: entry["state"] for entry in answer.json()["workflows"]}


def gauges(cluster: Cluster, name: str) -> dict[str, float]:
    """One of the router's metrics, by workflow."""
    families = text_string_to_metric_families(httpx.get(f"{cluster.url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {sample.labels["workflow"]: sample.value for sample in samples}


def replicas(application: str) -> dict[str, int]:
    """A workflow's replicas by their state, as Serve says."""
    states = serve.status().applications[application].deployments[DEPLOYMENT].replica_states
    return {str(getattr(state, "value", state)): count for state, count in states.items()}
