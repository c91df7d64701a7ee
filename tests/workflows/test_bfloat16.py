"""bfloat16 beside numpy's own formats: a number like any other wherever arrays are looked at, and the same bits behind it."""

from __future__ import annotations

import json
import pickle
from bisect import bisect_left
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.bits import EVERY_BFLOAT16, arrays_of
from workflows import BaseInferenceWorkflow, Embedding, Tensors, TensorsResult
from workflows.conformance.likeness import alike
from workflows.conformance.variations import variations
from workflows.errors import BadOutput, InvalidInput
from workflows.inference.graph_signature import Input
from workflows.inference.merging import bucket_of, merge
from workflows.inference.row_probe import Fill, mixed_outputs, sample
from workflows.plain import plain, plain_chunk
from workflows.tensors import (
    BFLOAT16,
    DTYPES,
    Array,
    dtype_name,
    element_kind,
    tensor_from_json,
    tensor_to_json,
    widened,
)
from workflows.testing import check_workflow
from workflows.types import Tensor

FOREIGN = [
    np.zeros(2, ml_dtypes.float8_e5m2),
    np.zeros(2, ml_dtypes.float8_e4m3fn),
    np.zeros(2, ml_dtypes.int4),
    np.zeros(2, "V2"),
    np.zeros(2, [("x", ml_dtypes.bfloat16)]),
    np.zeros(2, BFLOAT16).astype(BFLOAT16.newbyteorder(">")),
]


def bits(array: Array) -> bytes:
    assert array.dtype == BFLOAT16
    return array.tobytes()


def b16(*values: float) -> Array:
    return np.array(values, BFLOAT16)


# ---- what it is ----------------------------------------------------------------------------------------------------------


def test_it_has_a_name_and_is_a_float() -> None:
    assert DTYPES["bfloat16"] == BFLOAT16 == np.dtype(ml_dtypes.bfloat16)
    assert dtype_name(EVERY_BFLOAT16) == "bfloat16"
    assert element_kind(BFLOAT16) == "f"


@pytest.mark.parametrize("array", FOREIGN, ids=lambda array: str(array.dtype))
def test_other_formats_stay_refused(array: Array) -> None:
    assert element_kind(array.dtype) == "V"
    assert dtype_name(array) not in DTYPES
    with pytest.raises(ValidationError):
        Tensors(inputs={"x": array})
    with pytest.raises(ValidationError):
        Embedding(embedding=array, tokens=1)
    with pytest.raises(BadOutput):
        tensor_to_json(array)


def test_numpys_own_formats_keep_their_kind() -> None:
    for dtype in map(np.dtype, ("?", "b", "Q", "e", "d", "g", "F", "O", "U3", "S3", "M8[D]", ">f4")):
        assert element_kind(dtype) == dtype.kind


def test_widened_is_exact_in_every_bit_and_leaves_others_alone() -> None:
    wide = widened(EVERY_BFLOAT16)
    assert wide.dtype == np.float32
    assert (wide.view(np.uint32) == np.arange(1 << 16, dtype=np.uint32) << 16).all()
    assert widened(b16(1.5).reshape(())).tolist() == 1.5
    assert widened(EVERY_BFLOAT16.reshape(256, 256).T).shape == (256, 256)
    other = np.ones(2, np.float16)
    assert widened(other) is other


# ---- JSON ----------------------------------------------------------------------------------------------------------------


def test_every_finite_number_survives_json_bit_by_bit() -> None:
    array = EVERY_BFLOAT16[np.isfinite(widened(EVERY_BFLOAT16))]
    form = tensor_to_json(array)
    assert (form["dtype"], form["shape"], form["data"].dtype) == ("bfloat16", [65280], np.float32)
    for data in (form["data"].tolist(), [float(str(number)) for number in form["data"]]):
        assert bits(tensor_from_json("x", "bfloat16", [65280], data)) == bits(array)
    body = TypeAdapter(TensorsResult).dump_json(TensorsResult(outputs={"y": array}))
    assert bits(TensorsResult.model_validate_json(body).outputs["y"]) == bits(array)


MAGNITUDES = [Fraction(number) for number in widened(EVERY_BFLOAT16[:0x7F80]).tolist()]
"""All that are finite, the smallest first: their places are their bits."""
LARGEST = MAGNITUDES[-1]
TOO_LARGE = 2 * LARGEST - (LARGEST + MAGNITUDES[-2]) / 2  # half a step further


def nearest(number: float) -> Fraction:
    """The number that bfloat16 has next to this one, the even one of two that are as near, in exact arithmetic."""
    exact = abs(Fraction(number))
    above = bisect_left(MAGNITUDES, exact)
    candidates = range(max(above - 1, 0), min(above + 1, len(MAGNITUDES)))
    best = min(candidates, key=lambda place: (abs(MAGNITUDES[place] - exact), place % 2))
    return MAGNITUDES[best] if number >= 0 else -MAGNITUDES[best]


near_halfway = st.builds(
    lambda place, off, sign: sign * (1 + off) * float((MAGNITUDES[place] + MAGNITUDES[place + 1]) / 2),
    st.integers(0, len(MAGNITUDES) - 2),
    st.sampled_from([0.0, 2.0**-52, -(2.0**-52), 2.0**-30]) | st.floats(-(2.0**-22), 2.0**-22),
    st.sampled_from([1, -1]),
)


