"""A hub on loopback, and settings that let a store talk to it and to nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tests.workflows.models.fake_hub import FakeHub, fake_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    # The tests run with HF_HUB_OFFLINE, which the client has read by now; this one's network ends at loopback.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with fake_hub() as running:
        yield running


@pytest.fixture
def settings(hub: FakeHub, tmp_path: Path) -> dict[str, Any]:
    return {"cache": tmp_path / "cache", "endpoint": hub.endpoint, "keep_free_bytes": 0, "timeout_s": 5}
