"""JSON tensors: what is there comes through exactly, what does not fit is refused before memory is taken."""

from __future__ import annotations

import json
import tracemalloc
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.bits import arrays_of
from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, MAX_ELEMENTS, Array, dtype_name, tensor_from_json, tensor_to_json

on_busy_machines = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    name = draw(st.sampled_from(list(DTYPES)))
    shape = draw(SHAPES)
    if name == "string":
        texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=prod(shape), max_size=prod(shape))
        array = np.empty(prod(shape), dtype=object)
        array[:] = draw(texts)
        return array.reshape(shape)
    return draw(arrays_of(DTYPES[name], shape, finite=True))


@on_busy_machines
@given(tensors())
def test_every_tensor_survives_json_flat_and_nested(array: Array) -> None:
    form = tensor_to_json(array)
    flat = json.loads(json.dumps(array.ravel().tolist()))
    for data in (flat, json.loads(json.dumps(array.tolist()))) if array.ndim else (flat,):
        back = tensor_from_json("x", form["dtype"], form["shape"], data)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes() if array.dtype.kind != "O" else back.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("int64", 1.9),
        ("int64", 1.0),
        ("int64", True),
        ("int64", "1"),
        ("int64", 1 << 63),
        ("uint8", 300),
        ("uint8", -1),
        ("int8", 128),
        ("float32", "1.5"),
        ("float32", True),
        ("float32", 1e300),
        ("float32", 10**400),
        ("float16", 70000),
        ("bfloat16", "1.5"),
        ("bfloat16", True),
        ("bfloat16", None),
        ("bfloat16", 1e39),
        ("bfloat16", -3.4e38),
        ("bfloat16", 10**400),
        ("bfloat16", float("nan")),
        ("bfloat16", float("inf")),
        ("bfloat16", [1.0]),
        ("float32", float("nan")),
        ("float32", float("inf")),
        ("float64", None),
        ("int32", None),
        ("bool", "False"),
        ("bool", 0),
        ("bool", None),
        ("string", 1),
        ("string", None),
        ("string", b"x"),
        ("float32", {}),
        ("float32", []),
        ("float32", [1.0]),
    ],
)
def test_an_element_that_the_dtype_cannot_hold_is_refused(dtype: str, data: object) -> None:
    good: Any = {"b": True, "O": "x"}.get(DTYPES[dtype].kind, 1)
    assert tensor_from_json("x", dtype, [2], [good, good]).shape == (2,)
    for elements in ([data, good], [good, data]):
        with pytest.raises(InvalidInput) as caught:
            tensor_from_json("x", dtype, [2], elements)
        assert caught.value.param == "x"
        assert caught.value.message.startswith("tensor 'x': ")


@pytest.mark.parametrize("dtype", ["FP32", "fp32", "", "object", "float128", "complex64", None, 5, ["float32"]])
def test_an_unknown_dtype_is_refused(dtype: object) -> None:
    with pytest.raises(InvalidInput, match="unknown dtype"):
        tensor_from_json("x", dtype, [1], [1])


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [[1, 2], [3]]),
        ([2, 2], [[1, 2], 3, 4]),
        ([2, 2], [1, 2, 3]),
        ([2, 2], [[1, 2, 3], [4]]),
        ([2, 2], [[[1, 2]], [[3, 4]]]),
        ([2, 2], [[1, 2], [3, 4], [5, 6]]),
        ([4], [[1, 2], [3, 4]]),
        ([4], [1, 2, 3]),
        ([1, 4], [[1, 2], [3, 4]]),
        ([2, 2, 1], [[1, 2], [3, 4]]),
        ([], [1, 2]),
        ([], []),
        ([], [[1]]),
        ([0], [1]),
        ([0, 2], [1]),
        ([1], []),
        ([2], {"0": 1, "1": 2}),
        ([2], "12"),
        ([2], None),
    ],
)
def test_data_that_is_not_what_the_shape_says_is_refused(shape: list[int], data: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        tensor_from_json("x", "int64", shape, data)
    assert caught.value.param == "x"


HUGE = [
    [10**12],
    [MAX_ELEMENTS + 1],
    [1 << 20, 1 << 20],
    [0, 10**30],
    [10**30, 0],
    [0, *[MAX_ELEMENTS] * 5],
]


@pytest.mark.parametrize("shape", [[-1], [2, -2], [True], [1.0], ["1"], [None], [[1]], "1", None, 1, [1] * 33, *HUGE])
@pytest.mark.parametrize("data", [[], [1]])
def test_an_impossible_shape_is_refused_without_taking_memory(shape: object, data: list[int]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            tensor_from_json("x", "float64", shape, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@on_busy_machines
@given(dtype=st.sampled_from(list(DTYPES)) | _JSON, shape=st.lists(st.integers(-1, 4), max_size=4) | _JSON, data=_JSON)
def test_whatever_is_sent_is_a_tensor_or_an_invalid_input(dtype: object, shape: object, data: object) -> None:
    try:
        array = tensor_from_json("x", dtype, shape, data)
    except InvalidInput:
        return
    assert dtype_name(array) == dtype
    assert list(array.shape) == shape


def test_a_long_name_is_cut_in_messages() -> None:
    with pytest.raises(InvalidInput) as caught:
        tensor_from_json("n" * 1000, "float32", [1], [])
    assert caught.value.param == "n" * 64
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("array", [np.array(["ä", "b"]), np.array(["ä".encode(), b"b"]), np.array(["ä", "b"], object)])
def test_text_of_every_numpy_form_has_one_json_form(array: Array) -> None:
    assert tensor_to_json(array) == {"dtype": "string", "shape": [2], "data": ["ä", "b"]}