@given(st.floats(-float(LARGEST), float(LARGEST)) | near_halfway | st.integers(-(1 << 53), 1 << 53))
@example(1 + 2.0**-8 + 1e-12)  # twice rounded, by way of float32, this would become 1
@example(2.0**-134 * (1 + 2.0**-40))  # among the subnormals too
def test_a_number_between_two_becomes_the_nearest(number: float) -> None:
    got = tensor_from_json("x", "bfloat16", [1], [number])
    assert Fraction(got.item()) == nearest(number)
    assert np.signbit(widened(got))[0] == np.signbit(number)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_would_be_rounded_to_infinity_is_refused(sign: int) -> None:
    just_fits = float(np.nextafter(float(TOO_LARGE), 0))
    assert Fraction(tensor_from_json("x", "bfloat16", [1], [sign * just_fits]).item()) == sign * LARGEST
    for number in (float(TOO_LARGE), 3.4028234663852886e38, 1e39):
        with pytest.raises(InvalidInput, match="out of range for bfloat16"):
            tensor_from_json("x", "bfloat16", [2], [1.0, sign * number])


# ---- exchange types and plain data -----------------------------------------------------------------------------------------


class Own(BaseModel):
    rows: list[Tensor]


def test_arrays_pass_through_types_and_plain_forms_uncopied() -> None:
    array = EVERY_BFLOAT16
    assert Tensors(inputs={"x": array}).inputs["x"] is array
    assert plain(Own(rows=[array]))["rows"][0] is array
    owned = plain_chunk({"x": array})["x"]
    assert owned is not array
    assert bits(owned) == bits(array)
    assert bits(pickle.loads(pickle.dumps(array))) == bits(array)


def test_a_vector_may_be_one() -> None:
    vector = b16(1.5, -0.0)
    found = Embedding(embedding=vector, tokens=1)
    assert found.embedding is vector
    assert json.loads(found.model_dump_json())["embedding"] == [1.5, -0.0]


def test_a_scalar_becomes_a_number() -> None:
    form = plain({"a": [b16(1.5)[0]], "b": b16(2)[0]})
    assert (form, type(form["b"])) == ({"a": [1.5], "b": 2.0}, float)


# ---- joined requests -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_joined_and_cut_apart_again_bit_by_bit(counts: list[int], data: st.DataObject) -> None:
    requests = [{"x": data.draw(arrays_of(BFLOAT16, (count, 3)))} for count in counts]
    merged = merge(requests)
    assert merged is not None
    parts = merged.split(merged.inputs)
    assert parts is not None
    assert [bits(part["x"]) for part in parts] == [bits(request["x"]) for request in requests]


def test_it_is_joined_with_no_other_format() -> None:
    ours = b16(1, 2)
    assert bucket_of({"x": ours}) == bucket_of({"x": b16(3)})
    for other in (ours.view("V2"), ours.view(np.uint16), ours.view(np.float16), widened(ours)):
        assert bucket_of({"x": other}) != bucket_of({"x": ours})
        assert merge([{"x": ours}, {"x": other}]) is None


def probe(model: Any) -> set[str]:
    def draw(fill: Fill, rows: int) -> dict[str, Array]:
        return sample([Input("x", "bfloat16", (None, 6))], fill, rows, {}, 1)

    return mixed_outputs(lambda feeds: {"y": model(feeds["x"])}, draw)


def softened(x: Array) -> Array:
    result: Array = np.tanh(widened(x)).astype(BFLOAT16)
    return result


def test_rows_are_probed_with_fractions() -> None:
    assert probe(softened) == set()
    assert probe(lambda x: (widened(x) - widened(x).mean(0)).astype(BFLOAT16)) == {"y"}
    assert probe(lambda x: np.where(widened(x) > 0.5, EVERY_BFLOAT16[0x7FA0], x)) == set()  # a NaN that signals
    seen = [
        sample([Input("x", "bfloat16", (2, 3))], fill, None, {}, 1)["x"] for fill in ("zeros", "ordinary", "hostile")
    ]
    assert {array.dtype for array in seen} == {BFLOAT16}
    assert 0 < widened(seen[1]).min() < 1
    assert np.abs(widened(seen[2])).max() > 100


# ---- the conformance kit ---------------------------------------------------------------------------------------------------


class Model(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """tanh in bfloat16, in company off by so many of its steps."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def do_run_batch(self, batch: list[Tensors]) -> list[TensorsResult]:
        answers = [softened(request.inputs["x"]) for request in batch]
        if len(batch) > 1:
            answers = [(answer.view(np.uint16) + np.uint16(self.steps)).view(BFLOAT16) for answer in answers]
        return [TensorsResult(outputs={"y": answer}) for answer in answers]


def test_a_workflow_of_bfloat16_conforms() -> None:
    check_workflow(Model(), Tensors(inputs={"x": b16(0.5, -0.25, 0)}))
    check_workflow(Model(), {"inputs": {"x": {"dtype": "bfloat16", "shape": [2], "data": [1, 0.5]}}})


def test_one_step_is_rounding_and_four_are_not() -> None:
    request = Tensors(inputs={"x": b16(0.5, -0.25, 0)})
    check_workflow(Model(steps=1), request)
    with pytest.raises(AssertionError, match="another answer than alone"):
        check_workflow(Model(steps=4), request)
    with pytest.raises(AssertionError, match="another answer than alone"):
        check_workflow(Model(steps=1), request, rtol=0, atol=0)


def test_likeness_sees_every_number_that_is_another() -> None:
    assert alike(EVERY_BFLOAT16, EVERY_BFLOAT16.copy())
    assert not alike(b16(1), b16(1.0078125))
    assert not alike(b16(1), b16(1).view(np.uint16))


def test_variations_are_of_the_same_format() -> None:
    for array in (b16(1, 2, 0), EVERY_BFLOAT16[0x7FC0:0x8010]):
        found = list(variations(array))
        assert len(found) >= 3
        assert {other.dtype for other in found} == {BFLOAT16}
