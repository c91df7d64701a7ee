"""What a server's processes use, from /proc: CPU seconds, and memory with shared pages split fairly (PSS)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

__all__ = ["Meter", "born", "family", "pss_mb"]

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def _stats() -> dict[int, list[str]]:
    """The fields of /proc/PID/stat after the name, by process id: state, parent, group, session, ..."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = fields
    return found


def family(root: int) -> dict[int, float]:
    """CPU seconds so far of a process, its descendants, and all in a session that one of them leads."""
    stats = _stats()
    members = {pid for pid, fields in stats.items() if root in (pid, int(fields[3]))}
    while True:
        more = {
            pid
            for pid, fields in stats.items()
            if pid not in members and (int(fields[1]) in members or int(fields[3]) in members)
        }
        if not more:
            break
        members |= more
    return {pid: (int(stats[pid][11]) + int(stats[pid][12])) / _TICKS for pid in members}


def born(pid: int) -> str:
    """When a process began, which with its id makes it this one and no other; empty if it has ended."""
    with contextlib.suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def pss_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def _busy() -> float:
    """CPU seconds that this machine has worked."""
    fields = [int(field) for field in (_PROC / "stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS


class Meter:
    """CPU between its start and `read()`: the server's, and everybody's who is neither the server nor we."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._server = family(root)
        self._began = os.times()
        self._busy = _busy()

    def read(self) -> dict[str, float]:
        now, busy = os.times(), _busy() - self._busy
        server = sum(seconds - min(seconds, self._server.get(pid, 0.0)) for pid, seconds in family(self._root).items())
        ours = sum(now[:4]) - sum(self._began[:4])  # with children that have ended, such as wrk
        wall = now.elapsed - self._began.elapsed
        return {
            "server_cpu_s": server,
            "client_cpu_s": ours,
            "wall_s": wall,
            "others_cores": max(0.0, busy - server - ours) / wall if wall else 0.0,
        }
