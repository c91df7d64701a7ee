"""Random tensors of every datatype, and how Triton's clients are given them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tritonclient.utils import np_to_triton_dtype

from deployments.router.protocols.open_inference.datatypes import DATATYPES
from workflows.tensors import DTYPES

__all__ = ["ON_A_SERVER", "inputs_of", "named_tensors", "outputs_of", "same_bits", "tensors"]

Array = npt.NDArray[Any]
MAX_RANK = 5
ON_A_SERVER = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


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


def inputs_of(module: Any, arrays: Mapping[str, Array], **options: Any) -> list[Any]:
    """The arrays as one of tritonclient's modules has inputs."""
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **options)
        made.append(tensor)
    return made


def outputs_of(module: Any, names: Iterable[str], **options: Any) -> list[Any]:
    return [module.InferRequestedOutput(name, **options) for name in names]
