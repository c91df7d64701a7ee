"""Tensors between JSON and numpy, strictly: nothing is cast silently and sizes are checked before memory is taken.

dtype names are numpy's own (`float32`, `int64`, `bool`, ...) plus `string`, which is a numpy object array of `str`.
"""

from __future__ import annotations

from array import array as standard_array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from workflows.errors import InvalidInput

__all__ = [
    "DTYPES",
    "MAX_ELEMENTS",
    "MAX_RANK",
    "Array",
    "bad_tensor",
    "checked_shape",
    "dtype_name",
    "tensor_from_json",
    "tensor_to_json",
]

Array = npt.NDArray[Any]

MAX_ELEMENTS: Final = 1 << 27
MAX_RANK: Final = 32
_INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    **{name: np.dtype(name) for name in ("bool", *_INTS, *_FLOATS)},
    "string": np.dtype(object),
}
# The standard library's arrays have no half precision, no booleans and no text.
_CODES: Final[Mapping[str, str]] = {
    name: code
    for name, code in zip((*_INTS, "float32", "float64"), "bhiqBHIQfd", strict=True)
    if np.dtype(code) == np.dtype(name)
}
# What JSON types may stand in a tensor of which kind. bool is a subclass of int in Python: types are compared exactly.
_ALLOWED: Final[Mapping[str, frozenset[type]]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "O": frozenset({str}),
}


def dtype_name(array: Array) -> str:
    """The name that stands for this array's dtype in JSON and cards; `string` for text of any numpy form."""
    return _dtype_name(array.dtype)


@lru_cache(maxsize=256)
def _dtype_name(dtype: np.dtype[Any]) -> str:  # numpy makes the name anew each time, in Python
    return "string" if dtype.kind in "OUS" else dtype.name


def tensor_from_json(name: str, dtype: object, shape: object, data: object) -> Array:
    """Build the array that a JSON tensor describes.

    Args:
        name: The tensor's name, for error messages and `param`.
        dtype: A key of `DTYPES`.
        shape: Non-negative integers, at most 32 of them.
        data: The elements in row-major order, as one flat list or nested as `shape` says.

    Raises:
        InvalidInput: Unknown dtype, a wrong count or nesting, or an element that the dtype cannot hold exactly as it
            is (1.9 or true in an integer tensor, "1.5" in a float one, 300 in uint8, 1e300 in float32, null anywhere).
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad_tensor(name, f"unknown dtype; known are {', '.join(DTYPES)}")
    dims = checked_shape(name, shape)
    if not isinstance(data, list):
        raise bad_tensor(name, "data must be a list")
    flat = _flatten(name, dims, data)
    target = DTYPES[dtype]
    allowed = _ALLOWED[target.kind]
    if not allowed.issuperset(map(type, flat)):
        raise bad_tensor(name, f"an element is not a {dtype}")
    return _fill(name, flat, target, dtype).reshape(dims)


def tensor_to_json(array: Array) -> dict[str, Any]:
    """The JSON form of an array; `data` stays a flat numpy array (for `orjson`) unless it holds text."""
    data: object = array.ravel() if array.dtype.kind in "biuf" else [_text(item) for item in array.ravel().tolist()]
    return {"dtype": dtype_name(array), "shape": list(array.shape), "data": data}


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape that came for a tensor of this name; raises InvalidInput if an array cannot have it, or must not here."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK:
        raise bad_tensor(name, f"shape must be a list of at most {MAX_RANK} integers")
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise bad_tensor(name, "shape must hold non-negative integers")
    if prod(dim or 1 for dim in shape) > MAX_ELEMENTS:  # numpy also refuses what a dimension of 0 would make empty
        raise bad_tensor(name, f"more than {MAX_ELEMENTS} elements")
    return tuple(shape)


def _text(item: object) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def bad_tensor(name: str, what: str) -> InvalidInput:
    """What is wrong with the tensor of this name, as an error to be raised."""
    return InvalidInput(f"tensor {name[:64]!r}: {what}", param=name[:64])


def _flatten(name: str, dims: tuple[int, ...], data: list[Any]) -> Sequence[Any]:
    """One list of all elements. Flat data and data nested exactly as `dims` are both accepted, nothing in between."""
    count = prod(dims)
    if not (data and type(data[0]) is list) and (len(dims) < 2 or len(data) == count):
        if len(data) != count:
            raise bad_tensor(name, f"expected {count} elements, got {len(data)}")
        return data
    level: list[Any] = data
    if not dims or len(level) != dims[0]:
        raise bad_tensor(name, "data is nested differently from its shape")
    for dim in dims[1:]:
        if any(type(part) is not list or len(part) != dim for part in level):
            raise bad_tensor(name, "data is nested differently from its shape")
        level = list(chain.from_iterable(level))
    return level


def _fill(name: str, flat: Sequence[Any], target: np.dtype[Any], dtype: str) -> Array:
    code = _CODES.get(dtype)
    try:
        if code is not None:  # several times as fast as numpy, and as strict about what is out of range
            array: Array | None = np.frombuffer(standard_array(code, flat), target)
        else:
            with np.errstate(over="ignore"):
                array = np.array(flat, dtype=target)
    except (OverflowError, ValueError, TypeError):
        array = None
    if array is None or (target.kind == "f" and not np.logical_and.reduce(np.isfinite(array))):
        raise bad_tensor(
            name, f"an element is out of range for {dtype}"
        )  # without a cause: numpy's error shows the element
    return array
