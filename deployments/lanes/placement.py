"""Which replica is to hold which model: as many each, and the same for all routers that know the same models. Names only.

Rendezvous hashing with bounded loads: models are dealt in the order of their hashes, each to the replica of the highest rank
that has no more than its part. That order, and not the one in which they were asked for, is what routers agree on.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

__all__ = ["Placement", "rank"]

MAX_MODELS: Final = 256
FORGET_AFTER_S: Final = 600.0


class Placement:
    """Belongs to one event loop.

    Only models that have answered are known and take a place: callers may name what does not exist, and that must not move
    what does. So may a model that is not known yet, which is told the place that it will have.

    Args:
        clock: Seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, float] = OrderedDict()  # when they last answered, the longest ago first
        self._replicas: frozenset[str] = frozenset()
        self._orders: dict[str, list[str]] = {}  # of the known ones
        self._dealt: dict[str, str] | None = None

    def answered(self, model: str) -> None:
        """A model is one that exists, and is in use."""
        if model not in self._known:
            self._dealt = None
        self._known[model] = self._clock()
        self._known.move_to_end(model)
        if len(self._known) > MAX_MODELS:
            self._forget_first()

    def replica_for(self, model: str, replicas: Iterable[str]) -> str:
        """The one of these replicas, at least one, that is to hold this model."""
        found = frozenset(replicas)
        if found != self._replicas:
            self._replicas, self._dealt = found, None
            self._orders.clear()
        while self._known and next(iter(self._known.values())) < self._clock() - FORGET_AFTER_S:
            self._forget_first()
        if model not in self._known:
            return self._deal([*self._known, model])[model]
        if self._dealt is None:
            self._dealt = self._deal(self._known)
        return self._dealt[model]

    def _deal(self, models: Iterable[str]) -> dict[str, str]:
        names = sorted(models, key=lambda model: rank(model, ""))
        most = -(-len(names) // len(self._replicas))
        held: Counter[str] = Counter()
        dealt: dict[str, str] = {}
        for name in names:
            dealt[name] = next(replica for replica in self._order(name) if held[replica] < most)
            held[dealt[name]] += 1
        return dealt

    def _order(self, model: str) -> list[str]:
        order = self._orders.get(model)
        if order is None:
            order = sorted(self._replicas, key=lambda replica: rank(model, replica), reverse=True)
            if model in self._known:
                self._orders[model] = order
        return order

    def _forget_first(self) -> None:
        model, _ = self._known.popitem(last=False)
        self._orders.pop(model, None)
        self._dealt = None


def rank(affinity: str, replica: str) -> bytes:
    """What belongs together goes to the replica of the highest rank (rendezvous hashing): when one comes or goes, the rest
    stays where it is."""
    return blake2b(f"{affinity}\0{replica}".encode("utf-8", "replace"), digest_size=8).digest()
