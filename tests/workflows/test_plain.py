"""Every answer that a workflow may declare has a plain form that JSON can say, and comes back from it."""

from __future__ import annotations

import json
import traceback
import warnings
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, RootModel, computed_field, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from workflows import BaseInferenceWorkflow, Embedding, Sampling, TensorsResult, TextChunk
from workflows.errors import BadOutput
from workflows.plain import plain


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Pair(NamedTuple):
    first: int
    second: str


@dataclass
class Point:
    x: float
    seen: date


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int


class Many(BaseModel):
    """A field of every kind, strict."""

    model_config = ConfigDict(strict=True)
    pair: tuple[Part, int]
    days: dict[int, date]
    names: frozenset[str]
    raw: bytes
    encoded: Base64Bytes
    colour: Colour
    id: UUID
    point: Point


class Whole(RootModel[list[Part]]):
    pass


MANY = Many(
    pair=(Part(x=1), 2),
    days={1: date(2020, 1, 2)},
    names=frozenset({"b", "a"}),
    raw=b"raw",
    encoded=b"AP8=",
    colour=Colour.RED,
    id=UUID(int=5),
    point=Point(0.5, date(2020, 1, 2)),
)
SAID: list[tuple[Any, Any, Any]] = [
    (tuple[Part, int], (Part(x=1), 2), [{"x": 1}, 2]),
    (dict[int, str], {1: "a", -2: "b"}, {"1": "a", "-2": "b"}),
    (dict[Colour, int], {Colour.RED: 1}, {"red": 1}),
    (dict[UUID, Part], MappingProxyType({UUID(int=1): Part(x=1)}), {str(UUID(int=1)): {"x": 1}}),
    (set[str], {"c", "a", "b"}, ["a", "b", "c"]),
    (set[int], {10, 9, 1}, [1, 9, 10]),
    (frozenset[int | str], frozenset({2, "a", 1}), ["a", 1, 2]),
    (frozenset[Part], frozenset({Part(x=2), Part(x=1)}), [{"x": 1}, {"x": 2}]),
    (bytes, b"\xff\x00", b"\xff\x00"),
    (bytes, bytearray(b"text"), b"text"),
    (Decimal, Decimal("1.10"), "1.10"),
    (timedelta, timedelta(hours=1), "PT1H"),
    (datetime, datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00Z"),
    (Colour, Colour.RED, "red"),
    (Level, Level.LOW, 1),
    (UUID, UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (Path, Path("a/b"), "a/b"),
    (int, np.int64(5), 5),
    (float, np.float64(0.5), 0.5),
    (float, np.float32(0.5), 0.5),
    (bool, np.bool_(True), True),
    (str, np.str_("a"), "a"),
    (list[float], [np.float32(0.5)], [0.5]),
    (dict[int, int], {np.int64(1): np.int64(2)}, {"1": 2}),
    (deque[int], deque([1, 2]), [1, 2]),
    (Pair, Pair(1, "a"), [1, "a"]),
    (Point, Point(0.5, date(2020, 1, 2)), {"x": 0.5, "seen": "2020-01-02"}),
    (Whole, Whole([Part(x=1)]), [{"x": 1}]),
    (Sampling, Sampling(seed=1, stop=["a"]), Sampling(seed=1, stop=["a"]).model_dump()),
    (
        Many,
        MANY,
        {
            "pair": [{"x": 1}, 2],
            "days": {"1": "2020-01-02"},
            "names": ["a", "b"],
            "raw": b"raw",
            "encoded": b"AP8=",
            "colour": "red",
            "id": "00000000-0000-0000-0000-000000000005",
            "point": {"x": 0.5, "seen": "2020-01-02"},
        },
    ),
]


def workflow_of(declared: Any) -> BaseInferenceWorkflow[Any, Any, Any]:
    class Echo(BaseInferenceWorkflow[Any, declared, declared]):
        pass

    return Echo()


@pytest.mark.parametrize(("declared", "value", "form"), SAID, ids=lambda value: getattr(value, "__name__", ""))
def test_an_answer_has_a_plain_form_and_comes_back(declared: Any, value: Any, form: Any) -> None:
    said = plain(value)
    assert said == form
    assert type(said) is type(form)
    json.dumps(said, allow_nan=False, default=lambda raw: raw.decode("latin-1"))
    workflow = workflow_of(declared)
    assert workflow.parse_output(said) == value
    assert workflow.parse_chunk(said) == value
    assert plain(said) == said


class Named(BaseModel):
    model_config = ConfigDict(extra="forbid")
    both: int = Field(alias="Both")


class Given(BaseModel):
    own: str = Field(serialization_alias="Given")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    x: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.x


@pydantic_dataclass
class Labelled:
    x: int = Field(alias="X")


@pytest.mark.parametrize(
    ("value", "form", "comes_back"),
    [
        (Named(Both=1), {"Both": 1}, True),
        (Labelled(X=1), {"X": 1}, True),
        ([{"deep": Given(own="a")}], [{"deep": {"Given": "a"}}], False),
        (Computed(x=1), {"x": 1, "twice": 2}, False),
    ],
)
def test_names_are_those_of_the_cards_schema(value: Any, form: Any, comes_back: bool) -> None:
    declared = list[dict[str, Given]] if isinstance(value, list) else type(value)
    workflow = workflow_of(declared)
    assert plain(value) == form
    Draft202012Validator(workflow.card("x").output_schema).validate(form)
    assert workflow.parse_output(form) == (value if comes_back else form)
    assert workflow.parse_chunk(form) == (value if comes_back else form)


def test_arrays_stay_what_they_are() -> None:
    array = np.arange(4.0)
    assert plain(array) is array
    result = TensorsResult(outputs={"y": array})
    assert plain({"deep": [(result,)]})["deep"][0][0]["outputs"]["y"] is array
    assert workflow_of(TensorsResult).parse_output(plain(result)).outputs["y"] is array
    assert plain(Embedding(embedding=array, tokens=1)) == {"embedding": array, "tokens": 1}
    assert plain(TextChunk(text="a")) == {"text": "a", "finish_reason": None, "usage": None}


def test_an_answer_is_not_shared_with_who_gets_its_plain_form() -> None:
    answer = {"a": [1]}
    plain(answer)["a"].append(2)
    assert answer == {"a": [1]}


class Foreign:
    def __repr__(self) -> str:
        return "CANARY"


class Refuses(BaseModel):
    x: str

    @field_serializer("x")
    def _say(self, x: str) -> str:
        raise ValueError(x)


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Foreign(), "a Foreign"),
        ([{"a": Foreign()}], "a Foreign"),
        ({Foreign(): 1}, "a dict"),
        (deque([Foreign()]), "a deque"),
        (Refuses(x="CANARY"), "a Refuses"),
        ({1: "CANARY", "1": "b"}, "two keys"),
        (np.longdouble(1), "a longdouble"),
        (ENDLESS, "nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_said_is_a_bad_output_that_does_not_show_it(value: Any, says: str) -> None:
    with pytest.raises(BadOutput, match=says) as caught:
        plain(value)
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_a_model_that_was_made_without_validation_is_not_shown_in_a_warning() -> None:
    odd = Part.model_construct(x="CANARY")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert plain(odd) == {"x": "CANARY"}
    assert caught == []
