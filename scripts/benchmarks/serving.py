"""Starts one server, knows when it answers, and ends every process of it: those it started, and nobody else's."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.environments import BENCH
from scripts.benchmarks.measure import born, family
from scripts.benchmarks.ours import launch_command, write_config
from scripts.benchmarks.payloads import Target
from scripts.benchmarks.peers import ROOT, Peer

__all__ = ["FILES", "NotServing", "Server", "serving", "wait_for_answer"]

FILES: Final = BENCH / "models"
_SERVERS: Final = Path(__file__).with_name("servers")
_LOOK_S: Final = 0.02
_STOP_S: Final = 45.0
_LINGER_S: Final = 5.0


class NotServing(Exception):
    """A server did not start, or does not answer as it should; the message says so in one line."""


@dataclass
class Server:
    peer: Peer
    port: int
    grpc_port: int
    root: int
    log: Path
    began: float

    def pids(self) -> list[int]:
        return sorted(family(self.root))

    def post(self, request: bytes, timeout_s: float) -> tuple[int, bytes]:
        """One whole request on a connection of its own. Raises OSError or HTTPException."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(peer: Peer, python: Path, ports: list[int], models: list[str], scratch: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "BENCH_"))}
    return {
        **kept,
        **peer.variables,
        "PATH": f"{python.parent}:{kept.get('PATH', '')}",
        "VIRTUAL_ENV": str(python.parent.parent),
        "PYTHONPATH": str(_SERVERS),
        "BENCH_PORT": str(ports[0]),
        "BENCH_PORTS": ",".join(map(str, ports)),
        "BENCH_MODELS": ",".join(models),
        "BENCH_FILES": str(FILES),
        "BENCH_SCRATCH": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if peer.is_ours else {}),
    }


@contextmanager
def serving(peer: Peer, python: Path, models: list[str], name: str) -> Iterator[Server]:
    """The server of a peer, started; its log is `.bench/logs/<peer>-<name>.log`."""
    scratch = BENCH / "scratch" / f"{peer.name}-{name}"
    scratch.mkdir(parents=True, exist_ok=True)
    log = BENCH / "logs" / f"{peer.name}-{name}.log"
    log.parent.mkdir(exist_ok=True)
    ports = _free_ports(4)
    command = [str(python), str(_SERVERS / peer.script)]
    if peer.is_ours:
        config = BENCH / f"{peer.name}.yaml"
        write_config(peer, ports, models, FILES, config)
        command = launch_command(python, config)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(peer, python, ports, models, scratch),
            cwd=ROOT if peer.is_ours else _SERVERS,
            start_new_session=True,
        )
    server = Server(peer, ports[0], ports[1], process.pid, log, time.monotonic())
    try:
        yield server
    finally:
        _end(process)


def wait_for_answer(server: Server, target: Target) -> tuple[float, int]:
    """Seconds from the start to the first right answer, and its length. Raises NotServing."""
    request = target.requests()[0]
    until = server.began + server.peer.start_s
    said = "no answer"
    while time.monotonic() < until:
        if not family(server.root):
            raise NotServing(f"does not start: {_last_words(server.log)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body = server.post(request, 30)
            if target.is_right(0, status, body):
                return time.monotonic() - server.began, len(body)
            said = f"status {status}: {body[:80]!r}"
        time.sleep(_LOOK_S)
    raise NotServing(f"no right answer in {server.peer.start_s:.0f} s: {said}")


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else "it says nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then whatever of its family is left, then kill that. Each is known by id and start."""
    members = {pid: born(pid) for pid in family(process.pid)}
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        members |= {pid: born(pid) for pid in family(process.pid)}
        for pid, birth in members.items() if number else ():
            if birth and born(pid) == birth:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number or 0)
        until = time.monotonic() + _LINGER_S
        while time.monotonic() < until:
            process.poll()
            if not any(birth and born(pid) == birth for pid, birth in members.items()):
                return
            time.sleep(_LOOK_S)
