"""What batches cost, learned from those that ran: how much at once does the most work per second. No clock and no queue.

Batching pays where a large batch takes less time than its members one by one. On a GPU it nearly always does; on a CPU it
often does not, for instance where a workflow pads. So the time of every batch is noted against its cost, in classes of
powers of two, and the next batch is cut to the class that was best, unless a larger one is about as good or not yet known.
Now and then a neighbouring class is tried again: models, machines and their neighbours change.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["CostCurve", "CurveCache", "CurvePoint"]

ENOUGH: Final = 3  # batches of a class, until its figures count
MEMORY: Final = 0.2  # the weight of the newest batch
WORTH: Final = 1.1  # so many times more work per second is needed to prefer a smaller class
TRY_EVERY: Final = 16  # decisions
TRY_UNKNOWN_EVERY: Final = 4
MAX_CURVES: Final = 256


class CurvePoint(NamedTuple):
    """Batches that cost up to `cost` took `seconds` on average, the newest counting most."""

    cost: float
    seconds: float
    batches: int


class _Class:
    __slots__ = ("batches", "cost", "seconds")

    def __init__(self) -> None:
        self.cost = 0.0
        self.seconds = 0.0
        self.batches = 0

    def note(self, cost: float, seconds: float) -> None:
        self.batches += 1
        weight = max(MEMORY, 1 / self.batches)
        self.cost += weight * (cost - self.cost)
        self.seconds += weight * (seconds - self.seconds)

    @property
    def rate(self) -> float:
        """Cost per second."""
        return self.cost / max(self.seconds, 1e-9)


class CostCurve:
    """Of batches that are alike in everything but their size."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._decisions = 0

    def note(self, cost: float, seconds: float) -> None:
        """A batch of this summed cost has run for so long."""
        if cost > 0:
            self._classes.setdefault(_class_of(cost), _Class()).note(cost, seconds)

    def most(self, waiting: float, seconds_left: float | None = None) -> float | None:
        """Up to which cost the next batch should go; None for no limit.

        Args:
            waiting: The summed cost of what could run.
            seconds_left: Until the first of it is too late.
        """
        if waiting <= 0:
            return None
        largest = _class_of(waiting)
        chosen = self._best(largest)
        if self._known(chosen):
            self._decisions += 1
            other = self._neighbour(chosen, largest)
            if self._decisions % (TRY_EVERY if self._known(other) else TRY_UNKNOWN_EVERY) == 0:
                chosen = other
        if seconds_left is not None:
            while chosen > 0 and self._seconds(chosen) > seconds_left:
                chosen -= 1
        return None if chosen == largest else 2.0**chosen

    def points(self) -> list[CurvePoint]:
        """What has been learned, by cost."""
        return [
            CurvePoint(2.0**number, round(found.seconds, 6), found.batches)
            for number, found in sorted(self._classes.items())
        ]

    def _best(self, largest: int) -> int:
        top = self._classes.get(largest)
        if top is None or top.batches < ENOUGH:
            return largest
        best, rate = largest, WORTH * top.rate
        for number, found in self._classes.items():
            if number < largest and found.batches >= ENOUGH and found.rate > rate:
                best, rate = number, found.rate
        return best

    def _neighbour(self, number: int, largest: int) -> int:
        """The class beside this one that is known least."""
        beside = [other for other in (number - 1, number + 1) if 0 <= other <= largest]
        return min(beside, key=self._batches, default=number)

    def _batches(self, number: int) -> int:
        found = self._classes.get(number)
        return 0 if found is None else found.batches

    def _known(self, number: int) -> bool:
        return self._batches(number) >= ENOUGH

    def _seconds(self, number: int) -> float:
        """What a batch of this class takes; 0 where that is not known."""
        return self._classes[number].seconds if self._known(number) else 0.0


class CurveCache:
    """The curves of the buckets that were used last."""

    def __init__(self) -> None:
        self._curves: dict[int, CostCurve] = {}  # the one asked for last stands last

    def of(self, hashed: int) -> CostCurve:
        """What was learned of a bucket, by the hash of its key: two keys of one hash would share it, and do no harm."""
        curve = self._curves.pop(hashed, None) or CostCurve()
        self._curves[hashed] = curve
        if len(self._curves) > MAX_CURVES:
            del self._curves[next(iter(self._curves))]
        return curve

    def points(self) -> list[list[CurvePoint]]:
        """What has been learned, curve by curve, those asked for last first."""
        return [curve.points() for curve in reversed(self._curves.values())]


def _class_of(cost: float) -> int:
    """Class n holds costs above 2**(n-1), up to 2**n; class 0 all up to 1."""
    return max(0, math.ceil(math.log2(cost)))
