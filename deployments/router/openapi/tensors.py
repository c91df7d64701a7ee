"""Tensors as JSON Schema says them: elements, shapes, and data that is flat or nested as the shape says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from deployments.router.openapi.parts import Json
from workflows.tensors import DTYPES, MAX_RANK, element_kind

__all__ = ["data_schema", "dtype_schema", "element_schema", "names_schema", "shape_schema"]

# Half-way from the largest number to what would follow it: from there on, a number becomes infinite.
_TOO_LARGE: Final = {
    "float16": (2 - 2**-11) * 2.0**15,
    "bfloat16": (2 - 2**-8) * 2.0**127,
    "float32": (2 - 2**-24) * 2.0**127,
}
_SIZE: Final[Json] = {"type": "integer", "minimum": 0}


_SPECIAL: Final = re.compile(r"[\\^$.*+?()\[\]{}|/]")
_PARTS: Final = ".*"
"""The end of an output's name in a signature, of which there are many: `name.0`, `name.1`, ..."""


def names_schema(name: str) -> Json:
    """The names that a signature's output is answered under."""
    if name.endswith(_PARTS):
        stem = _SPECIAL.sub(r"\\\g<0>", name.removesuffix(_PARTS))
        return {"type": "string", "pattern": f"^{stem}\\.(0|[1-9][0-9]*|\\*)$"}
    return {"const": name}


def dtype_schema(dtype: str) -> Json:
    """Of a dtype that nobody declared, any."""
    return {"const": dtype} if dtype in DTYPES else {"enum": list(DTYPES)}


def element_schema(dtype: str) -> Json:
    """One element of this dtype as JSON takes it; of an unknown dtype, any value."""
    known = DTYPES.get(dtype)
    match None if known is None else element_kind(known):
        case "b":
            return {"type": "boolean"}
        case "i" | "u":
            whole = np.iinfo(known)
            return {"type": "integer", "minimum": int(whole.min), "maximum": int(whole.max)}
        case "f" if dtype == "float64":
            return {"type": "number"}
        case "f":
            return {"type": "number", "exclusiveMinimum": -_TOO_LARGE[dtype], "exclusiveMaximum": _TOO_LARGE[dtype]}
        case "O":
            return {"type": "string"}
    return {}


def shape_schema(shape: Sequence[int], *, answered: bool = False) -> Json:
    """A tensor's `shape`. Where a signature has none at all, the rank may be any: a scalar's looks the same.

    Args:
        answered: Of a tensor that the model gives: then without `prefixItems`, with which some tools cannot check answers.
    """
    if not shape:
        return {"type": "array", "items": _SIZE, "maxItems": MAX_RANK}
    if all(size >= 0 for size in shape):
        return {"const": list(shape)}
    found: Json = {"type": "array", "minItems": len(shape), "maxItems": len(shape)}
    if answered:
        return {**found, "items": _SIZE, "description": f"{list(shape)}, where -1 is any size"}
    return {**found, "prefixItems": [_SIZE if size < 0 else {"const": size} for size in shape]}


def data_schema(dtype: str, shape: Sequence[int], *, nested: bool = True) -> Json:
    """The elements in row-major order, as one list or, unless told otherwise, nested."""
    element = element_schema(dtype)
    count = prod(shape) if shape and min(shape) >= 0 else None
    flat = _list(element, count)
    if not nested or len(shape) == 1:
        return flat
    if not shape:
        return _list({"anyOf": [element, {"type": "array"}]} if element else {}, None)
    inner: Any = element
    for size in reversed(shape):
        inner = _list(inner, size if size >= 0 else None)
    return {"anyOf": [flat, inner]}


def _list(items: Json, count: int | None) -> Json:
    found: Json = {"type": "array", "items": items}
    return found if count is None else {**found, "minItems": count, "maxItems": count}
