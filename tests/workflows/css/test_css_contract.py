"""The contract of remote workflows, kept by each family of providers: every fault, streamed and not; nothing given away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.workflows.css.dialects import DIALECTS, EMBEDDINGS
from tests.workflows.remote.contract_upstream import (
    FAULTS,
    Dialect,
    Fault,
    check_budget,
    check_fault,
    check_good,
    check_leaving,
)

streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
each = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS.keys())
families = pytest.mark.parametrize("dialect", [DIALECTS["openai"], DIALECTS["anthropic"]], ids=["openai", "anthropic"])


@families
@streamed_or_not
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_fault(
    fault: Fault, streamed: bool, dialect: Dialect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if fault.name == "nonsense" and dialect is DIALECTS["anthropic"]:
        fault = replace(fault, attempts=None)  # its library passes over events without a name, until there are no more
    await check_fault(fault, dialect, streamed, tmp_path, caplog)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_fault_of_embeddings(fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check_fault(fault, EMBEDDINGS, False, tmp_path, caplog)


@each
@streamed_or_not
async def test_good_answer(streamed: bool, dialect: Dialect, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = await check_good(dialect, streamed, tmp_path, caplog)
    last = given[-1] if isinstance(given, list) else given
    assert last.finish_reason == "stop"
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.estimated) == (7, 3, None)


@families
@streamed_or_not
async def test_who_leaves_ends_the_upstreams_work(streamed: bool, dialect: Dialect, tmp_path: Path) -> None:
    await check_leaving(dialect, streamed, tmp_path)


@families
async def test_a_failing_upstream_is_not_asked_much_more_often(dialect: Dialect, tmp_path: Path) -> None:
    await check_budget(dialect, tmp_path)
