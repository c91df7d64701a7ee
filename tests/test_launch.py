"""The launcher says what is in its way in one line, and leaves nothing behind."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LAUNCH = REPOSITORY / "scripts" / "launch.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
ROUTER_CONFIG = """
proxy_location: Disabled
applications:
  - {{name: router, route_prefix: null, import_path: "deployments.app:router", args: {{{args}}}}}
"""
TOY_CONFIG = """
proxy_location: Disabled
applications:
  - {name: toy, route_prefix: null, import_path: "toy:app"}
"""
TOY = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Toy:
    def __init__(self):
        with open({up!r}, "wb") as up:
            up.write(b"up")

app = Toy.bind()
"""


@pytest.mark.parametrize("args", ["port: %d, grpc: null", "port: 0, grpc: {port: %d}"])
def test_held_port_is_said_in_one_line_with_its_holder(tmp_path: Path, args: str) -> None:
    config = tmp_path / "config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        config.write_text(ROUTER_CONFIG.format(args=args % port), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, LAUNCH, config], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert f"(pid {os.getpid()})" in line


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (ROUTER_CONFIG.format(args="prt: 1"), "applications.0.args.prt: unknown key"),
        ("applications: 5", "applications"),
        ("- a", "mapping"),
    ],
)
def test_a_config_that_cannot_be_served_is_complained_of(tmp_path: Path, config: str, complaint: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config, encoding="utf-8")
    command = [sys.executable, str(LAUNCH), str(file)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_everything_that_was_started(tmp_path: Path, number: signal.Signals) -> None:
    up = tmp_path / "up"
    os.mkfifo(up)
    (tmp_path / "toy.py").write_text(TOY.replace("{up!r}", repr(str(up))), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(TOY_CONFIG, encoding="utf-8")
    before = set(processes())
    launching = subprocess.Popen(
        [sys.executable, LAUNCH, "config.yaml"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(up)
        session = next(pid for pid, words in processes().items() if pid not in before and "serve_run.py" in words)
        members = [pid for pid in processes() if session_of(pid) == session]
        assert len(members) > 5  # Ray is there to be ended

        launching.send_signal(number)
        launching.communicate(timeout=60)

        assert launching.returncode == 0
        assert [pid for pid in processes() if session_of(pid) == session] == []
    finally:
        if launching.poll() is None:
            launching.send_signal(signal.SIGTERM)
            launching.communicate(timeout=60)


def wait_for(pipe: Path) -> None:
    """Returns when somebody has written to the pipe."""
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            assert selector.select(timeout=90), "the toy deployment did not come up"
    finally:
        os.close(reading)


def processes() -> dict[int, str]:
    """Command lines by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found


def session_of(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[3])
