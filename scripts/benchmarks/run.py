"""`scripts/bench`: visits every peer in every round, in shuffled order, and writes what was measured."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import random
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

from scripts.benchmarks.closed_loop import have_wrk
from scripts.benchmarks.environments import BENCH, Uninstallable, installed_versions, python_of
from scripts.benchmarks.models import Truth, make_models
from scripts.benchmarks.peers import BASELINE, PEERS, ROOT, baseline_of
from scripts.benchmarks.serving import FILES
from scripts.benchmarks.session import WORKLOADS, run_session

__all__ = ["main"]

_RESULTS: Final = ROOT / "docs/benchmarks/results.json"
_QUICK_RESULTS: Final = BENCH / "quick"
_DEFAULT_PEERS: Final = [name for name in PEERS if name != "ours-2replicas"]


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures our system and its peers side by side; see docs/benchmarks."
    )
    parser.add_argument("--quick", action="store_true", help="1 round, 1 second; results go to .bench/quick")
    parser.add_argument("--peers", type=_list_of(list(PEERS)), help=f"of {','.join(PEERS)}; the baseline is added")
    parser.add_argument("--workloads", type=_list_of(list(WORKLOADS)), default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each measurement; default 4")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which peers are visited")
    parser.add_argument("--add", action="store_true", help="keep earlier results of other workloads in the file")
    parser.add_argument("--report", action="store_true", help="measure nothing, write tables and plots again")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    options.peers = list(dict.fromkeys([BASELINE, *(options.peers or _DEFAULT_PEERS)]))
    return options


def _list_of(known: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
        return names

    return parse


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _versions(peers: list[str]) -> dict[str, list[str]]:
    """By environment; those that cannot be installed are left out here and named in their sessions."""
    found: dict[str, list[str]] = {}
    for peer in (PEERS[name] for name in peers):
        try:
            found.setdefault(peer.environment or "ours", installed_versions(python_of(peer, with_text=False)))
        except Uninstallable as error:
            print(f"bench: {peer.name}: {error}", file=sys.stderr)
    return found


def _begun(options: argparse.Namespace, arguments: list[str], path: Path) -> dict[str, Any]:
    """Results without sessions, or with the earlier ones of other workloads: each workload says how it was run."""
    run = {
        "command": shlex.join(["scripts/bench", *arguments]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": _machine(),
    }
    earlier: dict[str, Any] = {"runs": {}, "versions": {}, "sessions": []}
    if options.add and path.exists():
        earlier |= json.loads(path.read_text(encoding="utf-8"))
    return {
        "runs": earlier["runs"] | dict.fromkeys(options.workloads, run),
        "versions": earlier["versions"] | _versions(options.peers),
        "sessions": [session for session in earlier["sessions"] if session["workload"] not in options.workloads],
    }


def _measure(options: argparse.Namespace, results: dict[str, Any], path: Path) -> None:
    truth, order = Truth(FILES), random.Random(options.seed)  # noqa: S311
    for workload in options.workloads:
        for number in range(options.rounds):
            visited = _who_serves(workload, options.peers)
            order.shuffle(visited)
            for name in visited:
                print(f"bench: {workload}, round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                session = run_session(PEERS[name], workload, truth, options.seconds)
                if "error" in session:
                    print(f"  {name}: {session['error']}", file=sys.stderr, flush=True)
                results["sessions"].append({"workload": workload, "round": number, "peer": name, **session})
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _who_serves(workload: str, peers: list[str]) -> list[str]:
    """Those of the peers that are made for a workload, its baseline among them."""
    found = [name for name in peers if PEERS[name].serves(workload)]
    return list(dict.fromkeys([baseline_of(workload), *found]))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # on the way out every server is ended


def _alone() -> IO[str] | None:
    """A lock that is held until this process ends; None where another bench measures in this checkout."""
    BENCH.mkdir(exist_ok=True)
    lock = (BENCH / "lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, _leave)
    options = _options(arguments)
    path = _QUICK_RESULTS / "results.json" if options.quick else _RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    if not options.report:
        if not have_wrk():
            print("bench: wrk is missing: install it (Debian and Ubuntu: apt install wrk)", file=sys.stderr)
            return 1
        lock = _alone()  # held by its name until the end
        if lock is None:
            print("bench: another run measures in this checkout: two would spoil each other's figures", file=sys.stderr)
            return 1
        make_models(FILES)
        (BENCH / "scratch").mkdir(parents=True, exist_ok=True)
        results = _begun(options, arguments, path)
        _measure(options, results, path)
    from scripts.benchmarks.report import write_report  # draws: not loaded while anything is measured

    write_report(path)
    print(f"bench: {path.parent.relative_to(ROOT)}/README.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
