"""The contract of `WorkflowClient`, kept by the client in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.local import LocalClient
from deployments.runner import Figures, Runner
from tests.contract import DEPLOYMENTS, RULES, Place, Rule


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.id) for rule in RULES])
async def test_contract(rule: Rule, tmp_path: Path) -> None:
    deployment = DEPLOYMENTS[rule.deployment]
    runner = Runner(deployment.workflow(), rule.deployment, settings=deployment.settings)
    await runner.start()
    await rule.check(LocalClient(runner), Place(tmp_path, deployment))
    await runner.stop()
    assert runner.figures() == Figures(0, 0, 0)


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
