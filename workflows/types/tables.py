"""Kind `task`: questions about tables, and about texts side by side."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workflows.types.exchange import Exchange

__all__ = ["AskTable", "ClassifyRows", "CompareTexts", "RowClasses", "Similarities", "TableAnswer"]

_Name = Annotated[str, Field(max_length=1024)]
_Text = Annotated[str, Field(max_length=1 << 20)]
_Cell = Annotated[str, Field(max_length=1 << 16)] | int | float
_Column = Annotated[list[_Cell], Field(max_length=1 << 14)]


class _Task(Exchange):
    kind: ClassVar[str] = "task"


class _Table(_Task):
    """A table by its columns, which are of one length."""

    table: dict[_Name, _Column] = Field(min_length=1, max_length=1024)

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len({len(column) for column in self.table.values()}) > 1:
            raise ValueError("the columns of a table have one length")
        return self


class AskTable(_Table):
    """A question about a table, whose cells are texts. What is None is as the upstream has it.

    Attributes:
        table: The columns by their names.
        padding, sequential, truncation: How the model reads it.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"table": {"name": ["Ada"], "born": ["1815"]}, "query": "When was Ada born?"}]}
    )
    task: ClassVar[str] = "table-question-answering"
    query: _Text
    padding: Literal["do_not_pad", "longest", "max_length"] | None = None
    sequential: bool | None = None
    truncation: bool | None = None


class TableAnswer(_Task):
    """An answer, made of `cells`, each at its row and column in `coordinates`, by `aggregator` (`SUM`, ...) where told."""

    answer: str
    cells: list[str]
    coordinates: list[list[int]]
    aggregator: str | None = None


class ClassifyRows(_Table):
    """Rows of a table to put into the model's own classes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"table": {"height": [1.5], "width": [0.2]}}]})
    task: ClassVar[str] = "tabular-classification"


class RowClasses(_Task):
    """A class for each row, in order."""

    classes: list[str | int | float]


class CompareTexts(_Task):
    """A text, and others to compare it with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a text", "others": ["a text", "a cat"]}]})
    task: ClassVar[str] = "sentence-similarity"
    text: _Text
    others: list[_Text] = Field(min_length=1, max_length=4096)


class Similarities(_Task):
    """How near each of the others is, in their order; 1 is the same."""

    similarities: list[float]
