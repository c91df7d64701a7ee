"""The plots beside the tables, as SVG. The same results give the same files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from scripts.benchmarks.peers import BASELINE, PEERS
from scripts.benchmarks.summary import Summary

__all__ = ["draw"]

_OURS: Final = ("#0b5fa5", "#3f8fd0", "#7fb6e3", "#b3d4f0")
_OTHERS: Final = "#9a9a9a"


def draw(summaries: dict[str, Summary], folder: Path) -> dict[str, list[Path]]:
    """The files of each workload."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    plt = import_module("matplotlib.pyplot")
    drawn: dict[str, list[Path]] = {}
    for workload, summary in summaries.items():
        files = drawn.setdefault(workload, [])
        for name in dict.fromkeys(cell.split()[0] for cell in summary.cells if " c=" in cell and "tensor" not in cell):
            bars = {peer: summary.ratio(peer, f"{name} c=32", "rate") for peer in summary.peers}
            title = f"{name}: requests/s at 32 connections, {BASELINE} = 1"
            files += _bars(plt, bars, title, folder / f"{name}-closed.svg")
            files += _latencies(plt, summary, name, folder / f"{name}-open.svg")
        if workload == "streams":
            bars = {peer: summary.ratio(peer, "paced 256", "tokens_per_s") for peer in summary.peers}
            files += _bars(plt, bars, f"256 streams: tokens/s, {BASELINE} = 1", folder / "streams.svg")
        if workload == "small":
            bars = {peer: summary.median(peer, "idle", "pss_mb") for peer in summary.peers}
            files += _bars(plt, bars, "small: memory of all processes, MB (PSS)", folder / "memory.svg")
    return drawn


def _colours(peers: list[str]) -> list[str]:
    ours = iter(_OURS)
    return [next(ours) if PEERS[peer].is_ours else _OTHERS for peer in peers]


def _bars(plt: Any, values: dict[str, float | None], title: str, path: Path) -> list[Path]:
    known = sorted(((value, peer) for peer, value in values.items() if value is not None))
    if not known:
        return []
    peers = [peer for _, peer in known]
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.3 * len(known)), layout="constrained")
    shown = axes.barh(peers, [value for value, _ in known], color=_colours(peers))
    axes.bar_label(shown, fmt="{:,.3g}", padding=3)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    return _saved(plt, figure, path)


def _latencies(plt: Any, summary: Summary, name: str, path: Path) -> list[Path]:
    """From p50 to p99 of the open loop, one line per peer."""
    cell = f"{name} open"
    medians = {peer: summary.median(peer, cell, "p50_ms") for peer in summary.peers}
    found = sorted(((value, peer) for peer, value in medians.items() if value), reverse=True)
    if not found:
        return []
    peers = [peer for _, peer in found]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.3 * len(peers)), layout="constrained")
    for peer, colour in zip(peers, _colours(peers), strict=True):
        p50, p99 = summary.median(peer, cell, "p50_ms"), summary.median(peer, cell, "p99_ms")
        axes.plot([p50, p99], [peer, peer], color=colour, linewidth=3, marker="o", markersize=5)
    axes.set_xscale("log")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{name}, open loop at 60 % of the peer's own peak: p50 to p99, ms", loc="left")
    return _saved(plt, figure, path)


def _saved(plt: Any, figure: Any, path: Path) -> list[Path]:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return [path]
