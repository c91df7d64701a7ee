"""Requests of Text Generation Inference's clients: what they ask of a workflow, and all that is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from deployments.router.protocols.tables import NATIVE, TGI
from deployments.router.protocols.tgi.parameters import Parameters, read_request
from tests.router.router_front import Front, ScriptedClient
from tests.router.tgi_front import FEW, Model, chunk, events, house, token
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import BadOutput, InvalidInput, Overloaded, UpstreamFailed, WorkflowError
from workflows.types import Generate
from workflows.types.text import MAX_ALTERNATIVES, MAX_STOP_STRINGS, MAX_TOKENS

CARD = Card(name="m", summary="", kind="generate", input_schema={}, output_schema={})


def asked(body: dict[str, Any], *, streaming: bool = False) -> dict[str, Any]:
    return read_request(CARD, body).input_data(streaming=streaming)


def sampling(**parameters: Any) -> dict[str, Any]:
    found: dict[str, Any] = asked({"inputs": "hi", "parameters": parameters})["sampling"]
    return found


# ---- what is asked of a workflow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {}}, {"parameters": {"seed": None}}])
def test_without_parameters_the_answer_is_greedy_and_has_a_hundred_tokens(parameters: dict[str, Any]) -> None:
    assert asked({"inputs": "hi", **parameters}) == {
        "prompt": "hi",
        "sampling": {"max_tokens": 100, "temperature": 0.0},
    }


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"do_sample": False, "temperature": 0.5}, 0.5),
        ({"temperature": 1}, 0.0),
        ({"temperature": 1.0, "do_sample": True}, 1.0),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"typical_p": 0.5, "temperature": 2}, 2.0),
        ({"repetition_penalty": 1.5, "frequency_penalty": 0.5, "seed": 1}, 0.0),
    ],
)
def test_tokens_are_drawn_where_something_says_so(parameters: dict[str, Any], temperature: float) -> None:
    assert sampling(**parameters)["temperature"] == temperature


def test_everything_that_is_said_arrives() -> None:
    parameters = {
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 10,
        "top_p": 0.9,
        "typical_p": 0.8,
        "repetition_penalty": 1.2,
        "frequency_penalty": -0.5,
        "seed": 3,
        "stop": ["a", "b"],
        "return_full_text": True,
        "truncate": 5,
        "details": True,
        "top_n_tokens": 4,
        "best_of": 1,
        "watermark": False,
        "decoder_input_details": False,
        "grammar": None,
        "adapter_id": None,
    }
    assert set(parameters) == set(Parameters.model_fields)
    body = {"inputs": "hi", "parameters": parameters, "add_special_tokens": True}
    arrived = {
        "prompt": "hi",
        "sampling": {
            "max_tokens": 7,
            "temperature": 0.5,
            "top_k": 10,
            "top_p": 0.9,
            "typical_p": 0.8,
            "repetition_penalty": 1.2,
            "frequency_penalty": -0.5,
            "seed": 3,
            "stop": ["a", "b"],
        },
        "truncate": 5,
        "include_stop": True,
        "top_logprobs": 4,
    }
    assert asked(body) == arrived
    assert asked(body, streaming=True) == arrived


def test_tokens_are_asked_for_where_they_are_told() -> None:
    assert "top_logprobs" not in asked({"inputs": "hi", "parameters": {"top_n_tokens": 2}})
    assert asked({"inputs": "hi", "parameters": {"details": True}})["top_logprobs"] == 0
    assert asked({"inputs": "hi"}, streaming=True)["top_logprobs"] == 0


def test_as_many_tokens_as_there_is_room_for() -> None:
    assert sampling(max_new_tokens=None)["max_tokens"] is None


WIDELY: dict[str, st.SearchStrategy[Any]] = {
    "max_new_tokens": st.integers(-1, MAX_TOKENS + 1),
    "do_sample": st.booleans(),
    "temperature": st.floats(-0.1, 2.1),
    "top_k": st.integers(0, MAX_TOKENS + 1),
    "top_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0, 101),
    "frequency_penalty": st.floats(-2.1, 2.1),
    "seed": st.integers(-1, 1 << 63),
    "stop": st.lists(st.text(max_size=257), max_size=MAX_STOP_STRINGS + 1),
    "truncate": st.integers(0, MAX_TOKENS + 1),
    "details": st.booleans(),
    "top_n_tokens": st.integers(-1, MAX_ALTERNATIVES + 1),
}


@pytest.mark.parametrize("name", WIDELY)
@given(data=st.data(), do_sample=st.booleans(), streaming=st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_is_taken_is_an_input_of_text_workflows(
    name: str, data: st.DataObject, do_sample: bool, streaming: bool
) -> None:
    parameters = {"do_sample": do_sample, name: data.draw(st.none() | WIDELY[name])}
    try:
        plain = asked({"inputs": "hi", "parameters": parameters}, streaming=streaming)
    except InvalidInput:
        return
    Generate.model_validate(plain)


# ---- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tgi/m", "/tgi/m/generate", "/tgi/m/generate_stream"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body must be a JSON object"),
        ("hi", "the body must be a JSON object"),
        ({}, "inputs must be a string with something in it"),
        ({"inputs": ""}, "inputs must be a string with something in it"),
        ({"inputs": ["hi"]}, "inputs must be a string with something in it"),
        ({**FEW, "stream": "yes"}, "stream must be true or false"),
        ({**FEW, "add_special_tokens": False}, "special tokens are always added as the model wants them"),
        ({**FEW, "model": "m"}, "the body: unknown field 'model'"),
        ({**FEW, "parameters": []}, "parameters must be a JSON object"),
        ({**FEW, "parameters": {"max_tokens": 5}}, "parameters: unknown field 'max_tokens'"),
    ],
)
async def test_what_is_no_request_is_refused(path: str, body: Any, message: str) -> None:
    model = Model([chunk("a", token(1, "a"), finish_reason="length")])
    answer = await house(model).post(path, body)
    assert (answer.status_code, answer.json()) == (422, {"error": message, "error_type": "validation"})
    assert not model.seen


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("best_of", 2),
        ("best_of", 0),
        ("best_of", True),
        ("watermark", True),
        ("watermark", 0),
        ("decoder_input_details", True),
        ("grammar", {"type": "regex", "value": "a"}),
        ("adapter_id", "a"),
    ],
)
def test_what_is_not_here_is_refused_by_name(parameter: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"the parameter {parameter} is not supported") as refused:
        sampling(**{parameter: value})
    assert refused.value.param == parameter


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("max_new_tokens", [0, -1, MAX_TOKENS + 1, 1 << 64, True, 5.0, "5"]),
        ("temperature", [0, -1, 0.0, 2.1, 1e300, True, "hot"]),
        ("top_k", [0, -1, True, 1.5]),
        ("top_p", [0, 1, 1.0, -0.5, True]),
        ("typical_p", [0, 1, 1.0, 2]),
        ("repetition_penalty", [0, -1, 1e3]),
        ("frequency_penalty", [-2.1, 2.1, "1"]),
        ("seed", [-1, 1 << 63, 0.5, False]),
        ("stop", ["a", [""], ["a" * 257], [1], ["a"] * (MAX_STOP_STRINGS + 1)]),
        ("return_full_text", [1, "true"]),
        ("do_sample", [1]),
        ("details", [0]),
        ("truncate", [0, MAX_TOKENS + 1, True]),
        ("top_n_tokens", [-1, MAX_ALTERNATIVES + 1]),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(parameter: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidInput) as refused:
            sampling(**{parameter: value})
        assert refused.value.param == parameter
        assert refused.value.message.startswith(parameter)


def test_a_million_unknown_parameters_are_one_error() -> None:
    with pytest.raises(InvalidInput, match="unknown field 'x0'"):
        sampling(**{f"x{number}": number for number in range(1_000_000)})


async def test_a_stream_comes_from_its_own_path() -> None:
    answer = await house().post("/tgi/m/generate", {**FEW, "stream": True})
    assert (answer.status_code, answer.json()["error"]) == (422, "a stream comes from generate_stream")
    assert (await house().post("/tgi/m/generate_stream", {**FEW, "stream": False})).status_code == 200


@pytest.mark.parametrize("path", ["", "/", "/generate", "/generate_stream"])
async def test_workflows_that_there_are_not_or_that_do_something_else(path: str) -> None:
    front = house()
    for name, status, kind, message in (
        ("none", 404, "not_found", "model not found"),
        ("new", 503, "overloaded", "new is loading: downloading"),
        ("tensors", 422, "validation", "this workflow takes tensors inputs, and generates no text"),
    ):
        answer = await front.post(f"/tgi/{name}{path}", FEW)
        assert (answer.status_code, answer.json()) == (status, {"error": message, "error_type": kind})


async def test_a_workflow_that_does_not_stream_says_so() -> None:
    front = Front()
    front.add("m", kind="generate")
    answer = await front.post("/tgi/m/generate_stream", FEW)
    assert (answer.status_code, answer.json()["error"]) == (422, "this workflow does not stream")


# ---- errors -------------------------------------------------------------------------------------------------------------


def test_statuses_are_those_of_all_but_where_this_protocol_has_its_own() -> None:
    own = {code: status for code, status in TGI.statuses.items() if status != NATIVE.statuses[code]}
    assert own == {"parse": 422, "invalid": 422, "context": 422, "overload": 429, "upstream": 424, "bad_output": 424}


@pytest.mark.parametrize("path", ["/tgi/m", "/tgi/m/generate", "/tgi/m/generate_stream"])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidInput("no"), 422, "validation"),
        (Overloaded("no"), 429, "overloaded"),
        (UpstreamFailed("no"), 424, "generation"),
        (BadOutput("no"), 424, "generation"),
        (WorkflowError("secret"), 500, "generation"),
    ],
)
async def test_errors_have_the_types_that_clients_know(path: str, error: WorkflowError, status: int, kind: str) -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        raise error

    async def pieces(input_data: Any) -> Any:
        raise error
        yield

    front = Front()
    front.add("m", ScriptedClient(whole, pieces), kind="generate")
    answer = await front.post(path, FEW)
    message = "internal error" if status == 500 else "no"
    assert (answer.status_code, answer.json()) == (status, {"error": message, "error_type": kind})
    assert ("retry-after" in answer.headers) is isinstance(error, Overloaded)


async def test_the_door_says_what_it_refuses_in_this_protocols_words() -> None:
    front = house(limits={"max_body_bytes": 64})
    for status, kind, options in (
        (422, "validation", {"content": b"{", "headers": {"content-type": "application/json"}}),
        (413, "validation", {"json": {"inputs": "hi" * 64}}),
        (415, "validation", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
    ):
        answer = await front.request("POST", "/tgi/m/generate", **options)
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert (await front.get("/tgi/m/nothing")).json() == {"error": "no such path", "error_type": "not_found"}
    assert (await front.post("/tgi/m/tokenize", FEW)).status_code == 404
    assert (await front.get("/tgi/m/generate")).status_code == 405


# ---- the description ----------------------------------------------------------------------------------------------------


async def test_what_is_described_is_what_is_taken() -> None:
    spec = (await house().get("/openapi.json")).json()
    schema = spec["paths"]["/tgi/{name}/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": spec["components"]})
    assert validator.is_valid({"inputs": "hi", "parameters": {"stop": ["a"], "watermark": False, "grammar": None}})
    for body in ({"inputs": ""}, {**FEW, "parameters": {"watermark": True}}, {**FEW, "stream": True}, {**FEW, "x": 1}):
        assert not validator.is_valid(body)


async def test_the_root_is_described_where_something_is_there() -> None:
    front = house(tgi_root="m")
    spec = (await front.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(spec).validate()
    described = {(method.upper(), path) for path, item in spec["paths"].items() for method in item}
    at_root = {(route.method, route.path) for route in front.app.table.routes if route.path.count("/") == 1}
    assert {("POST", "/"), ("POST", "/generate"), ("GET", "/info"), ("GET", "/health")} <= at_root <= described
    assert spec["paths"]["/health"]["get"]["security"] == [{}]


@pytest.mark.parametrize("parameters", [{}, {"details": True}, {"details": True, "top_n_tokens": 1}])
async def test_answers_are_as_described(parameters: dict[str, Any]) -> None:
    other = {"id": 5, "text": "b", "logprob": -1.5, "special": False}
    front = house(Model([chunk("a", token(1, "a", top=[other]), finish_reason="length")]))
    spec = (await front.get("/openapi.json")).json()
    for path, method in (("/tgi/{name}", "post"), ("/tgi/{name}/generate", "post"), ("/tgi/{name}/info", "get")):
        answer = await front.request(method, path.replace("{name}", "m"), json={**FEW, "parameters": parameters})
        schema = spec["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": spec["components"]}).validate(answer.json())
    streamed = await front.post("/tgi/m/generate_stream", {**FEW, "parameters": parameters})
    event = {"$ref": "#/components/schemas/TgiEvent", "components": spec["components"]}
    for told in events(streamed.text):
        Draft202012Validator(event).validate(told)
