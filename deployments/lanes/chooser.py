"""Which way an envelope takes: over the least busy local lane, or over the handle, which reaches every replica.

What belongs together goes over the same lane every time, for as long as that one is not much busier than others: the
replica at its end may remember the beginning of a conversation, or hold a model. Conversations are many and are shared out
by their hashes; models are few, and are dealt out evenly (`placement`). When a replica is too busy, a second one helps, and
always the same, so that a model that many ask for spreads to as many replicas as it takes, and no further.

Lanes come and go: who knows of replicas says so with `adopt`, and a lane that is lost leaves by itself. The handle's share
is that of the replicas that have no lane: those of other machines, and those that are not connected yet.

Replicas that have their workflow unloaded are passed over while another one is loaded: those with a lane say so
themselves, and who asks the others tells it with `hear`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar

from deployments.client import MODEL_AFFINITY, Item, Outcome, WorkflowClient
from deployments.lanes.address import LaneAddress
from deployments.lanes.client import Lane, LaneRefused
from deployments.lanes.frames import WIRE_VERSION
from deployments.lanes.placement import Placement, rank
from deployments.standing import Standing, newer
from deployments.statistics import Statistics
from workflows.card import Card

__all__ = ["LaneChooser"]

log = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY_WORTH: Final = 8
"""So many items more than elsewhere may be outstanding at a replica that remembers, before another one is quicker."""


class LaneChooser:
    """`WorkflowClient` over the open lanes of one workflow, and over `handle` otherwise. Belongs to one event loop.

    Args:
        changed: Called when `unloaded` may have changed.
    """

    def __init__(self, handle: WorkflowClient, changed: Callable[[], None] = lambda: None) -> None:
        self._handle = handle
        self._changed = changed
        self._lanes: dict[LaneAddress, Lane] = {}
        self._placement = Placement()
        self._standings: dict[str, Standing] = {}
        self._unloaded: dict[str, Standing] = {}  # those of them that are not loaded
        self._on_handle = 0
        self._replicas = 0
        self._losses = 0

    @property
    def lanes(self) -> int:
        """Open lanes."""
        return len(self._lanes)

    @property
    def losses(self) -> int:
        """Lanes that have ended so far: when this grows, there are other replicas now."""
        return self._losses

    @property
    def unloaded(self) -> list[Standing]:
        """Replicas that are known not to have their workflow loaded."""
        return list(self._unloaded.values())

    def hear(self, standings: Iterable[Standing], *, of_all: bool = False) -> None:
        """What replicas have said of themselves, in whatever order it comes in.

        Args:
            of_all: Those that are not among them, and have no lane, do not run any more.
        """
        heard = {standing.replica: standing for standing in standings}
        if of_all:
            kept = heard.keys() | {address.replica for address in self._lanes}
            self._standings = {name: standing for name, standing in self._standings.items() if name in kept}
        for name, standing in heard.items():
            self._standings[name] = newer(self._standings.get(name), standing)
        self._note_unloaded()

    def count(self, replicas: int) -> None:
        """How many replicas there are, wherever."""
        self._replicas = replicas

    async def adopt(self, addresses: Sequence[LaneAddress]) -> None:
        """Connect to those that are not connected yet. What cannot be reached is left to the handle."""
        new = [address for address in addresses if address.version == WIRE_VERSION and address not in self._lanes]
        await asyncio.gather(*map(self._connect, new))

    async def close(self) -> None:
        """End all lanes: what is outstanding on them is lost."""
        for lane in list(self._lanes.values()):
            await lane.close()

    def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        affinity = items[0].affinity if items else None
        lane = self._lane_for(affinity)
        if lane is None:
            return self._by_handle(len(items), self._handle.submit(items))
        groups = lane.submit(items)
        return self._noted(affinity, groups) if affinity is not None and affinity.startswith(MODEL_AFFINITY) else groups

    def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        lane = self._lane_for(item.affinity)
        return self._by_handle(1, self._handle.stream(item)) if lane is None else lane.stream(item)

    async def _by_handle(self, items: int, groups: AsyncGenerator[T]) -> AsyncGenerator[T]:
        self._on_handle += items
        try:
            async with aclosing(groups):
                async for group in groups:
                    yield group
        finally:
            self._on_handle -= items

    async def _noted(
        self, model: str, groups: AsyncGenerator[list[tuple[int, Outcome]]]
    ) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        async with aclosing(groups):
            async for group in groups:
                if any(outcome.error is None for _, outcome in group):
                    self._placement.answered(model)
                yield group

    async def cancel(self, request_ids: Sequence[str]) -> None:
        for lane in self._lanes.values():
            await lane.cancel(request_ids)
        if self._on_handle:
            await self._handle.cancel(request_ids)

    async def tell_waiting(self, caller: str, items: float) -> None:
        for lane in self._lanes.values():
            lane.tell_waiting(caller, items)
        if len(self._lanes) < self._replicas:
            # It reaches those with a lane as well: they hear the same twice, from the same caller.
            await self._handle.tell_waiting(caller, items)

    async def card(self) -> Card:
        return await self._handle.card()

    async def unload(self, timeout_s: float) -> list[Standing]:
        standings = await self._handle.unload(timeout_s)
        self.hear(standings)
        return standings

    async def load(self, timeout_s: float) -> list[Standing]:
        standings = await self._handle.load(timeout_s)
        self.hear(standings)
        return standings

    async def statistics(self) -> Statistics:
        return await self._handle.statistics()

    def _lane_for(self, affinity: str | None) -> Lane | None:
        """The lane to take; None for the handle."""
        best = self._least_busy()
        if affinity is None or best is None or len(self._lanes) < 2:
            return best
        loaded = [address.replica for address in self._lanes if address.replica not in self._unloaded]
        room = [
            address
            for address, lane in self._lanes.items()
            if address.replica in loaded and lane.outstanding <= best.outstanding + MEMORY_WORTH
        ]
        placed = (
            self._placement.replica_for(affinity, loaded) if loaded and affinity.startswith(MODEL_AFFINITY) else None
        )
        own = max(room, key=lambda address: (address.replica == placed, rank(affinity, address.replica)), default=None)
        return best if own is None else self._lanes[own]

    def _least_busy(self) -> Lane | None:
        """The lane to take; None for the handle."""
        if self._unloaded:
            return self._least_busy_loaded()
        best = min(self._lanes.values(), key=_outstanding, default=None)
        without_lane = self._replicas - len(self._lanes)
        if best is not None and without_lane > 0 and best.outstanding > self._on_handle / without_lane:
            return None
        return best

    def _least_busy_loaded(self) -> Lane | None:
        """The same where some are unloaded; where all are, one of those, which says why."""
        loaded = [lane for address, lane in self._lanes.items() if address.replica not in self._unloaded]
        best = min(loaded, key=_outstanding, default=None)
        unloaded_without_lane = len(self._unloaded) - (len(self._lanes) - len(loaded))
        without_lane = self._replicas - len(self._lanes) - unloaded_without_lane
        if best is None:
            return None if without_lane > 0 else min(self._lanes.values(), key=_outstanding, default=None)
        return None if without_lane > 0 and best.outstanding > self._on_handle / without_lane else best

    async def _connect(self, address: LaneAddress) -> None:
        try:
            lane = await Lane.to(address, self._forget, self._stands)
        except (OSError, TimeoutError, LaneRefused) as cause:
            log.warning("no lane to replica %s: %s", address.replica, type(cause).__name__)
            return
        if lane.open:
            self._lanes[address] = lane

    def _forget(self, lane: Lane) -> None:
        self._losses += 1
        for address in [address for address, known in self._lanes.items() if known is lane]:
            del self._lanes[address]
            self._standings.pop(address.replica, None)
        self._note_unloaded()

    def _stands(self, standing: Standing) -> None:
        self.hear([standing])

    def _note_unloaded(self) -> None:
        before = self._unloaded
        self._unloaded = {name: standing for name, standing in self._standings.items() if not standing.loaded}
        if self._unloaded != before:
            self._changed()


def _outstanding(lane: Lane) -> int:
    return lane.outstanding
