"""The contract of remote workflows, run by the least of them: what it finds is a fault of the mechanism."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.remote.contract_upstream import (
    FAULTS,
    Fault,
    check_budget,
    check_fault,
    check_good,
    check_leaving,
)
from tests.workflows.remote.plain_remote import PLAIN

streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@streamed_or_not
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_fault(fault: Fault, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check_fault(fault, PLAIN, streamed, tmp_path, caplog)


@streamed_or_not
async def test_good_answer(streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check_good(PLAIN, streamed, tmp_path, caplog)


@streamed_or_not
async def test_who_leaves_ends_the_upstreams_work(streamed: bool, tmp_path: Path) -> None:
    await check_leaving(PLAIN, streamed, tmp_path)


async def test_a_failing_upstream_is_not_asked_much_more_often_than_the_workflow(tmp_path: Path) -> None:
    await check_budget(PLAIN, tmp_path)
