"""`docs/benchmarks/README.md`: the part between the markers is written from the results, the rest is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.peers import BASELINE, PEERS
from scripts.benchmarks.plots import draw
from scripts.benchmarks.summary import Summary

__all__ = ["write_report"]

_BEGIN: Final = "<!-- written by scripts/bench: begin -->"
_END: Final = "<!-- written by scripts/bench: end -->"
_TITLES: Final = {
    "small": "4-16-3 network, one row, JSON",
    "mid": "784-1024-1024-10 network, one row, JSON",
    "mid-32": "the same network, 32 rows, JSON",
    "mid-32-binary": "the same rows as a binary tensor, ratio to JSON",
    "minilm": "embeddings of texts of 8 to 256 tokens",
}
_TENSORS: Final = ("tensor-1mb c=1", "tensor-1mb c=4", "tensor-10mb c=1", "tensor-10mb c=4")
# Where a peer has them; the ratio is to the baseline's JSON.
_BINARY: Final = ("binary-1mb c=1", "binary-1mb c=4", "binary-10mb c=1", "binary-10mb c=4")
_STREAMS: Final = {
    "flat": "2,000 tokens flat out, one connection",
    "paced 32": "32 streams, 5 ms a token",
    "paced 256": "256 streams, 5 ms a token",
}
_MIXED: Final = ("small", "mid", "minilm", "tensor-1mb", "streams")


def write_report(results_path: Path) -> None:
    """Tables and plots beside the results."""
    results = json.loads(results_path.read_text(encoding="utf-8"))
    workloads = list(dict.fromkeys(session["workload"] for session in results["sessions"]))
    summaries = {workload: Summary(results, workload) for workload in workloads}
    plots = draw(summaries, results_path.parent)
    lines: list[str] = []
    for workload, summary in summaries.items():
        lines += [f"## {workload}", "", *_facts(results["runs"][workload], summary), *_SECTIONS[workload](summary)]
        lines += [f"![{plot.stem}]({plot.name})\n" for plot in plots.get(workload, [])]
        lines += _problems(summary)
    lines += _versions(results)
    path = results_path.with_name("README.md")
    text = path.read_text(encoding="utf-8") if path.exists() else f"{_BEGIN}\n{_END}\n"
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    path.write_text(f"{before}{_BEGIN}\n\n" + "\n".join(lines) + f"\n{_END}{after}", encoding="utf-8")


def _facts(run: dict[str, Any], summary: Summary) -> list[str]:
    """How a workload was measured, and how quiet the machine was."""
    machine, others = run["machine"], summary.others()
    busy = f"{others[len(others) // 2]:.2f} cores in the median, {others[-1]:.2f} at most" if others else "unknown"
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    effort = f"`{run['command']}`, {run['date']}, {run['rounds']} round(s) of {run['seconds']:g} s"
    return [f"{effort}; {hardware}; other programs meanwhile: {busy}.", ""]


def _versions(results: dict[str, Any]) -> list[str]:
    rows = [[name, ", ".join(versions)] for name, versions in results["versions"].items()]
    return ["## Versions", "", *_table(["environment", "packages"], rows)]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}f}"


def _title(peer: str) -> str:
    return f"**{peer}**" if PEERS[peer].is_ours else peer


# ---- requests ----------------------------------------------------------------------------------------------------------


def _requests(summary: Summary) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys(cell.split()[0] for cell in summary.cells if " c=" in cell):
        closed = [cell for cell in summary.cells if cell.startswith(f"{name} c=")]
        lines += [f"### {_TITLES[name]}", "", f"Closed loop: ratio to {BASELINE} (requests/s; p50/p99 ms).", ""]
        order = summary.by_ratio(f"{name} c=32", "rate")
        rows = [[_title(peer), *(_closed(summary, peer, cell) for cell in closed)] for peer in order]
        lines += _table(["peer", *(cell.split()[1] for cell in closed)], rows)
        lines += _open(summary, name, order)
        lines += _checked(summary, name, order) + _in_process(summary, name)
    return lines + _resources(summary)


def _closed(summary: Summary, peer: str, cell: str) -> str:
    rate, ratio = summary.median(peer, cell, "rate"), summary.ratio(peer, cell, "rate")
    if rate is None:
        return "-"
    p50, p99 = summary.median(peer, cell, "p50_ms"), summary.median(peer, cell, "p99_ms")
    text = f"**{_number(ratio)}** ({_number(rate, 0)}; {_number(p50)}/{_number(p99, 1)})"
    errors = summary.total(peer, cell, "errors") + summary.total(peer, cell, "wrong")
    return f"{text}, {errors} of {summary.total(peer, cell, 'requests')} wrong" if errors else text


def _open(summary: Summary, name: str, order: list[str]) -> list[str]:
    cell = f"{name} open"
    if cell not in summary.cells:
        return []
    rows = [
        [
            _title(peer),
            _number(summary.median(peer, cell, "asked_rate"), 0),
            *(_number(summary.median(peer, cell, figure)) for figure in ("p50_ms", "p90_ms", "p99_ms")),
            str(summary.total(peer, cell, "errors")),
        ]
        for peer in order
        if summary.values(peer, cell, "asked_rate")
    ]
    lines = ["Open loop: Poisson arrivals at 60 % of the peer's own peak, latency from the intended time.", ""]
    return lines + _table(["peer", "requests/s", "p50 ms", "p90 ms", "p99 ms", "failed"], rows)


def _checked(summary: Summary, name: str, order: list[str]) -> list[str]:
    cell = f"{name} checked c=32"
    if cell not in summary.cells:
        return []
    rows = [f"{_title(peer)} {summary.total(peer, cell, 'checked')}" for peer in order]
    wrong = [f"{_title(peer)} {count}" for peer in order if (count := summary.total(peer, cell, "wrong"))]
    verdict = f"Wrong: {', '.join(wrong)}." if wrong else "None was wrong."
    return [f"Contents checked against the model's own output, at 32 connections: {', '.join(rows)}. {verdict}", ""]


def _in_process(summary: Summary, name: str) -> list[str]:
    """How near those come to the model who spend nothing but its time."""
    cell = f"{name} in process"
    rows = []
    for peer in summary.peers:
        alone, rate = summary.median(peer, cell, "rate"), summary.median(peer, f"{name} c=32", "rate")
        if alone is not None and rate is not None:
            rows.append([_title(peer), _number(alone, 0), _number(rate / alone)])
    if not rows:
        return []
    lines = ["The model alone, called in one process with the same rows, and the peer's share of that at c=32.", ""]
    return lines + _table(["peer", "calls/s alone", "share"], rows)


def _resources(summary: Summary) -> list[str]:
    loads = [cell for cell in summary.cells if cell.endswith((" c=32", "tensor-1mb c=4"))]
    first = loads[0] if loads else ""
    last = [cell for cell in summary.cells if " c=" in cell and "checked" not in cell and "-32" not in cell]
    rows = [
        [
            _title(peer),
            _number(summary.median(peer, "idle", "start_s"), 1),
            _number(summary.median(peer, "idle", "processes"), 0),
            _number(summary.median(peer, "idle", "pss_mb"), 0),
            _number(summary.median(peer, last[-1], "pss_mb"), 0) if last else "-",
            _number(summary.median(peer, "idle", "idle_cores"), 3),
            _number(summary.median(peer, first, "cpu_s_per_1000"), 3),
        ]
        for peer in summary.by_ratio("idle", "start_s", least_first=True)
    ]
    header = ["peer", "first answer, s", "processes", "PSS MB", "after load", "idle cores", f"CPU s/1000, {first}"]
    return ["Start and resources, all processes of the server.", "", *_table(header, rows)]


# ---- one protocol, three forms ------------------------------------------------------------------------------------------


def _infer(summary: Summary) -> list[str]:
    lines = ["The Open Inference Protocol as JSON, with binary tensors, and over gRPC, all asked from Python.", ""]
    for name, title in (("small", "4-16-3 network, one row"), ("tensor-10mb", "10 MB of float32")):
        cells = [cell for cell in summary.cells if cell.startswith(f"{name} ")]
        rows = [[_title(peer), *(_large(summary, peer, cell) for cell in cells)] for peer in summary.peers]
        lines += [f"{title}: median ms, ratio to {BASELINE}'s JSON (ms; requests/s).", ""]
        lines += _table(["peer", *(cell.removeprefix(f"{name} ") for cell in cells)], rows)
    return lines + _resources(summary)


# ---- tensors, streams, mixed -------------------------------------------------------------------------------------------


def _tensors(summary: Summary) -> list[str]:
    lines = ["1 MB and 10 MB of float32.", ""]
    for cells in (_TENSORS, _BINARY):
        lines += [f"{cells[0].split('-')[0]}: median ms, ratio to {BASELINE}'s JSON (ms; requests/s).", ""]
        order = summary.by_ratio(cells[0], "p50_ms", least_first=True)
        rows = [[_title(peer), *(_large(summary, peer, cell) for cell in cells)] for peer in order]
        lines += _table(["peer", *cells], rows)
    return lines + _resources(summary)


def _large(summary: Summary, peer: str, cell: str) -> str:
    ratio, ms = summary.ratio(peer, cell, "p50_ms"), summary.median(peer, cell, "p50_ms")
    if ms is None:
        return "-"
    text = f"**{_number(ratio)}** ({_number(ms, 1)}; {_number(summary.median(peer, cell, 'rate'), 1)})"
    wrong = summary.total(peer, cell, "wrong")
    return f"{text}, {wrong} wrong" if wrong else text


def _streams(summary: Summary) -> list[str]:
    lines: list[str] = []
    for cell, title in _STREAMS.items():
        rows = []
        for peer in summary.by_ratio(cell, "tokens_per_s"):
            figures = ("first_p50_ms", "first_p99_ms", "gap_p50_ms", "gap_p99_ms")
            whole, asked = summary.total(peer, cell, "whole"), summary.total(peer, cell, "streams")
            row = [_title(peer), f"**{_number(summary.ratio(peer, cell, 'tokens_per_s'))}**"]
            row += [_number(summary.median(peer, cell, "tokens_per_s"), 0)]
            row += [_number(summary.median(peer, cell, figure), 3) for figure in figures]
            rows.append([*row, f"{whole}/{asked}"])
        header = ["peer", "tokens/s ratio", "tokens/s", "first p50 ms", "p99", "between p50 ms", "p99", "whole"]
        lines += [f"{title}:", "", *_table(header, rows)]
    return lines


def _text(summary: Summary) -> list[str]:
    lines = [
        "The demo's language model over OpenAI's chat protocol, greedy, up to 64 tokens, streamed. `alone` is its own",
        "`generate()` in one process, one text after the other.",
        "",
    ]
    rows = []
    for cell in ("text alone", "text c=1", "text c=16"):
        for peer in summary.peers:
            if (rate := summary.median(peer, cell, "tokens_per_s")) is None:
                continue
            row = [cell.removeprefix("text "), "generate()" if cell == "text alone" else _title(peer)]
            row += [_number(summary.ratio(peer, cell, "tokens_per_s")), _number(rate, 0)]
            row += [_number(summary.median(peer, cell, figure), 1) for figure in ("first_p50_ms", "first_p99_ms")]
            wrong, asked = summary.total(peer, cell, "wrong"), summary.total(peer, cell, "requests")
            rows.append([*row, f"{wrong}/{asked}"])
    header = ["callers", "peer", "tokens/s ratio", "tokens/s", "first p50 ms", "p99", "not the model's own text"]
    return [*lines, *_table(header, rows)]


def _mixed(summary: Summary) -> list[str]:
    lines = [
        "All at once: small and mid at 8 connections, minilm at 2, 1 MB tensors at 1, 32 streams at 5 ms a token.",
        "",
    ]
    rows = []
    for peer in summary.peers:
        row = [_title(peer)]
        for part in _MIXED:
            figure = "tokens_per_s" if part == "streams" else "rate"
            value = summary.median(peer, part, figure)
            p99 = summary.median(peer, part, "gap_p99_ms" if part == "streams" else "p99_ms")
            text = f"**{_number(summary.ratio(peer, part, figure))}** ({_number(value, 1)}; {_number(p99, 1)})"
            errors = summary.total(peer, part, "errors") + summary.total(peer, part, "wrong")
            row.append("-" if value is None else f"{text}, {errors} wrong" if errors else text)
        rows.append(row)
    lines += [f"Ratio to {BASELINE} (per second; p99 ms, of streams that between tokens).", ""]
    return lines + _table(["peer", *_MIXED], rows)


def _problems(summary: Summary) -> list[str]:
    lines = [f"* {peer}: {'; '.join(dict.fromkeys(said))}" for peer, said in sorted(summary.problems.items())]
    return ["Not measured:", "", *lines, ""] if lines else []


_SECTIONS: Final[dict[str, Callable[[Summary], list[str]]]] = {
    "small": _requests,
    "mid": _requests,
    "minilm": _requests,
    "tensors": _tensors,
    "infer": _infer,
    "streams": _streams,
    "text": _text,
    "mixed": _mixed,
}
