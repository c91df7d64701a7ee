"""Both ends of a local lane in one process, and what is sent over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deployments.client import Item
from deployments.lanes.address import LaneAddress
from deployments.lanes.chooser import LaneChooser
from deployments.lanes.server import LaneServer
from deployments.local import LocalClient
from deployments.runner import Figures, Runner
from workflows import BaseInferenceWorkflow, CallContext

__all__ = ["Replica", "chooser_of", "item", "lane_to", "replicas"]


def item(value: Any) -> Item:
    return Item(value, CallContext("request"))


@asynccontextmanager
async def lane_to(runner: Runner) -> AsyncIterator[LaneChooser]:
    """A client that has a lane to a started runner, which is stopped at the end."""
    server = LaneServer(runner, "the replica")
    await server.start()
    address = server.address("the node")
    assert address is not None
    client = LaneChooser(LocalClient(runner))
    client.count(1)
    await client.adopt([address])
    try:
        yield client
    finally:
        await server.send_away()
        await runner.stop()
        await server.close()
        await client.close()


class Replica:
    """A runner behind a lane, as a process of its own would have it; `die` is what SIGKILL does to its connections."""

    def __init__(self, workflow: BaseInferenceWorkflow[Any, Any, Any], name: str = "replica") -> None:
        self.runner = Runner(workflow, name, replica=name)
        self.server = LaneServer(self.runner, name)

    @property
    def address(self) -> LaneAddress:
        address = self.server.address("node")
        assert address is not None
        return address

    def die(self) -> None:
        for caller in self.server._callers:
            caller.connection._abort()

    async def stop(self) -> None:
        await self.server.send_away()
        await self.runner.stop()
        await self.server.close()


@asynccontextmanager
async def replicas(*workflows: BaseInferenceWorkflow[Any, Any, Any]) -> AsyncIterator[list[Replica]]:
    found = [Replica(workflow, f"replica-{number}") for number, workflow in enumerate(workflows)]
    for replica in found:
        await replica.runner.start()
        await replica.server.start()
    try:
        yield found
    finally:
        for replica in found:
            await replica.stop()
            assert replica.runner.figures() == Figures(0, 0, 0)


async def chooser_of(*found: Replica, handle: Replica | None = None, count: int | None = None) -> LaneChooser:
    chooser = LaneChooser(LocalClient((handle or found[0]).runner))
    chooser.count(len(found) if count is None else count)
    await chooser.adopt([replica.address for replica in found])
    assert chooser.lanes == len(found)
    return chooser
