"""The native protocol through the whole app: lists and cards, single inputs and batches, tensors exactly."""

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bits import arrays_of
from tests.router.router_front import Front, ScriptedClient, Visit
from workflows.context import CallContext
from workflows.errors import InvalidInput, Overloaded
from workflows.tensors import DTYPES, element_kind

PATH = "/v1/workflows/m/inference"


def one(kind: str = "json", client: ScriptedClient | None = None, **args: Any) -> Front:
    house = Front(**args)
    house.add("m", client, kind=kind)
    return house


def tensor(dtype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"inputs": {"x": {"dtype": dtype, "shape": shape, "data": data}}}


# ---- lists and cards ------------------------------------------------------------------------------------------------


async def test_the_list_tells_names_states_reasons_and_cards() -> None:
    house = Front()
    house.add("b", state="failed", reason="setup failed: no such model", with_card=False)
    house.add("a")
    first, second = (await house.get("/v1/workflows")).json()["workflows"]
    assert second == {"name": "b", "state": "failed", "reason": "setup failed: no such model", "card": None}
    assert (first["name"], first["state"], first["reason"]) == ("a", "ready", "")
    assert first["card"]["kind"] == "json"
    assert first["card"]["output_schema"] == {"type": "object"}
    assert (await house.get("/v1/workflows/a")).json() == first


@pytest.mark.parametrize(
    "name", ["none", "..", "%2e%2e", "a%2Fb", "a%00", "m%0a", "~", "m ", "C:\\x", "\uff4d", "x" * 1000]
)
async def test_names_that_do_not_exist_are_all_alike(name: str) -> None:
    answer = await one().post(f"/v1/workflows/{name}/inference", {})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] in {"model not found", "no such path"}


async def test_aliases_are_names() -> None:
    house = Front()
    house.add("m", aliases=["other"])
    assert (await house.post("/v1/workflows/other/inference", {"a": 1})).json() == {"a": 1}
    assert house.lines.last["workflow"] == "m"


