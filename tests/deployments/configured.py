"""Workflows that configuration tests name by import path."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from workflows import BaseInferenceWorkflow
from workflows.errors import ModelNotFound

if TYPE_CHECKING:
    from somewhere import Unresolvable  # type: ignore[import-not-found]

__all__ = ["Configured", "Misspelled", "NotAWorkflow", "Odd", "Picky", "Plain", "Unresolved"]


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int = 0


class Configured(BaseInferenceWorkflow[int, int]):
    """Takes options of many kinds, some of them called as pydantic would not like it."""

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)],
        *,
        place: Place | None = None,
        names: list[str] | None = None,
        copy: bool = False,
        model_dump: str = "",
        _private: int = 0,
        anything: Any = None,
    ) -> None:
        self.given = (size, place, names, copy, model_dump, _private, anything)

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data


class Plain(BaseInferenceWorkflow[int, int]):
    """Takes no options."""

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data


class Picky(Plain):
    """Checks its options itself."""

    def __init__(self, how: str = "") -> None:
        if how == "missing":
            raise ModelNotFound("model 'x' does not exist under its root")
        if how == "key":
            raise KeyError("no; such\nkey")
        if how == "exit":
            sys.exit(3)
        assert how != "assert"


class Unresolved(Plain):
    """Its annotations mean something to a type checker only."""

    def __init__(self, what: Unresolvable = None, size: int = 0) -> None:
        self.given: tuple[Any, ...] = (what, size)


class Misspelled(Plain):
    """Its annotation cannot even be parsed."""

    def __init__(self, size: Any = 0) -> None:
        self.given = size


Misspelled.__init__.__annotations__["size"] = "int or or None"


class Odd(Plain):
    """Its annotation is a model that cannot be made."""

    def __init__(self, size: Annotated[int, Field(pattern="a")] = 0) -> None:
        self.given = size


class NotAWorkflow:
    pass
