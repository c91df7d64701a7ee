"""From what was measured to what is told: ratios, problems, and what a server's processes use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import measure
from scripts.benchmarks.measure import Meter, born, family, pss_mb
from scripts.benchmarks.open_loop import percentile
from scripts.benchmarks.summary import Summary


def session(peer: str, number: int, cells: dict[str, Any], error: str = "") -> dict[str, Any]:
    return {"workload": "small", "peer": peer, "round": number, "cells": cells, "error": error}


def summary(*sessions: dict[str, Any]) -> Summary:
    return Summary({"sessions": list(sessions)}, "small")


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    """The machine was twice as slow in the second round and four times in the third: the peer was always 1.5 times."""
    rates = [(100.0, 150.0), (50.0, 75.0), (25.0, 37.5)]
    found = summary(
        *(session("fastapi", number, {"small c=8": {"rate": base}}) for number, (base, _) in enumerate(rates)),
        *(session("ours", number, {"small c=8": {"rate": rate}}) for number, (_, rate) in enumerate(rates[1:], 1)),
    )
    assert found.ratio("ours", "small c=8", "rate") == 1.5
    assert found.median("fastapi", "small c=8", "rate") == 50.0
    assert found.by_ratio("small c=8", "rate") == ["ours", "fastapi"]
    assert found.by_ratio("small c=8", "rate", least_first=True) == ["fastapi", "ours"]


def test_rounds_without_a_baseline_have_no_ratio() -> None:
    found = summary(
        session("ours", 0, {"small c=8": {"rate": 1.0}}), session("fastapi", 1, {"small c=8": {"rate": 1.0}})
    )
    assert found.ratio("ours", "small c=8", "rate") is None


def test_other_forms_are_held_against_the_baselines_json() -> None:
    found = summary(
        session("fastapi", 0, {"small json c=1": {"rate": 10.0}, "tensor-1mb c=1": {"rate": 2.0}}),
        session("ours", 0, {"small grpc c=1": {"rate": 20.0}, "binary-1mb c=1": {"rate": 8.0}}),
    )
    assert found.ratio("ours", "small grpc c=1", "rate") == 2.0
    assert found.ratio("ours", "binary-1mb c=1", "rate") == 4.0


def test_what_failed_is_a_problem_and_no_figure() -> None:
    found = summary(
        session("ours", 0, {"small c=8": {"failed": "TimeoutError: "}}),
        session("ours", 1, {}, error="does not start"),
    )
    assert found.values("ours", "small c=8", "rate") == []
    assert found.problems["ours"] == ["small c=8: TimeoutError: ", "does not start"]


def test_flat_streams_are_one_cell_and_a_mixed_loads_parts_are_cells() -> None:
    flat = {f"flat {number}": {"tokens_per_s": float(number), "whole": 1} for number in (1, 2, 9)}
    mixed = {"mixed": {"rate": 3.0, "parts": {"small": {"rate": 2.0}, "mid": {"rate": 1.0}}}}
    found = summary(session("ours", 0, flat | mixed))
    assert found.median("ours", "flat", "tokens_per_s") == 2.0
    assert found.total("ours", "flat", "whole") == 3
    assert found.median("ours", "mid", "rate") == 1.0


def test_percentiles() -> None:
    values = [float(number) for number in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 99.0)
    assert percentile([], 0.5) == 0.0


Server = tuple[subprocess.Popen[str], Meter]


@pytest.fixture
def server() -> Iterator[Server]:
    """A process that starts another one in a session of its own, which has worked for a moment, and ends with its input."""
    works = "import sys; sum(n * n for n in range(3_000_000)); print('worked', flush=True); sys.stdin.read()"
    starts = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
    command = [sys.executable, "-c", starts, works]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        meter = Meter(process.pid)
        assert process.stdout is not None
        assert process.stdout.readline() == "worked\n"
        yield process, meter
        process.communicate()


def test_a_servers_processes_are_found_and_their_work_is_counted(server: Server) -> None:
    process, meter = server
    members = family(process.pid)
    assert len(members) == 2
    assert os.getpid() not in members
    assert pss_mb(list(members)) > pss_mb([process.pid]) > 1.0
    used = meter.read()
    assert used["server_cpu_s"] >= max(members.values()) > 0.0
    assert used["wall_s"] > 0.0


def test_a_process_that_has_ended_is_nobody(server: Server) -> None:
    process, _ = server
    assert born(process.pid) == born(process.pid) != ""
    process.communicate()
    assert born(process.pid) == ""
    assert family(process.pid) == {}


def test_orphans_belong_to_who_leads_their_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, parent, leader in [(10, 1, 5), (11, 10, 11), (12, 1, 11), (13, 12, 13), (14, 1, 5), (15, 14, 14)]:
        (tmp_path / str(pid)).mkdir()
        fields = ["S", parent, 0, leader, *[0] * 7, 100 * pid, 50]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) name) {' '.join(map(str, fields))}")
    monkeypatch.setattr(measure, "_PROC", tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    assert family(10) == {pid: (100 * pid + 50) / ticks for pid in (10, 11, 12, 13)}
