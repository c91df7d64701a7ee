"""Random tensors of every datatype, as Triton's clients take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from deployments.router.protocols.open_inference.datatypes import DATATYPES
from workflows.tensors import DTYPES

__all__ = ["named_tensors", "same_bits", "tensors"]

Array = npt.NDArray[Any]
MAX_RANK = 5


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 4), max_size=MAX_RANK).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[str, ...] = tuple(DATATYPES), *, finite: bool = False) -> Array:
    """Any bits, or `finite` numbers only."""
    dtype = DTYPES[DATATYPES[draw(st.sampled_from(datatypes))]]
    shape = draw(shapes())
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.kind == "O":
        text = st.text(max_size=8).map(str.encode)
        elements = text if finite else text | st.binary(max_size=8)
        array = np.empty(count, object)
        array[:] = draw(st.lists(elements, min_size=count, max_size=count))
        return array.reshape(shape)
    if dtype.kind == "b":
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype).reshape(shape)
    size = count * dtype.itemsize
    array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    if finite and dtype.kind not in "iu":
        return np.where(np.isfinite(array), array, dtype.type(0.5))
    return array


def named_tensors(datatypes: tuple[str, ...] = tuple(DATATYPES), *, finite: bool = False) -> st.SearchStrategy[Any]:
    names = st.text(min_size=1, max_size=12)
    return st.dictionaries(names, tensors(datatypes, finite=finite), min_size=1, max_size=3)


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays are the same in type, shape and every bit; texts may be `str` or UTF-8."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "OS":
        return [_bytes(item) for item in one.ravel().tolist()] == [_bytes(item) for item in other.ravel().tolist()]
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()
