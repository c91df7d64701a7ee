"""The description of one model: valid by OpenAPI's own rules, true to the routes, exact in what the model says of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field

from deployments.router.json_body import render_json
from deployments.router.openapi.instances import instance_of
from deployments.router.openapi.tensors import data_schema, element_schema, names_schema, shape_schema
from tests.router.router_front import Front, ScriptedClient
from workflows import types
from workflows.base import BaseInferenceWorkflow
from workflows.card import Signature, TensorSpec
from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, tensor_from_json, tensor_to_json

Json = dict[str, Any]


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=list(shape))


class Pair(BaseInferenceWorkflow[types.Tensors, types.TensorsResult]):
    """Two inputs, of which the second is text; and outputs of which one is a sequence."""

    def do_run_model(self, preprocessed_data: types.Tensors) -> types.TensorsResult:
        x, parts = preprocessed_data.inputs["x"], {}
        if preprocessed_data.outputs is None:
            parts = {"part.0": x, "part.1": x}
        return types.TensorsResult(outputs={"y": x, **parts})

    def signature(self) -> Signature:
        return Signature(
            inputs=[spec("x", "float32", -1, 2), spec("words", "string", 3)],
            outputs=[spec("y", "float32", -1, 2), spec("part.*", "float32", -1, 2)],
        )


class Half(Pair):
    """Takes and gives what JSON has no form for."""

    def signature(self) -> Signature:
        return Signature(inputs=[spec("x", "bfloat16", 2)], outputs=[spec("y", "bfloat16", 2)])


class Chat(BaseInferenceWorkflow[types.Generate, types.Generated, types.TextChunk]):
    """Answers in text."""

    def do_stream(self, preprocessed_data: types.Generate) -> Iterator[types.TextChunk]:
        yield types.TextChunk(text="a")
        usage = types.Usage(prompt_tokens=1, completion_tokens=1)
        yield types.TextChunk(text="", finish_reason="stop", usage=usage)


class Whole(BaseInferenceWorkflow[types.Generate, types.Generated]):
    """Answers in text, at once."""

    def do_run_model(self, preprocessed_data: types.Generate) -> types.Generated:
        return types.Generated(text="a", finish_reason="stop", usage=types.Usage(prompt_tokens=1, completion_tokens=1))


class Place(BaseInferenceWorkflow[types.Embed, types.Embedding]):
    def do_run_model(self, preprocessed_data: types.Embed) -> types.Embedding:
        raise NotImplementedError


class Question(BaseModel):
    words: list[str] = Field(min_length=2, examples=[["a", "b"]])
    most: int = Field(ge=3)


class Own(BaseInferenceWorkflow[list[Question], Question]):
    """Takes an array."""

    def do_run_model(self, preprocessed_data: list[Question]) -> Question:
        return preprocessed_data[0]


WORKFLOWS: dict[str, Callable[[], BaseInferenceWorkflow[Any, Any, Any]]] = {
    "pair": Pair,
    "half": Half,
    "chat": Chat,
    "whole": Whole,
    "place": Place,
    "own": Own,
}
BASES = [f"/v2/models/{name}{version}" for name in WORKFLOWS for version in ("", "/versions/1")]


def house() -> Front:
    made = Front()
    for name, workflow in WORKFLOWS.items():
        made.add(name, ScriptedClient())
        made.directory.find(name).card = workflow().setup().card(name)
    made.add("unsaid", kind="tensors")
    card = made.directory.find("unsaid").card
    assert card is not None
    made.directory.find("unsaid").card = card.model_copy(update={"signature": None})
    return made


async def described(base: str, front: Front | None = None) -> Json:
    answer = await (front or house()).get(f"{base}/openapi.json")
    assert answer.status_code == 200
    found: Json = answer.json()
    return found


def validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def asked(document: Json, path: str) -> Draft202012Validator:
    return validator(document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"])


def answered(document: Json, path: str, method: str = "post", status: int = 200) -> Draft202012Validator:
    content = document["paths"][path][method]["responses"][str(status)]["content"]
    return validator(document, content["application/json"]["schema"])


@pytest.mark.parametrize("base", [*BASES, "/v2/models/unsaid"])
async def test_it_is_valid_openapi_and_nothing_in_it_is_unused(base: str) -> None:
    document = await described(base)
    OpenAPIV31SpecValidator(document).validate()
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text


@pytest.mark.parametrize("base", BASES)
async def test_it_has_the_models_own_routes_and_no_others(base: str) -> None:
    front, name = house(), base.split("/")[3]
    document = await described(base, front)
    kinds = {"chat": ["generate", "generate_stream"], "whole": ["generate"]}
    routes = {base: "get", **{f"{base}/{route}": "get" for route in ("ready", "stats", "openapi.json", "examples")}}
    routes |= {f"{base}/{route}": "post" for route in ["infer", *kinds.get(name, [])]}
    routes |= {f"/v1/workflows/{name}/{way}": "post" for way in ("inference", *(["stream"] if name == "chat" else []))}
    assert {path: method for path, item in document["paths"].items() for method in item} == routes
    for path, method in routes.items():
        assert method.upper() in front.app.table.find(path)[0]


@pytest.mark.parametrize("base", BASES)
async def test_its_examples_fit_its_schemas(base: str) -> None:
    document = await described(base)
    shown = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for said in (operation.get("requestBody", {}), *operation["responses"].values()):
                for media in said.get("content", {}).values():
                    if "example" in media:
                        validator(document, media["schema"]).validate(media["example"])
                        shown += 1
            if method == "post" and "half" not in path:
                assert operation["x-codeSamples"], path
    assert shown >= 2


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"id": "a", "parameters": {"timeout": 5, "binary_data_output": True}, "outputs": [{"name": "part.7"}]}, True),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}], "parameters": None, "id": None}, True),
        ({"model_name": "pair", "model_version": "1"}, True),
        ({"model_version": "2"}, False),
        ({"id": "a" * 257}, False),
        ({"outputs": [{"name": "part"}]}, False),
        ({"outputs": [{"name": "z"}]}, False),
        ({"parameters": {"timeout": 0}}, False),
        ({"parameters": {"sequence_id": 1}}, True),  # only the model knows its parameters
        ({"unknown": 1}, False),
        ({"inputs": []}, False),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 2], "data": []}] * 2}, False),
    ],
)
async def test_a_request_is_told_from_what_is_none(change: Json, fits: bool) -> None:
    body = {
        "inputs": [
            {"name": "words", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]},
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [3, 4]]},
        ]
    }
    assert asked(await described("/v2/models/pair"), "/v2/models/pair/infer").is_valid({**body, **change}) is fits


@pytest.mark.parametrize(
    ("tensor", "change", "fits"),
    [
        (1, {"data": [1, 2, 3, 4]}, True),
        (1, {"shape": [0, 2], "data": []}, True),
        (1, {"parameters": {"content_type": "np"}}, True),
        (1, {"shape": [2, 3]}, False),
        (1, {"shape": [2]}, False),
        (1, {"shape": [2, 2, 1]}, False),
        (1, {"shape": [-1, 2]}, False),
        (1, {"datatype": "FP64"}, False),
        (1, {"name": "y"}, False),
        (1, {"name": "words"}, False),
        (1, {"data": ["1", "2"]}, False),
        (1, {"data": [[1, 2, 3]]}, False),
        (1, {"data": [1e39, 1]}, False),
        (1, {"parameters": {"binary_data_size": 4}}, False),
        (0, {"shape": [2]}, False),
        (0, {"data": ["a"]}, False),
        (0, {"data": [1, 2, 3]}, False),
    ],
)
async def test_a_tensor_is_told_from_what_is_none(tensor: int, change: Json, fits: bool) -> None:
    tensors: list[Json] = [
        {"name": "words", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]},
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [3, 4]]},
    ]
    document = await described("/v2/models/pair")
    tensors[tensor] |= change
    assert asked(document, "/v2/models/pair/infer").is_valid({"inputs": tensors}) is fits
    native = {
        one["name"]: {"dtype": {"FP32": "float32", "BYTES": "string"}.get(one["datatype"]), **one} for one in tensors
    }
    for one in native.values():
        del one["name"], one["datatype"]
    if "parameters" not in change:
        assert asked(document, "/v1/workflows/pair/inference").is_valid({"inputs": native}) is fits


async def test_answers_are_as_described() -> None:
    front = house()
    document = await described("/v2/models/pair", front)

    async def answer(input_data: Any, call: Any) -> Any:
        return Pair().do_run_model(types.Tensors(**input_data)).model_dump()

    front.add("pair", ScriptedClient(answer))
    front.directory.find("pair").card = Pair().setup().card("pair")
    for path in ("/v2/models/pair/infer", "/v1/workflows/pair/inference"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        given = (await front.post(path, body)).json()
        answered(document, path).validate(given)
        assert not answered(document, path).is_valid({**given, "odd": 1})
        outputs = given["outputs"]
        first = outputs[0] if isinstance(outputs, list) else outputs["y"]
        for change in ({"shape": [2]}, {"data": ["a"]}, {"dtype": "float64"}, {"datatype": "FP64"}):
            kept = dict(first)
            first |= change
            assert not answered(document, path).is_valid(given), change
            first.clear()
            first |= kept
        refused = await front.post(path, {})
        assert refused.status_code == 400
        answered(document, path, status=400).validate(refused.json())
    for path in ("/v2/models/pair", "/v2/models/pair/ready"):
        answered(document, path, "get").validate((await front.get(path)).json())


async def test_what_has_no_form_in_json_is_binary_only() -> None:
    document = await described("/v2/models/half")
    infer = document["paths"]["/v2/models/half/infer"]["post"]
    assert list(infer["requestBody"]["content"]) == ["application/octet-stream"]
    assert not answered(document, "/v2/models/half/infer").is_valid(
        {
            "model_name": "half",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "BF16", "shape": [2], "data": [1, 2]}],
        }
    )
    example = document["paths"]["/v1/workflows/half/inference"]["post"]["requestBody"]["content"]["application/json"]
    assert example["example"] == {"inputs": {"x": {"dtype": "bfloat16", "shape": [2], "data": [0.5, 0.5]}}}


async def test_texts_bring_their_sampling_along() -> None:
    document = await described("/v2/models/chat")
    generate, stream = (asked(document, f"/v2/models/chat/{way}") for way in ("generate", "generate_stream"))
    text = {"text_input": "a", "parameters": {"max_tokens": 5, "stop": "x", "timeout": 9}}
    assert generate.is_valid(text)
    assert not generate.is_valid({"text_input": "a", "parameters": {"max_tokens": 0}})
    assert not generate.is_valid({"text_input": "a", "parameters": {"best_of": 2}})
    streaming = {"text_input": "a", "parameters": {"stream": True}}
    assert (generate.is_valid(streaming), stream.is_valid(streaming)) == (False, True)
    infer = asked(document, "/v2/models/chat/infer")
    inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}]
    assert infer.is_valid({"inputs": inputs, "parameters": {"max_tokens": 5}})
    assert not infer.is_valid({"inputs": inputs, "parameters": {"best_of": 5}})
    place = asked(await described("/v2/models/place"), "/v2/models/place/infer")
    assert not place.is_valid({"inputs": [{**inputs[0], "name": "text"}], "parameters": {"max_tokens": 5}})


async def test_an_array_as_input_is_a_batchs_member() -> None:
    document = await described("/v2/models/own")
    content = document["paths"]["/v1/workflows/own/inference"]["post"]["requestBody"]["content"]["application/json"]
    assert content["example"] == [[{"words": ["a", "b"], "most": 3}]]
    infer = document["paths"]["/v2/models/own/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert infer["example"]["inputs"][0]["data"] == ['[{"words":["a","b"],"most":3}]']


# ---- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_are_told_apart(dtype: str) -> None:
    kinds = {"b": True, "i": 1, "u": 1, "f": 0.5, "O": "a"}
    fits = Draft202012Validator(element_schema(dtype))
    for kind, value in kinds.items():
        own = "f" if dtype == "bfloat16" else DTYPES[dtype].kind
        assert fits.is_valid(value) is (kind == own or (own == "f" and kind in "iu") or {kind, own} == {"i", "u"})


@pytest.mark.parametrize("dtype", [name for name in DTYPES if "float" in name])
def test_the_largest_number_is_the_one_that_is_taken_and_given(dtype: str) -> None:
    fits = Draft202012Validator(element_schema(dtype))
    bound = element_schema(dtype).get("exclusiveMaximum", math.inf)
    largest = math.nextafter(bound, 0)
    array = tensor_from_json("x", dtype, [1], [largest])
    given = json.loads(render_json(tensor_to_json(array)["data"]))[0]
    assert fits.is_valid(largest)
    assert fits.is_valid(given)
    assert not fits.is_valid(bound) or bound == math.inf
    with pytest.raises(InvalidInput):
        tensor_from_json("x", dtype, [1], [bound])


def test_a_scalar_and_an_unknown_rank_look_the_same() -> None:
    for shape in ([], [3], [2, 2]):
        assert Draft202012Validator(shape_schema([])).is_valid(shape)
    assert Draft202012Validator(data_schema("int8", [])).is_valid([1])
    assert Draft202012Validator(data_schema("int8", [])).is_valid([[1], [2]])


def test_the_parts_of_a_sequence_are_named_by_numbers() -> None:
    names = Draft202012Validator(names_schema("a.b$.*"))
    assert [name for name in ("a.b$.0", "a.b$.12", "a.b$.01", "axb$.0", "a.b$.", "a.b$") if names.is_valid(name)] == [
        "a.b$.0",
        "a.b$.12",
    ]


class Leaf(BaseModel):
    text: str = Field(min_length=9)
    short: str = Field(max_length=2)
    at_least: float = Field(ge=2.5)
    above: float = Field(gt=0, lt=0.25)
    eighths: int = Field(gt=8, multiple_of=8)
    below: int = Field(lt=-5)


class Tree(BaseModel):
    leaf: Leaf | None
    leaves: list[Leaf] = Field(min_length=2)
    pair: tuple[int, str]
    anything: Any
    table: dict[str, int]
    flag: bool
    child: Tree | None = None
    shown: str = Field(pattern="^x+$", examples=["xx"])


@pytest.mark.parametrize(
    "model", [Leaf, Tree, types.Message, types.Embed, types.Generate, types.Usage, types.TextChunk]
)
def test_instances_fit(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    made = instance_of(schema)
    Draft202012Validator(schema).validate(made)
    model.model_validate_json(json.dumps(made))
