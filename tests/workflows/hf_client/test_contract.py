"""The contract of remote workflows, kept by the one that asks Hugging Face's inference API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.hf_client.hub_dialects import CHAT, CLASSES, PROMPTS, VECTORS
from tests.workflows.remote.contract_upstream import (
    FAULTS,
    Dialect,
    Fault,
    check_budget,
    check_fault,
    check_good,
    check_leaving,
)

DIALECTS = [
    pytest.param(dialect, streamed, id=f"{name}-{'streamed' if streamed else 'whole'}")
    for name, dialect in (("prompt", PROMPTS), ("chat", CHAT), ("classes", CLASSES), ("vectors", VECTORS))
    for streamed in (False, True)
    if not streamed or dialect.events is not None
]
ways = pytest.mark.parametrize(("dialect", "streamed"), DIALECTS)


@ways
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_fault(
    fault: Fault, dialect: Dialect, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await check_fault(fault, dialect, streamed, tmp_path, caplog)


@ways
async def test_good_answer(dialect: Dialect, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check_good(dialect, streamed, tmp_path, caplog)


@ways
async def test_who_leaves_ends_the_upstreams_work(dialect: Dialect, streamed: bool, tmp_path: Path) -> None:
    await check_leaving(dialect, streamed, tmp_path)


@pytest.mark.parametrize("dialect", [PROMPTS, CLASSES], ids=["prompt", "classes"])
async def test_a_failing_upstream_is_not_asked_much_more_often_than_the_workflow(
    dialect: Dialect, tmp_path: Path
) -> None:
    await check_budget(dialect, tmp_path)
