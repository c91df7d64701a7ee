"""All rules of `WorkflowClient`'s contract, whichever file they stand in."""

from __future__ import annotations

from tests import contract_loading, contract_statistics  # noqa: F401 - which add theirs
from tests.contract import RULES

__all__ = ["RULES"]
