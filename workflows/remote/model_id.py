"""What remote servers call their models. Which names a workflow takes, its operator says."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["ModelId"]

ModelId = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]
