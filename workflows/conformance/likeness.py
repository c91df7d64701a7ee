"""Whether answers are what they should be and stay what they were. For the conformance kit; knows plain forms only."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from workflows.conformance.claims import must
from workflows.errors import BadOutput
from workflows.plain import plain
from workflows.tensors import BFLOAT16, Array, element_kind, widened

__all__ = ["Expectations", "alike", "kept", "plain_form"]

_BFLOAT16_STEP: Final = 2.0**-7


@dataclass(slots=True)
class Expectations:
    """What is asked, and what was answered so far in one life.

    Attributes:
        known: Inputs whose answers differ, as far as that could be had; the example comes first.
        before: Their plain forms at the beginning, None for an input that has none.
        answers: The plain form of the first answer to each, by its place in `known`.
        given: What was handed out, and what it was then.
        notes: What could not be checked, or is only likely to be wrong.
    """

    known: list[Any]
    batch: int
    repeatable: bool
    rtol: float
    atol: float
    before: list[Any] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    given: list[tuple[Any, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = [plain_form(value) for value in self.known]

    @property
    def example(self) -> Any:
        return self.known[0]

    @property
    def places(self) -> list[int]:
        """Which of the known inputs make a batch; read backwards it is another."""
        places = [index % len(self.known) for index in range(self.batch)]
        return [*places[:-1], len(self.known) - 1] if self.batch > 1 else places

    def same(self, first: Any, second: Any) -> bool:
        """Whether two plain forms are the same answer."""
        return not self.repeatable or alike(first, second, self.rtol, self.atol)

    def take(self, value: Any) -> Any:
        """What was handed out just now, as its plain form; see `nothing_changed`."""
        form = kept(value)
        self.given.append((value, form))
        return form

    def answered(self, place: int, answer: Any, what: str) -> None:
        """Compare an answer, as soon as it is there, with the first one to the same input."""
        form = self.take(answer)
        first = self.answers.setdefault(place, form)
        must(
            self.same(first, form),
            f"{what}: the same input gave two different answers: state leaks from one request to the next, or say "
            "repeatable=False",
        )

    def nothing_changed(self, what: str) -> None:
        for value, before in zip(self.known, self.before, strict=True):
            must(
                before is None or alike(before, kept(value)),
                f"{what} changed an input, which is the caller's: copy an array before you write to it",
            )
        for value, form in self.given:
            must(
                alike(form, kept(value)),
                f"{what} changed an answer that was given before: return a copy of a buffer that is used again",
            )


def kept(value: Any) -> Any:
    """The plain form as it is now: nothing that is done to `value` later changes it."""
    return deepcopy(plain(value))


def alike(first: Any, second: Any, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two plain forms are the same, but for floats that differ by the tolerances."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return _alike_arrays(np.asarray(first), np.asarray(second), rtol, atol)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key], rtol, atol) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(alike, first, second, [rtol] * len(first), [atol] * len(first)))
    return (
        math.isclose(first, second, rel_tol=rtol, abs_tol=atol) if isinstance(first, float) else bool(first == second)
    )


def _alike_arrays(first: Array, second: Array, rtol: float, atol: float) -> bool:
    kind = element_kind(first.dtype)
    if first.shape != second.shape or kind != element_kind(second.dtype):
        return False
    if kind == "f":
        if rtol and BFLOAT16 in (first.dtype, second.dtype):  # the next number may be further away than that
            rtol = max(rtol, _BFLOAT16_STEP)
        return bool(np.allclose(widened(first), widened(second), rtol=rtol, atol=atol, equal_nan=True))
    return bool((first == second).all())


def plain_form(value: Any) -> Any:
    """None where there is none: an input may be of any type that its validator takes."""
    try:
        return kept(value)
    except BadOutput:
        return None
