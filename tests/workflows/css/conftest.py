"""A key that stands where keys should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.remote.contract_upstream import KEY
from workflows.remote.secret import SecretRef


@pytest.fixture
def key(tmp_path: Path) -> SecretRef:
    file = tmp_path / "key"
    file.write_text(KEY)
    return SecretRef(file=str(file))
