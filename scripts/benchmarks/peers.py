"""Who is measured: what a peer needs installed, how it is started, and under which addresses it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

__all__ = ["BASELINE", "OURS", "PEERS", "ROOT", "Peer", "Style", "baseline_of"]

ROOT: Final = Path(__file__).resolve().parents[2]
BASELINE: Final = "fastapi"
Style = Literal["plain", "v2", "bento", "openai", "ours"]

_RUNTIME: Final = ("onnxruntime", "orjson")
_WEB: Final = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", *_RUNTIME)


@dataclass(frozen=True)
class Peer:
    """One row of the tables.

    Attributes:
        environment: The virtual environment, shared by peers of the same name; empty for ours, which has its own.
        packages: What is installed there; versions that constraints.txt knows are taken from it if `pinned`.
        script: In `servers/`; empty for ours.
        style: How texts and streams are asked for and answered; tensors are the same for all.
        variables: Environment variables of the server.
        binary: Whether it takes the Open Inference Protocol's binary tensors.
        grpc: Whether it speaks that protocol over gRPC as well.
        start_s: How long it may take until it answers.
    """

    name: str
    title: str
    environment: str
    packages: tuple[str, ...]
    script: str
    style: Style = "plain"
    variables: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 60.0
    binary: bool = False
    grpc: bool = False

    def serves(self, workload: str) -> bool:
        """Whether it has what a workload asks for."""
        return self.is_ours or (self.style == "openai") == (workload == "text")

    @property
    def is_ours(self) -> bool:
        return not self.script


def _ours(name: str, title: str, **variables: str) -> Peer:
    return Peer(name, title, "", (), "", "ours", variables, start_s=120.0, binary=True, grpc=True)


_MLSERVER: Final = ("mlserver", *_RUNTIME)

PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        Peer("fastapi", "FastAPI, pydantic, uvicorn: the baseline", "web", _WEB, "fastapi_server.py"),
        Peer("fastapi-w2", "FastAPI, two workers", "web", _WEB, "fastapi_server.py", variables={"BENCH_WORKERS": "2"}),
        Peer("starlette", "bare Starlette and orjson", "web", _WEB, "starlette_server.py", binary=True),
        Peer(
            "pytriton",
            "NVIDIA PyTriton",
            "pytriton",
            ("nvidia-pytriton", *_RUNTIME),
            "pytriton_server.py",
            "v2",
            start_s=90.0,
            binary=True,
            grpc=True,
        ),
        Peer("litserve", "LitServe, batching", "litserve", ("litserve", *_RUNTIME), "litserve_server.py"),
        Peer(
            "mlserver",
            "MLServer, adaptive batching",
            "mlserver",
            _MLSERVER,
            "mlserver_server.py",
            "v2",
            {"BENCH_BATCHING": "1"},
            grpc=True,
        ),
        Peer("mlserver-b1", "MLServer, batching off", "mlserver", _MLSERVER, "mlserver_server.py", "v2", grpc=True),
        Peer("bentoml", "BentoML, adaptive batching", "bentoml", ("bentoml", *_RUNTIME), "bentoml_server.py", "bento"),
        Peer(
            "ray-naive",
            "Ray Serve, defaults, @serve.batch",
            "ray",
            ("ray[serve]", *_RUNTIME),
            "ray_naive_server.py",
            start_s=120.0,
        ),
        Peer(
            "transformers-serve",
            "transformers serve, continuous batching",
            "transformers",
            ("transformers[serving]", "accelerate", "torch"),
            "transformers_server.py",
            "openai",
            start_s=90.0,
        ),
        _ours("ours", "infernet-serve, local lane"),
        _ours("ours-handle", "infernet-serve, Ray handles only", LANES="0"),
        _ours("ours-2routers", "infernet-serve, two routers", ROUTERS="2"),
        _ours("ours-2replicas", "infernet-serve, two replicas of each workflow", REPLICAS="2"),
    )
}
OURS: Final = [peer.name for peer in PEERS.values() if peer.is_ours]


def baseline_of(workload: str) -> str:
    """To whom all others are compared."""
    return "transformers-serve" if workload == "text" else BASELINE
