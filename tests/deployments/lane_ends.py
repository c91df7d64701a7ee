"""Both ends of a local lane in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.lanes.chooser import LaneChooser
from deployments.lanes.server import LaneServer
from deployments.local import LocalClient
from deployments.runner import Runner

__all__ = ["lane_to"]


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
