"""The contract of `WorkflowClient`, kept by the client in this process, and by a local lane between two ends in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from deployments.local import LocalClient
from deployments.runner import Figures, Runner
from tests.contract import DEPLOYMENTS, Place, Rule
from tests.contract_rules import RULES
from tests.deployments.lane_ends import lane_to


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in RULES])
async def test_contract(rule: Rule, tmp_path: Path) -> None:
    deployment = DEPLOYMENTS[rule.deployment]
    runner = Runner(deployment.workflow(), rule.deployment, settings=deployment.settings)
    await runner.start()
    await rule.check(LocalClient(runner), Place(tmp_path, deployment))
    await runner.stop()
    assert runner.figures() == Figures(0, 0, 0)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in RULES])
def test_contract_over_a_lane(rule: Rule, tmp_path: Path) -> None:
    async def check() -> None:
        deployment = DEPLOYMENTS[rule.deployment]
        runner = Runner(deployment.workflow(), rule.deployment, settings=deployment.settings)
        await runner.start()
        async with lane_to(runner) as client:
            await rule.check(client, Place(tmp_path, deployment))
            assert client.lanes == 1
        assert runner.figures() == Figures(0, 0, 0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as running:
        running.run(check())


async def test_no_chunk_is_computed_after_leaving(tmp_path: Path) -> None:
    deployment = DEPLOYMENTS["sync"]
    runner = Runner(deployment.workflow(), "sync")
    await runner.start()
    place = Place(tmp_path, deployment)
    stream = LocalClient(runner).stream(place.order(1, count=100))
    await anext(stream)
    await stream.aclose()
    await runner.stop()
    assert place.ran == [1]
