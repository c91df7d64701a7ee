"""From sessions to medians: a figure of a cell is the median of its rounds, a ratio the median of each round's ratio."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any, Final

from scripts.benchmarks.peers import PEERS, baseline_of

__all__ = ["Summary"]

_ORDER: Final = list(PEERS)


class Summary:
    """One workload's results."""

    def __init__(self, results: dict[str, Any], workload: str) -> None:
        self._cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
        self._baseline = baseline_of(workload)
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.peers: list[str] = []
        self.cells: list[str] = []
        for session in results["sessions"]:
            if session["workload"] == workload:
                self._add(session)
        self.peers.sort(key=_ORDER.index)

    def _add(self, session: dict[str, Any]) -> None:
        peer = session["peer"]
        if session.get("error"):
            self.problems[peer].append(session["error"])
        if session["cells"] and peer not in self.peers:
            self.peers.append(peer)
        for name, cell in _flattened(session["cells"]).items():
            if name not in self.cells:
                self.cells.append(name)
            if cell.get("failed"):
                self.problems[peer].append(f"{name}: {cell['failed']}")
                continue
            self._cells[peer, name][session["round"]] = cell

    def values(self, peer: str, cell: str, figure: str) -> list[float]:
        return [found[figure] for found in self._cells[peer, cell].values() if found.get(figure) is not None]

    def median(self, peer: str, cell: str, figure: str) -> float | None:
        found = self.values(peer, cell, figure)
        return median(found) if found else None

    def total(self, peer: str, cell: str, figure: str) -> int:
        return int(sum(self.values(peer, cell, figure)))

    def ratio(self, peer: str, cell: str, figure: str) -> float | None:
        """To the baseline of the same rounds; of other forms, to the baseline's JSON."""
        of_json = cell.replace("binary-", "tensor-").replace("-binary", "")
        base = self._cells[self._baseline, of_json.replace(" binary ", " json ").replace(" grpc ", " json ")]
        found = [
            measured[figure] / base[number][figure]
            for number, measured in self._cells[peer, cell].items()
            if base.get(number, {}).get(figure) and measured.get(figure) is not None
        ]
        return median(found) if found else None

    def by_ratio(self, cell: str, figure: str, *, least_first: bool = False) -> list[str]:
        """Peers that have the cell, best first."""
        ratios = {peer: self.ratio(peer, cell, figure) for peer in self.peers}
        known = {peer: ratio for peer, ratio in ratios.items() if ratio is not None}
        return sorted(known, key=lambda peer: known[peer], reverse=not least_first)

    def others(self) -> list[float]:
        """How many cores other programs used, in each cell."""
        found = [
            each["others_cores"]
            for rounds in self._cells.values()
            for each in rounds.values()
            if "others_cores" in each
        ]
        return sorted(found)


def _flattened(cells: dict[str, Any]) -> dict[str, Any]:
    """A mixed load's parts as cells of their own; repeated flat streams as one, of medians."""
    flat = [cell for name, cell in cells.items() if name.startswith("flat ") and not cell.get("failed")]
    found = {name: cell for name, cell in cells.items() if not name.startswith("flat ") or cell.get("failed")}
    if flat:
        found["flat"] = {figure: median(cell[figure] for cell in flat) for figure in flat[0]}
        found["flat"] |= {"streams": len(flat), "whole": sum(cell["whole"] for cell in flat)}
    if "mixed" in cells:
        found |= cells["mixed"].get("parts", {})
    return found
