"""The Open Inference Protocol over HTTP: what it answers, and all that it refuses by name."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext

PATH = "/v2/models/m/infer"
ODD_TYPES: list[Any] = ["FP33", "fp32", "", None, []]
GOOD: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.1, -0.0]}


def house(client: ScriptedClient | None = None) -> Front:
    made = Front()
    made.add("m", client, kind="tensors", aliases=["alias"])
    made.add("text", kind="generate")
    made.add("new", kind="tensors", state="loading", reason="downloading", with_card=False)
    return made


async def test_the_server_and_its_health() -> None:
    server = (await house().get("/v2")).json()
    assert set(server) == {"name", "version", "extensions"}
    assert (await house().get("/v2/health/live")).json() == {"live": True}
    assert (await house().get("/v2/health/ready")).json() == {"ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_models_tell_their_tensors_and_whether_they_are_ready(version: str) -> None:
    model = (await house().get(f"/v2/models/alias{version}")).json()
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    says = {"name": "m", "versions": ["1"], "platform": "infernet_tensors"}
    assert model == {**says, "inputs": [tensor], "outputs": [tensor]}
    ready = await house().get(f"/v2/models/m{version}/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "m", "ready": True})
    assert (await house().get(f"/v2/models/new{version}/ready")).status_code == 503
    loading = await house().get(f"/v2/models/new{version}")
    assert (loading.status_code, loading.json()) == (503, {"error": "new is loading: downloading"})
    assert (await house().post(f"/v2/models/m{version}/infer", {"inputs": [GOOD]})).status_code == 200


@pytest.mark.parametrize("path", ["/v2/models/none", "/v2/models/m/versions/2", "/v2/models/m/versions/01/ready"])
async def test_other_models_and_versions_do_not_exist(path: str) -> None:
    answer = await house().get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "model not found"})


async def test_tensors_in_and_out_with_the_id() -> None:
    answer = await house().post(PATH, {"id": "a", "inputs": [GOOD], "parameters": {"binary_data_output": False}})
    assert answer.json() == {"model_name": "m", "model_version": "1", "id": "a", "outputs": [GOOD]}
    assert "-0.0" in answer.text


async def test_the_workflow_gets_outputs_and_parameters() -> None:
    got: list[Any] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        got.append(input_data)
        return {"outputs": {"s": np.array([["a"], ["b"]], object)}, "parameters": {"done": True}}

    body = {
        "inputs": [{**GOOD, "data": [[1, 2]]}],
        "outputs": [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
        "parameters": {"top": 3, "timeout": 5_000_000},
    }
    answer = await house(ScriptedClient(keep)).post(PATH, body)
    assert answer.json()["outputs"] == [{"name": "s", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]}]
    assert answer.json()["parameters"] == {"done": True}
    assert got[0]["inputs"]["x"].tolist() == [[1.0, 2.0]]
    assert (got[0]["outputs"], got[0]["parameters"]) == (["b", "a"], {"top": 3})


async def test_the_timeout_parameter_shortens_the_deadline() -> None:
    async def slow(input_data: Any, call: CallContext) -> Any:
        await asyncio.Future()

    answer = await house(ScriptedClient(slow)).post(PATH, {"inputs": [GOOD], "parameters": {"timeout": 20_000}})
    assert answer.status_code == 504


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "inputs must be a list"),
        ({"inputs": {"x": GOOD}}, "inputs must be a list"),
        ({"inputs": [GOOD, GOOD]}, "two inputs are named 'x'"),
        ({"inputs": [1]}, "an input must be a JSON object"),
        ({"inputs": [GOOD], "input": []}, "unknown field 'input'"),
        ({"inputs": [{**GOOD, "dtype": "FP32"}]}, "unknown field 'dtype'"),
        ({"inputs": [{**GOOD, "name": ""}]}, "needs a name"),
        ({"inputs": [{**GOOD, "name": 1}]}, "needs a name"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "data is missing"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]}, "shape must be a list"),
        *(({"inputs": [{**GOOD, "datatype": name}]}, "unknown datatype") for name in ODD_TYPES),
        ({"inputs": [{**GOOD, "datatype": "BF16"}]}, "tensor 'x': BF16 has no form in JSON: send it in binary form"),
        ({"inputs": [{**GOOD, "shape": [2], "data": [1]}]}, "expected 2 elements, got 1"),
        ({"inputs": [{**GOOD, "data": [1, "2"]}]}, "not a float32"),
        ({"inputs": [{**GOOD, "shape": [1] * 65}]}, "shape must be a list"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 8}}]}, "binary_data_size must be"),
        ({"inputs": [{**GOOD, "parameters": {"shared_memory_region": "a"}}]}, "unknown parameter"),
        ({"inputs": [{**GOOD, "parameters": []}]}, "parameters must be a JSON object"),
        ({"inputs": [GOOD], "outputs": {}}, "outputs must be a list"),
        ({"inputs": [GOOD], "outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
        ({"inputs": [GOOD], "outputs": ["y"]}, "an output must be a JSON object"),
        ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data must be"),
        ({"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "unknown parameter"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": "yes"}}, "binary_data_output must be"),
        ({"inputs": [GOOD], "parameters": {"sequence_id": 1}}, "'sequence_id' is not supported"),
        ({"inputs": [GOOD], "parameters": {"priority": 1}}, "'priority' is not supported"),
        *(({"inputs": [GOOD], "parameters": {"timeout": t}}, "timeout must be") for t in (0, -1, 1.5, "1", True)),
        ({"inputs": [GOOD], "id": 5}, "id must be a string"),
        ({"inputs": [GOOD], "id": "a" * 257}, "id must be a string"),
        ({"inputs": [GOOD], "a" * 1000: 5}, f"unknown field '{'a' * 64}'"),
    ],
)
async def test_everything_else_is_refused_by_name(body: Any, message: str) -> None:
    client = ScriptedClient()
    answer = await house(client).post(PATH, json.dumps(body).encode())
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]
    assert not client.calls


async def test_clients_that_name_no_media_type_are_understood_but_browsers_pages_are_not() -> None:
    body = json.dumps({"inputs": [GOOD]}).encode()
    assert (await house().request("POST", PATH, content=body)).status_code == 200
    from_page = await house().request("POST", PATH, content=body, headers={"origin": "http://evil.example"})
    assert from_page.status_code == 415


@pytest.mark.parametrize("datatype", sorted(DATATYPES.keys() - ONLY_BINARY))
@given(st.data())
@settings(max_examples=10, deadline=None)
def test_every_datatype_comes_back_as_it_was_sent(datatype: str, data: st.DataObject) -> None:
    dtype = DATATYPES[datatype]
    if dtype == "string":
        values: Any = data.draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    else:
        elements: st.SearchStrategy[Any] = st.booleans() if dtype == "bool" else st.integers(0, 100)
        values = data.draw(st.lists(st.floats(0, 1, width=16) if dtype.startswith("float") else elements))
    tensor = {"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}
    answer = asyncio.run(house().post(PATH, {"inputs": [tensor]}))
    (got,) = answer.json()["outputs"]
    assert {**got, "data": None} == {**tensor, "data": None}
    if dtype == "string":
        assert got["data"] == values
    else:
        assert np.array(got["data"], dtype).tobytes() == np.array(values, dtype).tobytes()


fields = st.sampled_from(["inputs", "outputs", "name", "datatype", "shape", "data", "parameters", "id", "FP32", "x"])
bodies = st.recursive(
    fields | st.none() | st.integers(-2, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4),
)


@given(bodies)
@settings(max_examples=100, deadline=None)
def test_any_body_is_an_answer_or_the_callers_fault(body: Any) -> None:
    answer = asyncio.run(house().post(PATH, json.dumps(body).encode()))
    assert answer.status_code in {200, 400}


@pytest.mark.parametrize(
    "named", [{"model_name": "m"}, {"model_name": "alias"}, {"model_name": "m", "model_version": "1"}]
)
async def test_the_body_may_name_the_model_once_more(named: dict[str, str]) -> None:
    answer = await house().post("/v2/models/alias/infer", {"inputs": [GOOD], **named})
    assert (answer.status_code, answer.json()["model_name"]) == (200, "m")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"model_name": "text"}, "model_name is not the model that the URL names"),
        ({"model_version": "2"}, "model_version is not the version that the URL names"),
        ({"model_name": 1}, "model_name must be a string"),
    ],
)
async def test_but_not_another_one(named: dict[str, Any], message: str) -> None:
    client = ScriptedClient()
    answer = await house(client).post(PATH, {"inputs": [GOOD], **named})
    assert (answer.status_code, answer.json()) == (400, {"error": message})
    assert not client.calls


async def test_what_a_tensor_is_anyway_may_be_said_as_mlserver_says_it() -> None:
    texts = {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"], "parameters": {"content_type": "str"}}
    said = {"inputs": [{**GOOD, "parameters": {"content_type": "np"}}, texts], "parameters": {"content_type": "np"}}
    got: list[Any] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        got.append(input_data["parameters"])
        return {"outputs": {}, "parameters": {}}

    assert (await house(ScriptedClient(keep)).post(PATH, said)).status_code == 200
    assert got == [{}]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{**GOOD, "parameters": {"content_type": "str"}}]},
        {"inputs": [{**GOOD, "parameters": {"content_type": "base64"}}]},
        {"inputs": [GOOD], "parameters": {"content_type": "pd"}},
        {"inputs": [GOOD], "parameters": {"content_type": 1}},
    ],
)
async def test_other_content_types_are_refused(body: dict[str, Any]) -> None:
    answer = await house().post(PATH, body)
    assert (answer.status_code, answer.json()) == (400, {"error": "content_type must be np, or str for BYTES"})
