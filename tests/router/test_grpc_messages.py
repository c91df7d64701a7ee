"""Infer requests and answers as gRPC's messages: exact both ways, and a clear refusal of whatever cannot be."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deployments.config import Limits
from deployments.router.protocols.open_inference import grpc_messages
from deployments.router.protocols.open_inference.datatypes import DATATYPES
from deployments.router.protocols.open_inference.grpc_messages import (
    SMALL_BYTES,
    GrpcInfer,
    infer_answer,
    read_infer,
    stream_answer,
    stream_error,
)
from deployments.router.protocols.open_inference.grpc_proto import message_class
from deployments.router.protocols.open_inference.inference import Inferred
from deployments.router.refusals import BadMessage
from workflows.errors import BadOutput, InvalidInput, Unsupported, WorkflowError
from workflows.tensors import DTYPES, Array

REQUEST = message_class("ModelInferRequest")
ANSWER = message_class("ModelInferResponse")
STREAM_ANSWER = message_class("ModelStreamInferResponse")
LIMITS = Limits()
CONTENTS: dict[str, str] = dict(grpc_messages._CONTENTS)
NUMBERS = [name for name in DATATYPES if name != "BYTES"]
Change = Callable[[Any], Any]


def texts(*values: str | bytes) -> bytes:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def raw_request() -> Any:
    """Three inputs, raw."""
    request = REQUEST(model_name="m", model_version="1", id="a")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    request.inputs.add(name="t", datatype="BYTES", shape=[2])
    request.inputs.add(name="h", datatype="FP16", shape=[1])
    raw = [np.array([1.5, np.nan], np.float32).tobytes(), texts("ä", ""), np.array([2], np.float16).tobytes()]
    request.raw_input_contents.extend(raw)
    return request


def typed_request(datatype: str = "INT8", shape: tuple[int, ...] = (2,), **contents: Any) -> Any:
    request = REQUEST(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)
    return request


async def read(request: Any, **options: Any) -> GrpcInfer:
    return await read_infer(request.SerializeToString(), options.pop("limits", LIMITS), **options)


async def refused(request: Any, **options: Any) -> WorkflowError:
    with pytest.raises(InvalidInput) as caught:
        await read(request, **options)
    return caught.value


# ---- in --------------------------------------------------------------------------------------------------------------------


async def test_raw_tensors() -> None:
    asked = await read(raw_request())
    inputs = asked.infer.inputs
    assert (asked.name, asked.version, asked.infer.id, asked.raw) == ("m", "1", "a", True)
    np.testing.assert_array_equal(inputs["x"], np.array([[1.5, np.nan]], np.float32))
    assert inputs["t"].tolist() == ["ä", ""]
    np.testing.assert_array_equal(inputs["h"], np.array([2], np.float16))
    assert asked.infer.outputs is None


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("INT8", [-128, 127]),
        ("INT16", [-(1 << 15), (1 << 15) - 1]),
        ("INT32", [-(1 << 31), (1 << 31) - 1]),
        ("INT64", [-(1 << 63), (1 << 63) - 1]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, (1 << 16) - 1]),
        ("UINT32", [0, (1 << 32) - 1]),
        ("UINT64", [0, (1 << 64) - 1]),
        ("FP32", [1.5, -0.0]),
        ("FP64", [1e300, -1e-300]),
    ],
)
async def test_contents_hold_every_number_of_their_type(datatype: str, values: list[Any]) -> None:
    asked = await read(typed_request(datatype, (2, 1), **{CONTENTS[datatype]: values}))
    array = asked.infer.inputs["x"]
    assert (array.dtype, array.shape, asked.raw) == (DTYPES[DATATYPES[datatype]], (2, 1), False)
    assert array.ravel().tolist() == values


async def test_texts_in_contents() -> None:
    asked = await read(typed_request("BYTES", (2, 1), bytes_contents=["ä".encode(), b""]))
    assert asked.infer.inputs["x"].tolist() == [["ä"], [""]]


async def test_a_tensor_without_elements_needs_no_contents() -> None:
    asked = await read(typed_request("FP32", (0, 3)))
    assert asked.infer.inputs["x"].shape == (0, 3)


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("INT8", {"int_contents": [0, 128]}),
        ("INT8", {"int_contents": [-129, 0]}),
        ("INT16", {"int_contents": [0, 1 << 15]}),
        ("UINT8", {"uint_contents": [0, 300]}),
        ("UINT16", {"uint_contents": [0, 1 << 16]}),
    ],
)
async def test_a_number_that_the_type_cannot_hold_is_refused(datatype: str, contents: Any) -> None:
    error = await refused(typed_request(datatype, **contents))
    assert error.message == f"tensor 'x': an element is out of range for {DATATYPES[datatype]}"
    assert error.param == "x"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"int_contents": [1]}, "expected 2 elements, got 1"),
        ({"int_contents": [1, 2, 3]}, "expected 2 elements, got 3"),
        ({}, "expected 2 elements, got 0"),
        ({"uint_contents": [1, 2]}, "INT8 is sent in int_contents, not in uint_contents"),
        ({"int_contents": [1, 2], "fp32_contents": [1.0]}, "INT8 is sent in int_contents, not in fp32_contents"),
    ],
)
async def test_contents_of_another_form_than_said_are_refused(contents: Any, message: str) -> None:
    assert (await refused(typed_request(**contents))).message == f"tensor 'x': {message}"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
async def test_half_precision_is_sent_raw_only(datatype: str) -> None:
    error = await refused(typed_request(datatype, fp32_contents=[1.0, 2.0]))
    assert error.message == f"tensor 'x': {datatype} must be sent in raw_input_contents"


async def test_what_is_no_text_in_contents_stays_bytes() -> None:
    asked = await read(typed_request("BYTES", bytes_contents=[b"a", b"\xff"]))
    assert asked.infer.inputs["x"].tolist() == ["a", b"\xff"]


WRONG: list[tuple[Change, str]] = [
    (lambda r: r.ClearField("inputs"), "inputs must be a list of tensors"),
    (lambda r: r.raw_input_contents.append(b""), "raw_input_contents has 4 members, but there are 3 inputs"),
    (lambda r: r.raw_input_contents.pop(), "raw_input_contents has 2 members, but there are 3 inputs"),
    (lambda r: r.ClearField("raw_input_contents"), "tensor 'x': expected 2 elements, got 0"),
    (
        lambda r: r.inputs[0].contents.fp32_contents.extend([1.0, 2.0]),
        "tensor 'x': contents and raw_input_contents exclude each other",
    ),
    (lambda r: setattr(r.inputs[1], "name", "x"), "two inputs are named 'x'"),
    (lambda r: setattr(r.inputs[1], "name", ""), "an input needs a name"),
    (lambda r: setattr(r.inputs[0], "datatype", "fp32"), "tensor 'x': unknown datatype; known are BOOL"),
    (lambda r: setattr(r.inputs[0], "datatype", ""), "tensor 'x': unknown datatype; known are BOOL"),
    (lambda r: r.inputs[0].shape.append(-1), "tensor 'x': shape must hold non-negative integers"),
    (lambda r: r.inputs[0].shape.extend([1] * 1000), "tensor 'x': shape must be a list of at most 32 integers"),
    (lambda r: r.inputs[0].shape.extend([1 << 62] * 2), "tensor 'x': more than 134217728 elements"),
    (lambda r: r.inputs[0].shape.append(2), "tensor 'x': expected 16 bytes, got 8"),
    (
        lambda r: r.raw_input_contents.__setitem__(1, texts("a") + b"\xff\xff\xff\xff"),
        "tensor 't': element 1 is longer",
    ),
    (lambda r: r.outputs.add(name=""), "an output needs a name"),
    (lambda r: [r.outputs.add(name="y"), r.outputs.add(name="y")], "output 'y' is asked for twice"),
    (lambda r: setattr(r, "id", "x" * 257), "id must be a string of at most 256 characters"),
    (lambda r: r.parameters["a"].ClearField("bool_param"), "the parameter 'a' has no value"),
    (lambda r: setattr(r.parameters["a"], "double_param", float("nan")), "the parameter 'a' must be a finite number"),
    (lambda r: setattr(r.parameters["timeout"], "int64_param", 0), "timeout must be a positive number of microseconds"),
    (lambda r: setattr(r.parameters["timeout"], "string_param", "1"), "timeout must be a positive number of micro"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
async def test_what_contradicts_itself_is_refused(change: Change, message: str) -> None:
    request = raw_request()
    change(request)
    assert (await refused(request)).message.startswith(message)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "s"),
        lambda r: setattr(r.outputs.add(name="y").parameters["classification"], "int64_param", 3),
        lambda r: setattr(r.parameters["sequence_id"], "int64_param", 3),
        lambda r: setattr(r.parameters["priority"], "uint64_param", 3),
    ],
)
async def test_what_is_not_here_is_refused_and_never_ignored(change: Change) -> None:
    request = raw_request()
    change(request)
    assert isinstance(await refused(request), Unsupported)


async def test_noise_is_refused() -> None:
    with pytest.raises(BadMessage):
        await read_infer(b"\xff\xff\xff", LIMITS)


async def test_too_many_texts_are_refused_before_they_are_made() -> None:
    few = Limits(max_json_elements=2)
    request = REQUEST(model_name="m")
    for name in "ab":
        request.inputs.add(name=name, datatype="BYTES", shape=[2], contents={"bytes_contents": [b"x", b"y"]})
    assert (await refused(request, limits=few)).message == "tensor 'b': too many texts"
    for tensor in request.inputs:
        tensor.ClearField("contents")
        request.raw_input_contents.append(texts("x", "y"))
    assert (await refused(request, limits=few)).message == "tensor 'b': too many texts"


async def test_parameters_of_every_kind_go_to_the_workflow() -> None:
    request = raw_request()
    request.parameters["b"].bool_param = True
    request.parameters["i"].int64_param = -1
    request.parameters["u"].uint64_param = (1 << 64) - 1
    request.parameters["d"].double_param = 0.25
    request.parameters["s"].string_param = "s"
    request.parameters["timeout"].uint64_param = 2_500_000
    request.outputs.add(name="z")
    request.outputs.add(name="a")
    infer = (await read(request)).infer
    assert infer.parameters == {"b": True, "i": -1, "u": (1 << 64) - 1, "d": 0.25, "s": "s"}
    assert (infer.timeout_s, infer.outputs) == (2.5, ["z", "a"])


async def test_content_types_that_change_nothing_are_taken() -> None:
    request = raw_request()
    request.parameters["content_type"].string_param = "np"
    request.inputs[0].parameters["content_type"].string_param = "np"
    request.inputs[1].parameters["content_type"].string_param = "str"
    assert (await read(request)).infer.parameters == {}
    request.inputs[0].parameters["content_type"].string_param = "str"
    assert (await refused(request)).message == "content_type must be np, or str for BYTES"


async def test_wishes_are_for_streams() -> None:
    request = raw_request()
    request.parameters["stream"].bool_param = False
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    asked = await read(request, streaming=True)
    assert (asked.wishes.chunks, asked.wishes.empty_final, asked.infer.parameters) == (False, True, {})
    assert set((await read(request)).infer.parameters) == {"stream", "triton_enable_empty_final_response"}
    request.parameters["stream"].string_param = "no"
    assert (await refused(request, streaming=True)).message == "stream must be true or false"


async def test_large_tensors_are_views_of_the_message() -> None:
    numbers = np.arange(SMALL_BYTES, dtype=np.float32)
    request = REQUEST(raw_input_contents=[numbers.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[numbers.size])
    data = request.SerializeToString()
    array = (await read_infer(data, LIMITS)).infer.inputs["x"]
    np.testing.assert_array_equal(array, numbers)
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("raw", [True, False])
async def test_many_texts_are_made_on_a_thread(raw: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    real = grpc_messages._read

    def seen(*given: Any) -> GrpcInfer:
        threads.append(threading.get_ident())
        return real(*given)

    monkeypatch.setattr(grpc_messages, "_read", seen)
    values = ["ab"] * (SMALL_BYTES // 2)
    request = REQUEST()
    request.inputs.add(name="x", datatype="BYTES", shape=[len(values)])
    if raw:
        request.raw_input_contents.append(texts(*values))
    else:
        request.inputs[0].contents.bytes_contents.extend(value.encode() for value in values)
    assert (await read(request)).infer.inputs["x"].tolist() == values
    assert threads[0] != threading.get_ident()


# ---- out -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
async def test_numbers_come_back_as_they_went(datatype: str, data: st.DataObject) -> None:
    dtype = DTYPES[DATATYPES[datatype]]
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
    elements = None if dtype.kind != "V" else st.just(1.5)
    array: Array = data.draw(arrays.arrays(dtype, shapes, elements=elements))
    for form in ("raw", "contents"):
        got = await there_and_back(array, datatype, raw=form == "raw")
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)


@given(arrays.arrays(object, arrays.array_shapes(min_dims=0, max_dims=2, min_side=0), elements=st.text(max_size=8)))
@settings(max_examples=30, deadline=None)
async def test_texts_come_back_as_they_went(array: Array) -> None:
    for raw in (True, False):
        np.testing.assert_array_equal(await there_and_back(array, "BYTES", raw=raw), array)


async def there_and_back(array: Array, datatype: str, *, raw: bool) -> Array:
    """An array as an output, whose answer is made a request of."""
    asked = await read(raw_request() if raw else typed_request(int_contents=[1, 2]))
    answer = ANSWER.FromString(await infer_answer("m", asked, Inferred({"x": array}, {})))
    (output,) = answer.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("x", datatype, array.shape)
    assert bool(answer.raw_output_contents) == (raw or datatype not in CONTENTS)
    request = REQUEST(raw_input_contents=answer.raw_output_contents)
    request.inputs.add(name="x", datatype=datatype, shape=output.shape, contents=output.contents)
    return (await read(request)).infer.inputs["x"]


async def test_an_answer_repeats_the_id_and_keeps_the_order() -> None:
    asked = await read(raw_request())
    outputs = {"b": np.zeros((1, 2), np.int8), "a": np.array([1.0])}
    parameters = {"n": None, "l": [1], "t": True, "i": 1, "u": (1 << 64) - 1, "f": 0.5, "s": "s"}
    answer = ANSWER.FromString(await infer_answer("m", asked, Inferred(outputs, parameters)))
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "a")
    assert [output.name for output in answer.outputs] == ["b", "a"]
    assert list(answer.raw_output_contents) == [bytes(2), struct.pack("<d", 1.0)]
    said = {name: parameter.WhichOneof("parameter_choice") for name, parameter in answer.parameters.items()}
    assert said == {
        **dict.fromkeys(("n", "l", "s"), "string_param"),
        "t": "bool_param",
        "i": "int64_param",
        "u": "uint64_param",
        "f": "double_param",
    }
    assert (answer.parameters["l"].string_param, answer.parameters["n"].string_param) == ("[1]", "null")


async def test_contents_answer_contents_unless_one_output_must_be_raw() -> None:
    asked = await read(typed_request(int_contents=[1, 2]))
    numbers, half = np.array([7], np.int64), np.array([2], np.float16)
    answer = ANSWER.FromString(await infer_answer("m", asked, Inferred({"a": numbers}, {})))
    assert (list(answer.outputs[0].contents.int64_contents), list(answer.raw_output_contents)) == ([7], [])
    answer = ANSWER.FromString(await infer_answer("m", asked, Inferred({"a": numbers, "b": half}, {})))
    assert not answer.outputs[0].HasField("contents")
    assert list(answer.raw_output_contents) == [numbers.tobytes(), half.tobytes()]


@pytest.mark.parametrize("raw", [True, False])
async def test_large_answers_of_texts_are_whole(raw: bool) -> None:
    asked = await read(raw_request() if raw else typed_request(int_contents=[1, 2]))
    array = np.array(["ab"] * SMALL_BYTES, object)
    answer = ANSWER.FromString(await infer_answer("m", asked, Inferred({"x": array}, {})))
    if raw:
        assert list(answer.raw_output_contents) == [texts("ab") * SMALL_BYTES]
    else:
        assert list(answer.outputs[0].contents.bytes_contents) == [b"ab"] * SMALL_BYTES


async def test_what_has_no_type_here_is_no_answer() -> None:
    asked = await read(raw_request())
    contents = await read(typed_request(int_contents=[1, 2]))
    for outputs in ({"x": np.array([1j])}, {"\ud800": np.array([1.0])}, {"x": np.array(["\ud800"], object)}):
        for form in (asked, contents):
            with pytest.raises(BadOutput):
                await infer_answer("m", form, Inferred(outputs, {}))
    with pytest.raises(BadOutput):
        await infer_answer("m", asked, Inferred({}, {"huge": 1 << 64}))


async def test_answers_on_a_stream() -> None:
    asked = await read(raw_request(), streaming=True)
    inferred = Inferred({"x": np.array([1, 2], np.int16)}, {"s": "s"})
    for final in (True, False):
        answer = STREAM_ANSWER.FromString(await stream_answer("m", asked, inferred, final=final))
        assert (answer.error_message, answer.infer_response.id) == ("", "a")
        assert answer.infer_response.parameters["triton_final_response"].bool_param is final
        assert answer.infer_response.parameters["s"].string_param == "s"
        assert list(answer.infer_response.raw_output_contents) == [struct.pack("<2h", 1, 2)]
    failed = STREAM_ANSWER.FromString(stream_error("no", "m", None))
    assert (failed.error_message, failed.infer_response.model_name, failed.infer_response.id) == ("no", "m", "")


async def test_the_size_of_a_raw_tensor_may_be_said_once_more() -> None:
    request = raw_request()
    request.inputs[0].parameters["binary_data_size"].int64_param = 8
    assert (await read_infer(request.SerializeToString(), LIMITS)).raw
    request.inputs[0].parameters["binary_data_size"].int64_param = 7
    with pytest.raises(InvalidInput, match="binary_data_size is not the size of what is in raw_input_contents"):
        await read_infer(request.SerializeToString(), LIMITS)
    typed = typed_request(int_contents=[1, 2])
    typed.inputs[0].parameters["binary_data_size"].int64_param = 2
    with pytest.raises(InvalidInput, match="binary_data_size is not the size of what is in raw_input_contents"):
        await read_infer(typed.SerializeToString(), LIMITS)


@pytest.mark.parametrize("raw", [True, False])
async def test_a_request_may_say_how_its_answer_is_to_come(raw: bool) -> None:
    for request in (raw_request(), typed_request(int_contents=[1, 2])):
        request.parameters["binary_data_output"].bool_param = raw
        asked = await read_infer(request.SerializeToString(), LIMITS)
        assert (asked.raw, asked.infer.parameters) == (raw, {})
        answer = ANSWER.FromString(await infer_answer("m", asked, Inferred({"y": np.ones(2, np.int8)}, {})))
        assert bool(answer.raw_output_contents) is raw
        assert list(answer.outputs[0].contents.int_contents) == ([] if raw else [1, 1])
