"""The contract of remote workflows, kept by the one that asks a text-generation-inference server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.remote.contract_upstream import (
    FAULTS,
    Dialect,
    Fault,
    check_budget,
    check_fault,
    check_good,
    check_leaving,
)
from tests.workflows.tgi_client.tgi_dialects import CHAT, PROMPTS

pytestmark = [
    pytest.mark.parametrize("dialect", [PROMPTS, CHAT], ids=["prompt", "chat"]),
]
streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@streamed_or_not
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_fault(
    fault: Fault, streamed: bool, dialect: Dialect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await check_fault(fault, dialect, streamed, tmp_path, caplog)


@streamed_or_not
async def test_good_answer(streamed: bool, dialect: Dialect, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check_good(dialect, streamed, tmp_path, caplog)


@streamed_or_not
async def test_who_leaves_ends_the_servers_work(streamed: bool, dialect: Dialect, tmp_path: Path) -> None:
    await check_leaving(dialect, streamed, tmp_path)


async def test_a_failing_server_is_not_asked_much_more_often_than_the_workflow(
    dialect: Dialect, tmp_path: Path
) -> None:
    await check_budget(dialect, tmp_path)
