"""Requests joined along their leading axis come apart again exactly as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows.inference.merging import bucket_of, merge, rows_of
from workflows.tensors import DTYPES, Array

on_busy_machines = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def numbered(rows: int, start: int = 0, dtype: str = "float32", trailing: tuple[int, ...] = (2,)) -> Array:
    count = rows * int(np.prod(trailing))
    values = np.arange(start, start + count).reshape(rows, *trailing)
    return values.astype(str).astype(object) if dtype == "string" else values.astype(DTYPES[dtype])


@on_busy_machines
@given(
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    dtype=st.sampled_from(list(DTYPES)),
    trailing=st.lists(st.integers(0, 3), max_size=3).map(tuple),
)
def test_split_gives_every_request_its_own_rows(rows: list[int], dtype: str, trailing: tuple[int, ...]) -> None:
    requests = [{"a": numbered(n, 100 * i, dtype, trailing), "b": numbered(n, i)} for i, n in enumerate(rows)]
    merged = merge(requests)
    assert merged is not None
    assert merged.rows == tuple(rows)
    assert merged.inputs["a"].dtype == DTYPES[dtype]
    parts = merged.split(merged.inputs)
    assert parts is not None
    for request, part in zip(requests, parts, strict=True):
        assert part.keys() == request.keys()
        for name in request:
            assert part[name].dtype == request[name].dtype
            np.testing.assert_array_equal(part[name], request[name], strict=True)


@pytest.mark.parametrize(
    "output", [np.float32(3.0).reshape(()), np.zeros((4, 2)), np.zeros((0, 2))], ids=["scalar", "other length", "empty"]
)
def test_an_output_without_a_row_for_every_row_cannot_be_split(output: Array) -> None:
    merged = merge([{"x": numbered(2)}, {"x": numbered(3)}])
    assert merged is not None
    assert merged.split({"good": numbered(5), "bad": output}) is None


def test_a_shared_output_goes_to_every_request_whole() -> None:
    merged = merge([{"x": numbered(1)}, {"x": numbered(2)}])
    assert merged is not None
    labels = np.array([7, 8, 9])
    parts = merged.split({"y": numbered(3), "labels": labels}, shared={"labels"})
    assert parts is not None
    assert [part["labels"].tolist() for part in parts] == [[7, 8, 9], [7, 8, 9]]
    assert [part["y"].shape[0] for part in parts] == [1, 2]


@pytest.mark.parametrize(
    "second",
    [
        {"x": numbered(2, dtype="float64")},
        {"x": numbered(2, trailing=(3,))},
        {"x": numbered(2, trailing=())},
        {"y": numbered(2)},
        {"x": numbered(2), "y": numbered(2)},
        {"x": numbered(0)},
        {"x": np.float32(1.0).reshape(())},
    ],
    ids=["dtype", "trailing shape", "rank", "name", "names", "no rows", "no axis"],
)
def test_what_could_not_be_undone_is_not_merged(second: dict[str, Array]) -> None:
    assert merge([{"x": numbered(2)}, second]) is None
    assert merge([second, {"x": numbered(2)}]) is None


def test_arrays_of_one_request_that_disagree_on_rows_are_not_merged() -> None:
    uneven = {"x": numbered(2), "y": numbered(3)}
    assert rows_of(uneven) is None
    assert merge([uneven, uneven]) is None


def test_no_requests_are_not_merged() -> None:
    assert merge([]) is None


def test_one_request_is_passed_through_uncopied() -> None:
    array = numbered(3)
    merged = merge([{"x": array}])
    assert merged is not None
    assert merged.inputs["x"] is array


def test_text_of_different_widths_is_not_mixed() -> None:
    short, long = np.array(["a", "b"]), np.array(["longer"])
    assert merge([{"x": short}, {"x": long}]) is None
    assert bucket_of({"x": short}) != bucket_of({"x": long})


@on_busy_machines
@given(st.data())
def test_equal_buckets_are_exactly_the_mergeable_requests(data: st.DataObject) -> None:
    arrays = st.builds(
        numbered,
        st.integers(1, 3),
        dtype=st.sampled_from(["float32", "int32"]),
        trailing=st.sampled_from([(), (1,), (2,), (2, 1)]),
    )
    requests = [{"x": data.draw(arrays)}, {"x": data.draw(arrays)}]
    assert (bucket_of(requests[0]) == bucket_of(requests[1])) == (merge(requests) is not None)


def test_a_bucket_does_not_depend_on_the_order_of_names_or_on_rows() -> None:
    assert bucket_of({"a": numbered(1), "b": numbered(1)}) == bucket_of({"b": numbered(4), "a": numbered(4)})
