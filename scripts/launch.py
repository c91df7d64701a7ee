"""Checks a config file, runs `serve run` for it, and ends everything that it started. Called by scripts/serve.

Everything that Ray starts stays in the session of `serve run`, whatever process groups it makes: that is how it is
found when `serve run` is gone. Reads /proc, so it knows processes on Linux only; elsewhere `serve run` is trusted to
end its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from deployments.config import RouterArgs

ROUTER = "deployments.app:router"
GRACE_S = 30.0  # for `serve run` to drain and stop Ray after the first signal
STRAGGLERS_S = 5.0  # for Ray's processes to notice that Ray is gone, and again after SIGTERM
LOOK_S = 0.2
LISTENING = "0A"
PROC = Path("/proc")
SERVE_RUN = Path(__file__).with_name("serve_run.py")


def addresses(config: Path) -> list[tuple[str, int, str]]:
    """Where the routers of a config will listen, and how that is said to callers. None where the check will complain."""
    try:
        content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        routers = [app for app in content.get("applications") or [] if app.get("import_path") == ROUTER]
        all_args = [RouterArgs.model_validate(app.get("args") or {}) for app in routers]
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return []
    found = [(args.host, args.port, "on http://") for args in all_args if args.listen == "own"]
    found += [(args.host, args.grpc.port, "gRPC on ") for args in all_args if args.grpc is not None]
    return [address for address in found if address[1]]


def obstacle(host: str, port: int) -> str | None:
    """Why this address cannot be listened on, in one line; None if it can."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        holder = next(iter(holders(port)), None)
        reason = f"held by {described(holder)}" if holder else str(error.strerror)
        return f"cannot listen on {host}:{port}: {reason}"
    return None


def holders(port: int) -> Iterator[int]:
    """Processes that listen on a port, as far as this user may see them."""
    sockets = set()
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        with contextlib.suppress(OSError):
            for row in table.read_text().splitlines()[1:]:
                fields = row.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for pid in processes():
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in sockets for fd in (PROC / str(pid) / "fd").iterdir()):
                yield pid


def described(pid: int) -> str:
    """A process by command and id; one of Ray's also by the `serve run` that it belongs to."""
    text = f"{command(pid)} (pid {pid})"
    leader = session(pid)
    if leader not in (None, pid) and SERVE_RUN.name in command(leader):
        text += f", of an earlier `serve run`: end it with `kill {leader}`"
    return text


def command(pid: int | None) -> str:
    with contextlib.suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        return " ".join(words)[:80] or "a process"
    return "a process"


def session(pid: int) -> int | None:
    """The session of a process that still runs, else None."""
    with contextlib.suppress(OSError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[3])
    return None


def processes() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]
    return []


def end_session(leader: int) -> None:
    """Waits for the members of a session to end, asks those that do not, kills those that do not listen."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + STRAGGLERS_S
        members = [pid for pid in processes() if session(pid) == leader]
        if number is not None:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        while members and time.monotonic() < until:
            time.sleep(LOOK_S)
            members = [pid for pid in processes() if session(pid) == leader]
        if not members:
            return


class Launch:
    """One run of `serve run`, from its start until nothing of it is left."""

    def __init__(self, config: Path, options: list[str]) -> None:
        self._addresses = addresses(config)
        self._command = [sys.executable, str(SERVE_RUN), *options, str(config)]
        self._signals = 0

    def run(self) -> int:
        """The exit status: that of `serve run`, 0 if it was asked to stop."""
        for host, port, _ in self._addresses:
            if complaint := obstacle(host, port):
                print(f"serve: {complaint}", file=sys.stderr)
                return 1
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)
        serving = subprocess.Popen(self._command, start_new_session=True, stdin=subprocess.DEVNULL)
        try:
            self._watch(serving)
        finally:
            if serving.poll() is None:
                self._stop(serving)
            end_session(serving.pid)
        return 0 if self._signals else serving.returncode

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _watch(self, serving: subprocess.Popen[bytes]) -> None:
        """Until it ends or is to end; says once where the routers answer."""
        silent = list(self._addresses)
        while serving.poll() is None and not self._signals:
            time.sleep(LOOK_S)
            for address in [address for address in silent if answers(*address[:2])]:
                silent.remove(address)
                host, port, said = address
                shown = f"[{host}]" if ":" in host else host
                print(f"serve: the router answers {said}{shown}:{port}", file=sys.stderr, flush=True)

    def _stop(self, serving: subprocess.Popen[bytes]) -> None:
        print("serve: stopping; once more to stop at once", file=sys.stderr, flush=True)
        serving.send_signal(signal.SIGINT)
        until, asked = time.monotonic() + GRACE_S, self._signals
        while serving.poll() is None and time.monotonic() < until and self._signals == asked:
            time.sleep(LOOK_S)
        if serving.poll() is None:
            serving.kill()
            serving.wait()


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=LOOK_S).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(Launch(Path(sys.argv[1]), sys.argv[2:]).run())