async def test_what_never_was_ready_is_loading_with_its_reason() -> None:
    house = Front()
    client = house.add("m", state="loading", reason="downloading", with_card=False)
    answer = await house.post(PATH, {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
    assert answer.json()["error"]["message"] == "m is loading: downloading"
    assert int(answer.headers["retry-after"]) >= 1
    assert not client.calls


async def test_what_is_upgraded_still_answers() -> None:
    house = Front()
    house.add("m", state="loading")
    assert (await house.post(PATH, {"a": 1})).status_code == 200


# ---- one input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, 1, "text", True, {}, {"a": [1, None]}])
async def test_other_kinds_get_the_json_value_as_it_is(body: Any) -> None:
    answer = await one().post(PATH, json.dumps(body).encode())
    assert answer.json() == body


@pytest.mark.parametrize("body", [None, 1, "x", {}, {"inputs": {}}, {"inputs": []}, {"inputs": {"x": 1}}])
async def test_tensors_need_inputs(body: Any) -> None:
    answer = await one("tensors").post(PATH, json.dumps(body).encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("float33", [1], [1], "unknown dtype"),
        ("FP32", [1], [1], "unknown dtype"),
        ("float32", [2], [1], "expected 2 elements, got 1"),
        ("float32", [2, 2], [[1, 2], [3]], "nested differently"),
        ("float32", [10**12], [], "more than"),
        ("float32", [-1], [], "non-negative"),
        ("float32", [1], ["1.5"], "not a float32"),
        ("float32", [1], [None], "not a float32"),
        ("float32", [1], [1e300], "out of range"),
        ("int32", [1], [1.0], "not a int32"),
        ("int32", [1], [True], "not a int32"),
        ("uint8", [1], [300], "out of range"),
        ("int64", [1], [1 << 63], "out of range"),
        ("bool", [1], ["False"], "not a bool"),
        ("string", [1], [1], "not a string"),
    ],
)
async def test_tensors_are_never_cast(dtype: str, shape: list[int], data: list[Any], message: str) -> None:
    answer = await one("tensors").post(PATH, tensor(dtype, shape, data))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("tensor 'x': ")
    assert message in answer.json()["error"]["message"]


async def test_what_else_a_tensor_body_has_goes_to_the_workflow() -> None:
    got: list[Any] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        got.append(input_data)
        return {"outputs": {}, "parameters": {"a": 1}}

    body = {**tensor("int8", [2, 1], [[1], [2]]), "outputs": ["y"], "parameters": {"p": 1}, "odd": 1}
    answer = await one("tensors", ScriptedClient(keep)).post(PATH, body)
    assert answer.json() == {"outputs": {}, "parameters": {"a": 1}}
    array = got[0]["inputs"].pop("x")
    assert (array.dtype, array.tolist()) == (np.int8, [[1], [2]])
    assert got[0] == {"inputs": {}, "outputs": ["y"], "parameters": {"p": 1}, "odd": 1}


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    kind = DTYPES[dtype].kind
    elements: st.SearchStrategy[Any]
    if element_kind(DTYPES[dtype]) == "f":
        elements = arrays_of(DTYPES[dtype], (), finite=True).map(lambda array: array.item())
    elif kind == "b":
        elements = st.booleans()
    elif kind == "O":
        elements = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    else:
        info = np.iinfo(dtype)
        elements = st.integers(int(info.min), int(info.max))
    count = int(np.prod(shape))
    return {"dtype": dtype, "shape": shape, "data": draw(st.lists(elements, min_size=count, max_size=count))}


@given(st.dictionaries(st.text(max_size=5), tensors(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_tensor_comes_back_as_it_was_sent(inputs: dict[str, Any]) -> None:
    answer = asyncio.run(one("tensors").post(PATH, {"inputs": inputs}))
    outputs = answer.json()["outputs"]
    assert list(outputs) == list(inputs)
    for name, sent in inputs.items():
        got = outputs[name]
        assert (got["dtype"], got["shape"]) == (sent["dtype"], sent["shape"])
        assert in_bits(got) == in_bits(sent)


def in_bits(tensor: dict[str, Any]) -> Any:
    if tensor["dtype"] == "string":
        return tensor["data"]
    return np.array(tensor["data"], tensor["dtype"]).tobytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["float32", "x", "inputs"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["inputs", "x", "dtype", "shape", "data"]), inner, max_size=4)
    ),
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_body_is_an_answer_or_the_callers_fault(body: Any) -> None:
    answer = asyncio.run(one("tensors").post(PATH, json.dumps(body).encode()))
    assert answer.status_code in {200, 400}
    if answer.status_code == 200 and isinstance(body, list):
        assert len(answer.json()) == len(body)


async def test_what_is_not_finite_is_a_bad_output() -> None:
    async def bad(input_data: Any, call: CallContext) -> Any:
        return {"outputs": {"y": np.array([1, np.nan], np.float32)}, "parameters": {}}

    answer = await one("tensors", ScriptedClient(bad)).post(PATH, tensor("int8", [1], [1]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bad_output")


# ---- many inputs ----------------------------------------------------------------------------------------------------


async def test_an_array_is_a_batch_with_an_outcome_for_each_member_in_order() -> None:
    async def picky(input_data: Any, call: CallContext) -> Any:
        if input_data == 1:
            raise InvalidInput("not one")
        if input_data == 2:
            raise Overloaded(retry_after_s=3)
        if input_data == 3:
            raise RuntimeError("canary")
        return float("nan") if input_data == 4 else input_data

    client = ScriptedClient(picky)
    answer = await one(client=client).post(PATH, [0, 1, 2, 4, [5]])
    request_id = answer.headers["x-request-id"]
    assert answer.status_code == 200
    first, second, third, fourth, fifth = answer.json()
    assert (first, fifth) == (0, [5])
    assert second == {"error": {"code": "invalid", "message": "not one", "request_id": request_id, "retryable": False}}
    assert (third["error"]["code"], third["error"]["retryable"]) == ("overload", True)
    assert fourth["error"]["code"] == "bad_output"
    assert len({call.request_id for call in client.calls}) == 5
    assert all(call.request_id.startswith(request_id) for call in client.calls)


async def test_a_member_that_is_no_input_hurts_no_other() -> None:
    client = ScriptedClient()
    good = tensor("int8", [1], [7])
    answer = await one("tensors", client).post(PATH, [good, {"inputs": 1}, good])
    first, bad, last = answer.json()
    assert first == last == {"outputs": good["inputs"], "parameters": {}}
    assert bad["error"]["code"] == "invalid"
    assert len(client.calls) == 2


@pytest.mark.parametrize("count", [0, 4])
async def test_batches_are_bounded(count: int) -> None:
    client = ScriptedClient()
    answer = await one(client=client, limits={"max_batch_items": 3}).post(PATH, [1] * count)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
    assert not client.calls


async def test_members_are_asked_all_at_once() -> None:
    arrived: list[Any] = []
    everybody = asyncio.Event()

    async def wait_for_all(input_data: Any, call: CallContext) -> Any:
        return input_data

    class Together(ScriptedClient):
        async def submit(self, items: Any) -> Any:
            arrived.extend(items)
            if len(arrived) == 200:
                everybody.set()
            await everybody.wait()
            async for group in super().submit(items):
                yield group

    answer = await one(client=Together(wait_for_all)).post(PATH, list(range(200)))
    assert answer.json() == list(range(200))


# ---- time, and callers who leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "most"), [(None, 5.0), ("2.5", 2.5), ("99", 5.0)])
async def test_a_caller_may_only_shorten_the_deadline(header: str | None, most: float) -> None:
    left: list[float] = []

    async def look(input_data: Any, call: CallContext) -> Any:
        assert call.deadline is not None
        left.append(call.deadline - time.monotonic())

    house = one(client=ScriptedClient(look), limits={"deadline_s": 5.0})
    await house.post(PATH, {}, headers={"x-deadline-s": header} if header else {})
    assert most - 1 < left[0] <= most


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "1e9", "", "1 ", "0x1", "0.0", "9" * 10])
async def test_other_deadlines_are_refused(header: str) -> None:
    visit = Visit(one().app, "POST", PATH, {}, [("x-deadline-s", header)])
    await visit.start()
    assert (await visit.next())["status"] == 400


async def test_a_deadline_is_said_once() -> None:
    house = one(client=ScriptedClient())
    visit = Visit(house.app, "POST", PATH, {}, [("x-deadline-s", "5"), ("x-deadline-s", "5")])
    await visit.start()
    start, body = visit.rest()
    assert start["status"] == 400
    assert b"x-deadline-s" in body["body"]


async def test_rays_own_headers_do_nothing() -> None:
    house = one(client=ScriptedClient())
    headers = {
        "x-request-timeout-seconds": "0",
        "x-request-disconnect-disabled": "?1",
        "serve_multiplexed_model_id": "x",
        "x-serve-anything": "x",
    }
    assert (await house.post(PATH, {}, headers=headers)).status_code == 200


async def test_a_deadline_that_passes_is_504() -> None:
    async def slow(input_data: Any, call: CallContext) -> Any:
        await asyncio.Future()

    house = one(client=ScriptedClient(slow), limits={"deadline_s": 0.02})
    answer = await house.post(PATH, {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [{}, [1, 2, 3]])
async def test_a_caller_who_leaves_is_given_up_and_not_answered(body: Any) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(input_data: Any, call: CallContext) -> Any:
        begun.set()
        try:
            await asyncio.Future()
        finally:
            ended.set()

    house = one(client=ScriptedClient(slow))
    visit = Visit(house.app, "POST", PATH, body)
    task = visit.start()
    await begun.wait()
    visit.leave()
    async with asyncio.timeout(5):
        await task
        await ended.wait()
    assert not visit.rest()
    assert (house.lines.last["status"], house.lines.last["code"]) == (499, "cancelled")
    assert all(call.cancelled for entry in house.directory for call in entry.dispatcher.client.calls)  # type: ignore[attr-defined]
