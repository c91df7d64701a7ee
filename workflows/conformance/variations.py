"""Other inputs like a given one, for the conformance kit where it was given but one. Knows plain forms, no type and no model.

Each differs in one place. Those of the same size come first, made of the same parts: whoever takes the one probably takes
the other, and both may run in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from workflows.conformance.likeness import alike
from workflows.tensors import Array, element_kind, widened

__all__ = ["variations"]


def variations(value: Any) -> Iterator[Any]:
    """Never the value itself. Whether an input type takes what comes is for the caller to find out."""
    return (other for other in _others(value) if not alike(other, value))


def _others(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from ({**value, key: other} for other in variations(part))
    elif isinstance(value, list):
        yield value[::-1]
        for place, part in enumerate(value[:3]):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in variations(part))
        yield value[:-1]
    elif isinstance(value, str):
        yield " ".join(value.split()[::-1])
        yield value[::-1]
        yield value + (value or "a")
    elif isinstance(value, bytes):
        yield value[::-1]
        yield value + (value or b"a")
    elif isinstance(value, np.ndarray):
        yield from _arrays(value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value - 1 if value > 0 else value + 1
        yield value + 1
        yield 2 * value
    elif isinstance(value, float):
        yield value / 2
        yield value + 1.0
        yield -value


def _arrays(array: Array) -> Iterator[Array]:
    """Whole numbers may be places in a table, such as tokens: none is larger than those that are there, but for a 1."""
    flat, numbers, kind = array.ravel(), widened(array), element_kind(array.dtype)
    if array.size and not (numbers == numbers.flat[0]).all():
        yield np.ascontiguousarray(flat[::-1]).reshape(array.shape)
        yield np.roll(flat, 1).reshape(array.shape)
    if kind in "biuf":
        yield np.where(numbers == 0, 1, 0).astype(array.dtype)
    if kind == "f":
        yield (numbers / 2).astype(array.dtype)
