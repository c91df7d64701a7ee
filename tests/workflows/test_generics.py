"""The concrete types that a workflow class gave to its base, however far away that is."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel

from workflows import BaseInferenceWorkflow
from workflows.errors import InvalidInput
from workflows.generics import type_arguments

A = TypeVar("A")
B = TypeVar("B")


class Direct(BaseInferenceWorkflow[int, str]): ...


class Swapped(BaseInferenceWorkflow[B, A, bytes]): ...


class Half(Swapped[A, int]): ...


class Whole(Half[str]): ...


class Further(Whole): ...


class Plain(BaseInferenceWorkflow): ...  # type: ignore[type-arg, unused-ignore]


class Listed(BaseInferenceWorkflow[list[A], A | None, dict[str, list[A]]]): ...


class OfInts(Listed[int]): ...


class Box(BaseModel, Generic[A]):
    inside: A


class Boxed(BaseInferenceWorkflow[Box[A], A], Generic[A]):
    def do_run_model(self, preprocessed_data: Box[A]) -> A:
        return preprocessed_data.inside


class BoxedInts(Boxed[int]): ...


class Mixed(dict[str, list[int]], BaseInferenceWorkflow[list[int], dict[str, Any]]): ...


def test_type_arguments_are_followed_through_generic_bases() -> None:
    assert type_arguments(Direct, BaseInferenceWorkflow) == (int, str, Any)
    assert type_arguments(Further, BaseInferenceWorkflow) == type_arguments(Whole, BaseInferenceWorkflow)
    assert type_arguments(Mixed, BaseInferenceWorkflow) == (list[int], dict[str, Any], Any)


def test_what_was_said_reaches_into_other_types() -> None:
    assert type_arguments(OfInts, BaseInferenceWorkflow) == (list[int], int | None, dict[str, list[int]])
    assert type_arguments(BoxedInts, BaseInferenceWorkflow) == (Box[int], int, Any)
    workflow = BoxedInts().setup()
    assert workflow.inference({"inside": 5}) == 5
    with pytest.raises(InvalidInput, match="inside"):
        workflow.inference({"inside": "x"})
    assert Boxed().setup().inference({"inside": "x"}) == "x"


def test_what_nobody_said_is_any() -> None:
    assert type_arguments(Plain, BaseInferenceWorkflow) == (Any, Any, Any)
    assert type_arguments(BaseInferenceWorkflow, BaseInferenceWorkflow) == (Any, Any, Any)


def test_arguments_keep_their_places_when_a_subclass_takes_them_in_another_order() -> None:
    # Swapped's parameters come in order of appearance: (B, A), so Swapped[A, int] says A for its input, int for its output.
    assert type_arguments(Half, BaseInferenceWorkflow) == (Any, int, bytes)
    assert type_arguments(Whole, BaseInferenceWorkflow) == (str, int, bytes)
