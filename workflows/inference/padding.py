"""Which sequences to run together, so that little is spent on padding and little on calls. Numbers in, indices out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

__all__ = ["ENCODER_ON_CPU", "ENCODER_ON_GPU", "RunCosts", "plan_runs"]


@dataclass(frozen=True, slots=True)
class RunCosts:
    """What running a model costs on some device, counted in tokens.

    Attributes:
        call: What a call costs before its first token: the time it takes, in tokens that could be read meanwhile.
        most: Padded tokens of one call; beyond it, larger calls gain nothing.
        step: Lengths are rounded up to a multiple of this.
    """

    call: int
    most: int
    step: int = 1

    def padded(self, length: int) -> int:
        return -(-length // self.step) * self.step


# Measured with MiniLM: on one CPU thread a call costs 7 ms before its first token, a token 0.3 ms, and calls of more than
# 256 tokens gain nothing. A GPU is launch-bound for much longer, and likes lengths that are multiples of 8.
ENCODER_ON_CPU: Final = RunCosts(call=24, most=512)
ENCODER_ON_GPU: Final = RunCosts(call=4096, most=1 << 15, step=8)


def plan_runs(lengths: Sequence[int], costs: RunCosts) -> list[list[int]]:
    """The cheapest way to run sequences of these lengths: indices, run by run, each run padded to its longest.

    Sorted by length, the best plan consists of stretches; dynamic programming over the distinct lengths finds it exactly.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    groups = [(size, list(members)) for size, members in groupby(order, key=lambda place: costs.padded(lengths[place]))]
    best: list[tuple[float, int]] = [(0, 0)]  # for the first n groups: what they cost, and where their last run begins
    for end in range(1, len(groups) + 1):
        options, count = [], 0
        for start in range(end - 1, -1, -1):
            count += len(groups[start][1])
            options.append((best[start][0] + _cost(count, groups[end - 1][0], costs), start))
        best.append(min(options))
    runs: list[list[int]] = []
    end = len(groups)
    while end:
        start = best[end][1]
        members = [place for _, group in groups[start:end] for place in group]
        size = _members_at_once(groups[end - 1][0], costs)
        runs.extend(members[first : first + size] for first in range(0, len(members), size))
        end = start
    return runs[::-1]


def _cost(count: int, length: int, costs: RunCosts) -> float:
    calls = -(-count // _members_at_once(length, costs))
    return calls * costs.call + count * length


def _members_at_once(length: int, costs: RunCosts) -> int:
    return max(1, costs.most // max(1, length))
