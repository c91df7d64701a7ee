"""Where a replica's local lane is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LaneAddress"]


@dataclass(frozen=True, slots=True)
class LaneAddress:
    """Where a replica's lane is: of use on its own machine only, and to who speaks its version."""

    node: str
    replica: str
    version: int
    path: str
