"""Both ends of a local lane in one process, and what is sent over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deployments.client import Item
from deployments.lanes.chooser import LaneChooser
from deployments.lanes.server import LaneServer
from deployments.local import LocalClient
from deployments.runner import Runner
from workflows import CallContext

__all__ = ["item", "lane_to"]


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
