"""What every test needs: GPU tests are skipped where no GPU is, and nothing looks for a model hub."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator

import pytest

from workflows.resources import Resources

# Before any test module imports a library that reads them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",  # as scripts/serve has it; Ray's 15 would starve replicas beside the tests themselves
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),  # the Ray suite's cluster is nobody else's
)


def pytest_collection_finish() -> None:
    """What was imported stays: a garbage collection that looks through torch and its like again costs half a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if Resources.of_machine().gpu_ids:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is freed meanwhile is freed by its last reference."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
