"""Tensors between JSON and numpy, strictly: nothing is cast silently and sizes are checked before memory is taken.

dtype names are numpy's own (`float32`, `int64`, `bool`, ...) plus `bfloat16`, which is `ml_dtypes.bfloat16`, and
`string`, which is a numpy object array of `str`.
"""

from __future__ import annotations

from array import array as standard_array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from workflows.errors import BadOutput, InvalidInput

__all__ = [
    "BFLOAT16",
    "DTYPES",
    "MAX_ELEMENTS",
    "MAX_RANK",
    "Array",
    "bad_tensor",
    "checked_shape",
    "dtype_name",
    "element_kind",
    "tensor_from_json",
    "tensor_to_json",
    "widened",
]

Array = npt.NDArray[Any]

MAX_ELEMENTS: Final = 1 << 27
MAX_RANK: Final = 32
_INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64")
BFLOAT16: Final[np.dtype[Any]] = np.dtype(ml_dtypes.bfloat16)
_NOT_NUMPYS_OWN: Final = 256  # the first number of a dtype that another library has brought
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    **{name: np.dtype(name) for name in ("bool", *_INTS, *_FLOATS)},
    "bfloat16": BFLOAT16,
    "string": np.dtype(object),
}
# The standard library's arrays have no 16-bit floats, no booleans and no text.
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


def element_kind(dtype: np.dtype[Any]) -> str:
    """What elements are, in the letters of numpy's `dtype.kind`, where bfloat16 is a float (`f`) like any other.

    `V` is what neither is nor has numbers, booleans or text as such: records, and formats that only other libraries know,
    bfloat16 in another machine's byte order among them.
    """
    if dtype.num < _NOT_NUMPYS_OWN:
        return dtype.kind
    return "f" if dtype == BFLOAT16 else "V"


def widened(array: Array) -> Array:
    """The same numbers in a format that every function of numpy takes: bfloat16 as float32, all others as they are.

    Exact, NaNs too, about which the functions that ml_dtypes has of its own may warn.
    """
    return array.astype(np.float32) if array.dtype == BFLOAT16 else array


def dtype_name(array: Array) -> str:
    """The name that stands for this array's dtype in JSON and cards; `string` for text of any numpy form."""
    return _dtype_name(array.dtype)


@lru_cache(maxsize=256)
def _dtype_name(dtype: np.dtype[Any]) -> str:  # numpy makes the name anew each time, in Python
    kind = element_kind(dtype)
    return "string" if kind in "OUS" else dtype.str if kind == "V" else dtype.name


def tensor_from_json(name: str, dtype: object, shape: object, data: object) -> Array:
    """Build the array that a JSON tensor describes.

    Args:
        name: The tensor's name, for error messages and `param`.
        dtype: A key of `DTYPES`.
        shape: Non-negative integers, at most 32 of them.
        data: The elements in row-major order, as one flat list or nested as `shape` says.

    Raises:
        InvalidInput: Unknown dtype, a wrong count or nesting, or an element that the dtype cannot hold exactly as it
            is (1.9 or true in an integer tensor, "1.5" in a float one, 300 in uint8, 1e300 in float32, null anywhere). A
            float between two that the dtype has becomes the nearest of them.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad_tensor(name, f"unknown dtype; known are {', '.join(DTYPES)}")
    dims = checked_shape(name, shape)
    if not isinstance(data, list):
        raise bad_tensor(name, "data must be a list")
    flat = _flatten(name, dims, data)
    target = DTYPES[dtype]
    allowed = _ALLOWED[element_kind(target)]
    if not allowed.issuperset(map(type, flat)):
        raise bad_tensor(name, f"an element is not a {dtype}")
    return _fill(name, flat, target, dtype).reshape(dims)


def tensor_to_json(array: Array) -> dict[str, Any]:
    """The JSON form of an array; `data` stays a flat numpy array (for `orjson`) unless it holds text.

    Raises BadOutput for elements that are no numbers, booleans or text.
    """
    kind = element_kind(array.dtype)
    if kind in "biuf":
        data: object = widened(array.ravel())
    elif kind in "OUS":
        data = [_text(item) for item in array.ravel().tolist()]
    else:
        raise BadOutput("the model gave an array that is neither of numbers and booleans nor of text")
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
    if not isinstance(item, bytes):
        return str(item)
    try:
        return item.decode()
    except UnicodeDecodeError as cause:
        raise BadOutput("the model gave bytes that are no text, which only binary forms can say") from cause


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
        elif target == BFLOAT16:
            array = _nearest_bfloat16(np.frombuffer(standard_array("d", flat)))
        else:
            with np.errstate(over="ignore"):
                array = np.array(flat, dtype=target)
    except (OverflowError, ValueError, TypeError):
        array = None
    if array is None or (element_kind(target) == "f" and not np.logical_and.reduce(np.isfinite(array))):
        raise bad_tensor(
            name, f"an element is out of range for {dtype}"
        )  # without a cause: numpy's error shows the element
    return array


def _nearest_bfloat16(wide: npt.NDArray[np.float64]) -> Array:
    """Rounded once, as numpy rounds to its own formats: to nearest, half-way to even; what is too large is infinite.

    ml_dtypes goes by way of float32, where a number may be rounded to just between two of bfloat16, and then to the wrong
    one. So what that first step cuts off is kept in the last bit, which bfloat16 does not have.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are for the caller to find
        near = wide.astype(np.float32)
        cut = np.sign(np.abs(wide) - np.abs(near))
        bits = near.view(np.int32)
        bits += np.where((bits & 1 == 0) & np.isfinite(wide), cut, 0).astype(np.int32)
    return near.astype(BFLOAT16)
