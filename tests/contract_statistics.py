"""The rules of `tests.contract` about what is counted. Others have used the same workflow before, so differences count."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any, Final

import pytest

from deployments.client import Item, WorkflowClient
from tests.contract import ENDLESS, Place, collect, error_of, read, rule
from workflows import CallContext

PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
NOTHING: Final = {"count": 0, "ns": 0}


class Spent:
    """What was counted since this was made."""

    def __init__(self, client: WorkflowClient, before: dict[str, Any]) -> None:
        self._client = client
        self._before = before

    @classmethod
    async def of(cls, client: WorkflowClient) -> Spent:
        return cls(client, (await client.statistics()).plain())

    async def read(self) -> dict[str, Any]:
        difference: dict[str, Any] = _less((await self._client.statistics()).plain(), self._before)
        return difference


def _less(after: Any, before: Any) -> Any:
    if isinstance(after, dict):
        return {name: _less(value, before.get(name, {})) for name, value in after.items()}
    return after - (before or 0)


@rule("sync", "async")
async def every_item_and_every_run_is_counted_once(client: WorkflowClient, place: Place) -> None:
    spent = await Spent.of(client)
    async with aclosing(client.submit([Item({}, CallContext("bad")), *map(place.order, range(4))])) as groups:
        async with place.busy(client):
            await anext(groups)  # the refusal: the others have arrived
            came = time.monotonic()
            await asyncio.sleep(0.02)
            waited_ns = (time.monotonic() - came) * 1e9
        assert sum([len(group) async for group in groups]) == 4
    await read(client, place.order(9, count=3))
    found = await spent.read()

    slots = place.deployment.slots  # each was busy with an item of its own
    items = slots + 4 + 1
    assert {found[name]["count"] for name in ("success", *PARTS)} == {items}
    runs = {1: 2, 4: 1} if slots == 1 else {1: items}
    counted = {size: of_size["compute_infer"]["count"] for size, of_size in found["batches"].items()}
    assert {size: count for size, count in counted.items() if count} == runs
    assert found["execution_count"] == sum(runs.values())
    assert found["failures"]["invalid"]["count"] == 1
    assert found["queue"]["ns"] >= 4 * waited_ns
    assert all(found[name]["ns"] > 0 for name in PARTS)
    assert found["success"]["ns"] >= sum(found[name]["ns"] for name in PARTS)
    assert abs((await client.statistics()).last_inference_ms - time.time() * 1000) < 60_000


@rule("sync", "async")
async def what_an_item_has_waited_before_it_was_sent_is_queueing(client: WorkflowClient, place: Place) -> None:
    spent = await Spent.of(client)
    item = place.order(1)
    item.since = time.monotonic() - 1000.0
    await collect(client, [item])
    stream = place.order(2, count=1)
    stream.since = time.monotonic() - 2000.0
    await read(client, stream)
    found = await spent.read()
    assert found["queue"]["ns"] == pytest.approx(3000e9, rel=0.01)
    assert found["success"]["ns"] > found["queue"]["ns"]
    assert found["compute_infer"]["ns"] < 100e9


@rule("sync", "async")
async def failures_are_counted_by_what_they_are(client: WorkflowClient, place: Place) -> None:
    spent = await Spent.of(client)
    faults = [place.order(1, fault="crash"), place.order(2, fault="invalid"), place.order(3, within_s=-1.0)]
    outcomes = await collect(client, faults)
    await read(client, place.order(4, count=3, fault="crash", at=1))
    left = client.stream(place.order(5, count=ENDLESS))
    await anext(left)
    await left.aclose()
    while (found := await spent.read())["failures"].get("cancelled", NOTHING)["count"] < 1:
        await asyncio.sleep(0)  # who leaves does not wait for it
    codes = [error_of(outcome).code for outcome in outcomes] + ["internal", "cancelled"]
    for code in set(codes):
        assert found["failures"][code]["count"] == codes.count(code)
    assert found["success"]["count"] == 0
    assert found["execution_count"] == 0
