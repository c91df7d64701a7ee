"""A workflow in this process, behind the same seam as everywhere else: for scripts, tests and notebooks. No Ray."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from deployments.client import Item, Outcome
from deployments.runner import Runner
from deployments.standing import Standing
from deployments.statistics import Statistics
from workflows.card import Card

__all__ = ["LocalClient"]


class LocalClient:
    """`WorkflowClient` over a `Runner`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        return self._runner.submit(items)

    def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        return self._runner.stream(item)

    async def cancel(self, request_ids: Sequence[str]) -> None:
        self._runner.cancel(request_ids)

    async def tell_waiting(self, caller: str, items: float) -> None:
        self._runner.expect(caller, items)

    async def card(self) -> Card:
        return self._runner.card

    async def unload(self, timeout_s: float) -> list[Standing]:
        return [await self._runner.unload(timeout_s)]

    async def load(self, timeout_s: float) -> list[Standing]:
        return [await self._runner.load(timeout_s)]

    async def statistics(self) -> Statistics:
        return self._runner.statistics()
