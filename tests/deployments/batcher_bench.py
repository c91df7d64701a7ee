"""A batcher on a bench: its model runs a batch when the test says so, and its clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from deployments.batcher import Batcher, Entrant
from deployments.client import Outcome
from tests.deployments.virtual_clock import VirtualClock, quiescence
from workflows.card import Batching, Load
from workflows.context import CallContext
from workflows.errors import InvalidInput, WorkflowError

__all__ = ["Bench", "Model"]


class Model:
    """Runs a batch when it is told to, and answers x with ("ran", x)."""

    def __init__(self) -> None:
        self.batches: list[list[Entrant]] = []
        self.begun: Callable[[list[Entrant]], None] = lambda batch: None
        self._end: asyncio.Future[str] | None = None

    @property
    def busy(self) -> bool:
        return self._end is not None

    async def __call__(self, batch: list[Entrant]) -> list[Outcome]:
        assert self._end is None, "two batches at once"
        self.begun(batch)
        self.batches.append(batch)
        self._end = asyncio.get_running_loop().create_future()
        try:
            how = await self._end
        finally:
            self._end = None
        if how == "raise":
            raise RuntimeError("secret of the model")
        outcomes = [Outcome(("ran", entrant.input_data)) for entrant in batch]
        if how == "first fails":
            outcomes[0] = Outcome(error=InvalidInput("poison"))
        return outcomes[:-1] if how == "too few" else outcomes

    async def finish(self, how: str = "well") -> None:
        assert self._end is not None, "no batch is running"
        self._end.set_result(how)
        await quiescence()


class Bench:
    """A batcher, its model and its clock, and what was delivered to whom."""

    def __init__(self, limits: Batching | None = None, max_queue: int = 100) -> None:
        self.clock = VirtualClock()
        self.model = Model()
        self.batcher = Batcher(self.model, limits or Batching(), max_queue, self.clock)
        self.delivered: dict[Any, list[Outcome]] = {}
        self.batcher.start()

    def submit(
        self, name: Any, *, cost: float = 1.0, bucket: Hashable = None, within_s: float | None = None
    ) -> Entrant:
        deadline = None if within_s is None else self.clock.now() + within_s
        inbox: list[Outcome] = []
        entrant = Entrant(name, CallContext(str(name), deadline), Load(cost, bucket), inbox.append)
        self.batcher.submit(entrant)
        self.delivered[name] = inbox
        return entrant

    async def run(self, *names: Any, **about: Any) -> None:
        for name in names:
            self.submit(name, **about)
        await quiescence()

    @property
    def ran(self) -> list[list[Any]]:
        return [[entrant.input_data for entrant in batch] for batch in self.model.batches]

    def outcome(self, name: Any) -> Outcome:
        (outcome,) = self.delivered[name]
        return outcome

    def error(self, name: Any) -> WorkflowError:
        error = self.outcome(name).error
        assert error is not None
        return error
