"""The Open Inference Protocol's binary form: exact both ways, and a clear refusal of whatever cannot be."""

from __future__ import annotations

import json
import struct
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deployments.router.protocols.open_inference.binary_tensors import tensor_from_bytes, tensor_to_bytes
from deployments.router.protocols.open_inference.datatypes import DATATYPES
from tests.bits import arrays_of
from tests.router.router_front import Front, ScriptedClient, echo
from workflows.context import CallContext
from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, Array, element_kind

PATH = "/v2/models/m/infer"
HEADER = "inference-header-content-length"
NUMBERS = [name for name in DTYPES if name != "string"]


def texts(*values: str | bytes) -> bytes:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def tensor(name: str, datatype: str, shape: list[int], size: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


async def post(body: Any, tail: bytes = b"", size: Any = None, client: ScriptedClient | None = None) -> httpx.Response:
    house = Front()
    house.add("m", client, kind="tensors")
    head = json.dumps(body).encode()
    headers = {HEADER: str(len(head) if size is None else size), "content-type": "application/octet-stream"}
    return await house.request("POST", PATH, content=head + tail, headers=headers)


def split(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[HEADER])
    return json.loads(answer.content[:size]), answer.content[size:]


# ---- over HTTP -------------------------------------------------------------------------------------------------------------


async def test_binary_in_and_out_beside_json() -> None:
    numbers = np.array([[1.5, -0.0, np.nan]], np.float32)
    body = {
        "id": "a",
        "inputs": [
            tensor("x", "FP32", [1, 3], 12),
            {"name": "y", "datatype": "INT8", "shape": [1], "data": [-5]},
            tensor("z", "BYTES", [2], len(texts("ä", ""))),
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": name != "y"}} for name in "xyz"],
    }
    head, tail = split(await post(body, numbers.tobytes() + texts("ä", "")))
    assert head == {"model_name": "m", "model_version": "1", "id": "a", "outputs": body["inputs"]}
    assert tail == numbers.tobytes() + texts("ä", "")


@pytest.mark.parametrize("outputs", [[], [{"name": "x"}]])
async def test_all_outputs_may_be_asked_for_in_binary_form(outputs: list[Any]) -> None:
    body = {"inputs": [tensor("x", "INT64", [1], 8)], "outputs": outputs, "parameters": {"binary_data_output": True}}
    head, tail = split(await post(body, bytes(8)))
    assert head["outputs"] == [tensor("x", "INT64", [1], 8)]
    assert tail == bytes(8)


async def test_one_output_may_be_json_all_the_same() -> None:
    body = {
        "inputs": [tensor("x", "INT64", [1], 8)],
        "outputs": [{"name": "x", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    answer = await post(body, bytes(8))
    assert answer.json()["outputs"] == [{"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}]
    assert HEADER not in answer.headers


async def test_what_has_no_form_in_json_is_given_in_binary_form_only() -> None:
    bits = bytes([0, 1, 2, 3])
    given = [tensor("x", "BF16", [2], 4)]
    head, tail = split(await post({"inputs": given, "parameters": {"binary_data_output": True}}, bits))
    assert (head["outputs"], tail) == (given, bits)
    answer = await post({"inputs": given}, bits)
    message = "output 'x': BF16 has no form in JSON: ask for it in binary form"
    assert (answer.status_code, answer.json()) == (400, {"error": message})


async def test_elements_that_are_no_text_are_bytes() -> None:
    got: list[Any] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        got.extend(input_data["inputs"]["x"].tolist())
        return await echo(input_data, call)

    picture = b"\xff\xd8\xff\xe0"
    data = texts("\u00e4", picture)
    given = [tensor("x", "BYTES", [2], len(data))]
    body = {"inputs": given, "parameters": {"binary_data_output": True}}
    head, tail = split(await post(body, data, client=ScriptedClient(keep)))
    assert got == ["\u00e4", picture]
    assert (head["outputs"], tail) == (given, data)
    answer = await post({"inputs": given}, data)
    message = "output 'x': there are bytes that are no text: ask for it in binary form"
    assert (answer.status_code, answer.json()) == (400, {"error": message})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
async def test_what_is_not_finite_is_given_in_binary_form_only(dtype: Any, odd: float) -> None:
    numbers = np.array([1.0, odd], dtype)
    size = numbers.nbytes
    given = [tensor("x", f"FP{8 * numbers.itemsize}", [2], size)]
    binary = {"outputs": [{"name": "x", "parameters": {"binary_data": True}}]}
    _, tail = split(await post({"inputs": given, **binary}, numbers.tobytes()))
    assert tail == numbers.tobytes()
    answer = await post({"inputs": given}, numbers.tobytes())
    message = "output 'x': JSON cannot say NaN or infinity: ask for it in binary form"
    assert (answer.status_code, answer.json()) == (500, {"error": message})


@pytest.mark.parametrize("binary", [True, False])
async def test_half_a_surrogate_pair_is_no_output(binary: bool) -> None:
    async def half(input_data: Any, call: CallContext) -> Any:
        return {"outputs": {"x": np.array(["\ud800"], object)}}

    body = {"inputs": [tensor("x", "INT8", [1], 1)], "parameters": {"binary_data_output": binary}}
    answer = await post(body, b"1", client=ScriptedClient(half))
    assert (answer.status_code, answer.json()["error"][:14]) == (500, "the model gave")


async def test_no_number_is_lost_on_the_way_through_the_router() -> None:
    got: list[Array] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        got.append(input_data["inputs"]["x"])
        return {"outputs": {"x": got[0][:, ::-1]}}  # in no order that could be written as it is

    numbers = np.arange(12, dtype=np.float64).reshape(3, 4)
    body = {"inputs": [tensor("x", "FP64", [3, 4], 96)], "parameters": {"binary_data_output": True}}
    _, tail = split(await post(body, numbers.tobytes(), client=ScriptedClient(keep)))
    np.testing.assert_array_equal(got[0], numbers)
    np.testing.assert_array_equal(np.frombuffer(tail, np.float64).reshape(3, 4), numbers[:, ::-1])


@pytest.mark.parametrize("size", ["-1", "0x10", "0", "999", "1" * 40, "+5", "5 5", "", "\u0661"])
async def test_a_length_that_is_none_is_refused(size: str) -> None:
    house = Front()
    house.add("m", kind="tensors")
    headers = [(HEADER.encode(), size.encode()), (b"content-type", b"application/octet-stream")]
    answer = await house.request("POST", PATH, content=b'{"inputs":[]}', headers=headers)
    assert (answer.status_code, HEADER in answer.json()["error"]) == (400, True)


async def test_a_length_that_comes_twice_is_refused() -> None:
    house = Front()
    house.add("m", kind="tensors")
    headers = [(HEADER, "13"), (HEADER, "13"), ("content-type", "application/octet-stream")]
    answer = await house.request("POST", PATH, content=b'{"inputs":[]}', headers=headers)
    assert (answer.status_code, HEADER in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("inputs", "tail", "message"),
    [
        ([tensor("x", "FP32", [2], 8)], bytes(7), "binary_data_size must be"),
        ([tensor("x", "FP32", [2], 8)], bytes(9), "1 bytes follow the last tensor"),
        ([tensor("x", "FP32", [2], 7)], bytes(7), "expected 8 bytes, got 7"),
        ([tensor("x", "FP32", [2], 12)], bytes(12), "expected 8 bytes, got 12"),
        ([tensor("x", "FP32", [1 << 40], 8)], bytes(8), "more than"),
        ([tensor("x", "FP32", [-1], 8)], bytes(8), "non-negative"),
        ([tensor("x", "FP32", [2], 8), tensor("y", "FP32", [2], 8)], bytes(8), "binary_data_size must be"),
        ([{**tensor("x", "FP32", [2], 8), "data": [1, 2]}], bytes(8), "exclude each other"),
        ([tensor("x", "BF16", [4], 9)], bytes(9), "expected 8 bytes, got 9"),
        ([tensor("x", "BOOL", [2], 2)], b"\x00\x02", "neither 0 nor 1"),
        *(
            ([tensor("x", "FP32", [2], size)], bytes(8), "binary_data_size must be")
            for size in (-8, 8.0, "8", None, True)
        ),
        ([tensor("x", "BYTES", [1], 8)], b"\xff\xff\xff\xffabcd", "longer than what is there"),
        ([tensor("x", "BYTES", [2], 8)], texts("abcd"), "ends within element 1"),
        ([tensor("x", "BYTES", [1], 9)], texts("abcd") + b"e", "1 bytes too many"),
        ([tensor("x", "BYTES", [1 << 20], 8)], bytes(8), "cannot hold"),
    ],
)
async def test_sizes_that_contradict_each_other_are_refused_by_name(inputs: Any, tail: bytes, message: str) -> None:
    client = ScriptedClient()
    answer = await post({"inputs": inputs}, tail, client=client)
    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text
    assert not client.calls


async def test_texts_are_counted_as_those_of_json_are() -> None:
    house = Front(limits={"max_json_elements": 40})
    house.add("m", kind="tensors")
    for many, status in (([9, 10], 200), ([30, 30], 400)):
        head = json.dumps(
            {"inputs": [tensor(f"x{number}", "BYTES", [count], 4 * count) for number, count in enumerate(many)]}
        ).encode()
        headers = {HEADER: str(len(head)), "content-type": "application/octet-stream"}
        answer = await house.request("POST", PATH, content=head + bytes(4 * sum(many)), headers=headers)
        assert (answer.status_code, "too many texts" in answer.text) == (status, status == 400), answer.text


async def test_what_is_large_is_parsed_on_a_thread_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def parsed(*arguments: Any) -> Array:
        threads.append(threading.current_thread())
        return tensor_from_bytes(*arguments)

    monkeypatch.setattr("deployments.router.protocols.open_inference.infer_body.tensor_from_bytes", parsed)
    numbers = np.arange(1 << 18, dtype=np.float64)
    body = {"inputs": [tensor("x", "FP64", [1 << 18], numbers.nbytes)], "parameters": {"binary_data_output": True}}
    _, tail = split(await post(body, numbers.tobytes()))
    assert tail == numbers.tobytes()
    assert (await post(body, numbers.tobytes() + b"x")).status_code == 400
    assert threads
    assert threading.main_thread() not in threads


async def test_bytes_after_the_json_need_the_header() -> None:
    house = Front()
    house.add("m", kind="tensors")
    body = json.dumps({"inputs": [tensor("x", "FP32", [2], 8)]}).encode() + bytes(8)
    assert (await house.request("POST", PATH, content=body)).status_code == 400


async def test_only_this_protocol_takes_binary_bodies() -> None:
    house = Front()
    house.add("m")
    headers = {"content-type": "application/octet-stream"}
    answer = await house.request("POST", "/v1/workflows/m/inference", content=b"1", headers=headers)
    assert answer.status_code == 415


# ---- the codec -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMBERS)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_numbers_come_back_bit_by_bit(dtype: str, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    array = data.draw(arrays_of(DTYPES[dtype], shape))
    offset = data.draw(st.integers(0, 7))  # wherever the JSON before it ends
    raw = bytes(tensor_to_bytes(array))
    back = tensor_from_bytes("x", dtype, list(shape), memoryview(bytes(offset) + raw)[offset:], 0)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=6))
def test_texts_come_back(values: list[str]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    raw = bytes(tensor_to_bytes(array))
    assert raw == texts(*values)
    assert tensor_from_bytes("x", "string", [len(values)], memoryview(raw), 6).tolist() == values


@given(
    st.sampled_from(list(DTYPES)),
    st.one_of(st.lists(st.integers(-1, 5), max_size=4), st.just([1 << 62]), st.just([0, 1 << 62])),
    st.binary(max_size=64),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_tensor_that_says_them_again_or_an_invalid_input(
    dtype: str, shape: list[int], raw: bytes
) -> None:
    try:
        array = tensor_from_bytes("x", dtype, shape, memoryview(raw), 6)
    except InvalidInput:
        return
    assert list(array.shape) == shape
    assert bytes(tensor_to_bytes(array)) == raw


def test_every_datatype_has_a_size_or_is_text() -> None:
    assert {element_kind(DTYPES[dtype]) for dtype in DATATYPES.values()} <= set("biufO")
