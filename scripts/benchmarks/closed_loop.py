"""Closed loop: so many connections, each with one request at a time. Counted by wrk, whose script checks every answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.payloads import Target

__all__ = ["have_wrk", "run_wrk", "start_wrk", "wrk_result"]

_SCRIPT: Final = Path(__file__).with_name("check.lua")
_MARK: Final = "RESULT "
_PATIENCE_S: Final = 30


def have_wrk() -> bool:
    return shutil.which("wrk") is not None


def start_wrk(
    port: int, target: Target, connections: int, seconds: float, length: int, scratch: Path
) -> subprocess.Popen[str]:
    """`length`: of an answer that was found to be right."""
    bodies = scratch / f"{target.name}-{target.path.replace('/', '_')}.bodies"
    bodies.write_bytes(b"\n".join(payload.body for payload in target.payloads) + b"\n")
    slack = target.slack()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={_PATIENCE_S}s"]
    command += ["-s", str(_SCRIPT), f"http://127.0.0.1:{port}{target.path}", "--"]
    command += [str(bodies), str(length - slack), str(length + slack)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wrk_result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Requests per second, latencies, and how many answers were wrong. Raises RuntimeError where wrk says nothing."""
    said = process.communicate()[0]
    for line in said.splitlines():
        if line.startswith(_MARK):
            result: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            result["rate"] = result["requests"] / result["seconds"]
            result["errors"] = result["wrong_status"] + result["wrong_length"] + result["broken"]
            return result
    raise RuntimeError(f"wrk: {said.strip()[-200:]}")


def run_wrk(port: int, target: Target, connections: int, seconds: float, length: int, scratch: Path) -> dict[str, Any]:
    return wrk_result(start_wrk(port, target, connections, seconds, length, scratch))
