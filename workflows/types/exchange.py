"""The base of all exchange types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Exchange", "absent"]

MAX_FIELDS: Final = 64


class Exchange(BaseModel):
    """The base of all exchange types: strict, closed and immutable. Their errors do not show what was sent."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True
    )
    kind: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: object) -> object:
        """Says no before a million unknown fields are each complained of."""
        if (type(value) is dict or isinstance(value, Mapping)) and len(value) > MAX_FIELDS:
            raise ValueError("too many fields")
        return value


def absent(value: object) -> bool:
    """For `exclude_if`: fields that say nothing, which most values have."""
    return value is None
