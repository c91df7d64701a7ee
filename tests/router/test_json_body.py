"""The JSON front door, against Python's own parser made strict, and numbers that come back bit by bit."""

import asyncio
import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from deployments.config import Limits
from deployments.router.json_body import ASIDE_BYTES, PART_BYTES, parse_json, parse_json_aside, render_json
from deployments.router.refusals import BadJson
from tests.bits import EVERY_BFLOAT16, arrays_of
from workflows.errors import BadOutput, InvalidInput
from workflows.tensors import BFLOAT16, Array, widened

LIMITS = Limits()


def whole(digits: str) -> int | float:
    """Beyond 64 bits a whole number is read as a float."""
    return int(digits) if -(1 << 63) <= int(digits) < 1 << 64 else float(digits)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\[{,'), inner), max_leaves=30
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def size_of(value: Any) -> int:
    """All values; an empty container counts as if it held one."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + (sum(map(size_of, inner)) or 1)
    return 1


@given(values, st.sampled_from([None, 1]))
def test_what_json_can_say_is_read_as_it_was_meant(value: Any, indent: int | None) -> None:
    assert parse_json(json.dumps(value, indent=indent).encode(), LIMITS) == value


@given(values, st.integers(1, 6), st.integers(1, 12))
def test_bounds_count_nesting_and_values_but_not_what_stands_in_strings(value: Any, depth: int, elements: int) -> None:
    limits = Limits(max_json_depth=depth, max_json_elements=elements)
    try:
        parse_json(json.dumps(value).encode(), limits)
    except BadJson:
        assert depth_of(value) > depth
    except InvalidInput:
        assert size_of(value) > elements
    else:
        assert depth_of(value) <= depth
        assert size_of(value) <= elements


@given(st.binary(max_size=40) | st.text(alphabet='[]{}",:\\u0dn1eE+-. NaIfity', max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_one_of_two_errors(body: bytes) -> None:
    try:
        found = parse_json(body, Limits(max_json_depth=3, max_json_elements=5))
    except (BadJson, InvalidInput):
        return
    assert json.loads(body.decode("utf-8"), parse_int=whole) == found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b"1 2",
        b"// no\n1",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e999",
        b"9" * 400,
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"[" * 100 + b"]" * 100,
        b"[" * 150_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'"' + b'\\"' * 100_000,
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadJson) as refused:
        parse_json(body, LIMITS)
    assert len(refused.value.message) < 100


def test_nesting_up_to_the_limit_is_accepted_and_one_more_is_not() -> None:
    assert depth_of(parse_json(b"[" * 64 + b"]" * 64, LIMITS)) == 64
    with pytest.raises(BadJson, match="64 levels"):
        parse_json(b"[" * 65 + b"]" * 65, LIMITS)


def test_text_full_of_brackets_and_commas_is_text() -> None:
    text = "[{," * 100_000 + '\\"'
    assert parse_json(json.dumps([text]).encode(), Limits(max_json_elements=10)) == [text]


def test_too_many_values_are_refused() -> None:
    with pytest.raises(InvalidInput, match="more than 1000 values"):
        parse_json(b"[" + b"1," * 1000 + b"1]", Limits(max_json_elements=1000))


@pytest.mark.parametrize("start", [b"[" * 70, b"[" * 60])
def test_a_bound_is_checked_in_little_memory(start: bytes) -> None:
    body = start + b'"",' * (4 << 20)
    tracemalloc.start()
    try:
        with pytest.raises((BadJson, InvalidInput)):
            parse_json(body, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before_the_seam", range(8))
@pytest.mark.parametrize("ending", ['\\"[{,', '\\\\"[{,', '"', "\\"])
def test_a_bound_is_exact_wherever_the_document_is_cut(before_the_seam: int, ending: str) -> None:
    value = ["a" * (PART_BYTES - before_the_seam) + ending, [ending]]
    body = json.dumps(value).encode()
    assert parse_json(body + b" " * ASIDE_BYTES, Limits(max_json_depth=2, max_json_elements=4)) == value
    with pytest.raises(BadJson):
        parse_json(body, Limits(max_json_depth=1))
    with pytest.raises(InvalidInput):
        parse_json(body + b" " * ASIDE_BYTES, Limits(max_json_elements=3))


async def test_a_large_document_is_parsed_beside_the_event_loop_and_a_small_one_at_once() -> None:
    for body, at_once in ((b"[1]", True), (b"[1]" + b" " * ASIDE_BYTES, False)):
        parsing = asyncio.ensure_future(parse_json_aside(body, LIMITS))
        await asyncio.sleep(0)
        assert parsing.done() is at_once
        assert await parsing == [1]


def test_of_two_equal_keys_the_last_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', LIMITS) == {"a": 2}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_float32_comes_back_bit_by_bit(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    again = np.array(json.loads(render_json(array)), np.float32)
    assert again.tobytes() == array.tobytes()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_float64_comes_back_bit_by_bit(numbers: list[float]) -> None:
    array = np.array(numbers, np.float64)
    assert np.array(json.loads(render_json(array)), np.float64).tobytes() == array.tobytes()


@given(st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False)))
def test_float16_comes_back_bit_by_bit(numbers: list[float]) -> None:
    array = np.array(numbers, np.float16)
    assert np.array(json.loads(render_json(array)), np.float16).tobytes() == array.tobytes()


@given(arrays_of(BFLOAT16, array_shapes(min_dims=0, max_dims=3, min_side=0), finite=True))
def test_bfloat16_comes_back_bit_by_bit(array: Array) -> None:
    for sent in (array, np.asfortranarray(array)):
        again = np.array(json.loads(render_json(sent)), np.float32).reshape(sent.shape)
        assert (widened(sent) == again).all()
        assert again.astype(BFLOAT16).tobytes() == sent.tobytes()


def test_bfloat16_is_written_like_float32() -> None:
    numbers = np.array([[0.1, -0.0], [1e-40, 3.3895314e38]], BFLOAT16)
    assert render_json({"y": numbers}) == b'{"y":[[0.100097656,-0.0],[9.1835e-41,3.3895314e+38]]}'


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap",
    [
        float,
        np.float32,
        np.float64,
        lambda x: np.array([1, x], np.float16),
        lambda x: np.array([1, x], BFLOAT16),
        lambda x: np.array(x, BFLOAT16),
        lambda x: [x],
    ],
)
def test_what_is_not_finite_is_an_error_and_not_null(bad: float, wrap: Any) -> None:
    with pytest.raises(BadOutput, match="finite"):
        render_json({"a": [None, {"b": wrap(bad)}]})


def test_a_nan_that_signals_is_an_error_and_no_warning() -> None:
    with pytest.raises(BadOutput, match="finite"):
        render_json(EVERY_BFLOAT16[0x7F80:0x7FA0])


@pytest.mark.parametrize("bad", [b"\xff", {1: 2}, 1 << 70, "\ud800", object(), np.array([1j])])
def test_what_json_cannot_say_is_an_error_of_the_model(bad: Any) -> None:
    with pytest.raises(BadOutput):
        render_json({"a": bad})


def test_bytes_are_text() -> None:
    assert render_json({"a": ["ä".encode()]}) == '{"a":["ä"]}'.encode()


def test_null_and_the_word_null_are_fine() -> None:
    assert render_json({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.arange(6, dtype=np.int64).reshape(2, 3).T, "[[0,3],[1,4],[2,5]]"),
        (np.array(1.5, np.float32), "1.5"),
        (np.array([["a", "b"]], object), '[["a","b"]]'),
        (np.array(["a"]), '["a"]'),
        (np.array([True, False]), "[true,false]"),
        (np.zeros((2, 0)), "[[],[]]"),
    ],
)
def test_unusual_arrays_are_nested_lists_too(array: Any, text: str) -> None:
    assert render_json(array).decode() == text
