"""One model described: the protocol's routes with this model's own names, datatypes and shapes in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from deployments.router.openapi.parts import Json, ref
from deployments.router.openapi.tensors import data_schema, names_schema, shape_schema
from deployments.router.protocols.open_inference.as_tensors import signature_of
from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY, named
from deployments.router.protocols.open_inference.description import (
    OPTIONS,
    TIMEOUT,
    Described,
    generate_paths,
    generate_request,
    infer_request,
    infer_response,
    input_tensor,
    model_paths,
    wanted_outputs,
)
from deployments.router.protocols.open_inference.metadata import described
from workflows.card import Card, TensorSpec

__all__ = ["has_json_form", "model_base", "one_model_paths"]

_LOCAL: Final = "#/$defs/"


def model_base(card: Card, version: str) -> str:
    """Where a model is asked, with its version in the path if there is one."""
    return f"/v2/models/{card.known_as}/versions/{version}" if version else f"/v2/models/{card.name}"


def one_model_paths(card: Card, version: str, schemas: Json) -> Json:
    """The routes of this model; its schemas are added to `schemas`."""
    base, said = model_base(card, version), Described("", card.name)
    asked, answered = f"{card.name}.InferRequest", f"{card.name}.InferResponse"
    schemas[asked], schemas[answered] = _infer_request(card), _infer_response(card, version)
    paths = model_paths(base, said, ref(asked), ref(answered))
    if not has_json_form(signature_of(card).inputs):
        del paths[f"{base}/infer"]["post"]["requestBody"]["content"]["application/json"]
    about = paths[base]["get"]["responses"]["200"]["content"]["application/json"]
    about["example"] = described(card, [card.version])
    if card.kind == "generate":
        streams = None
        sampling = _sampling(card)
        asked = f"{card.name}.GenerateRequest"
        schemas[asked] = generate_request({**TIMEOUT, "stream": {"const": False}}, sampling)
        if card.streams:
            name = f"{card.name}.GenerateStreamRequest"
            schemas[name] = generate_request({**TIMEOUT, "stream": {"type": "boolean"}}, sampling)
            streams = ref(name)
        paths |= generate_paths(base, said, ref(asked), streams)
    return paths


def has_json_form(specs: Iterable[TensorSpec]) -> bool:
    """Whether the protocol can say all of these tensors in JSON."""
    return all(named(spec.dtype) not in ONLY_BINARY for spec in specs)


def _infer_request(card: Card) -> Json:
    signature = signature_of(card)
    if not signature.inputs:
        return ref("InferRequest")
    inputs = [input_tensor(_tensor(card, spec)) for spec in signature.inputs]
    each: Json = {"type": "array", "items": _any_of(inputs), "minItems": len(inputs), "maxItems": len(inputs)}
    if len(inputs) > 1:
        each["allOf"] = [{"contains": {"properties": {"name": {"const": spec.name}}}} for spec in signature.inputs]
    names = [names_schema(spec.name) for spec in signature.outputs]
    return infer_request(each, wanted_outputs(_any_of(names)), _parameters(card), {"enum": ["", card.version]})


def _infer_response(card: Card, version: str) -> Json:
    signature = signature_of(card)
    if not signature.outputs:
        return ref("InferResponse")
    outputs = [_output(card, spec) for spec in signature.outputs if has_json_form([spec])]
    return infer_response(
        {"const": card.known_as}, {"const": version} if version else {"type": "string"}, _any_of(outputs)
    )


def _output(card: Card, spec: TensorSpec) -> Json:
    fields = {**_tensor(card, spec, answered=True), "name": names_schema(spec.name)}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _tensor(card: Card, spec: TensorSpec, *, answered: bool = False) -> Json:
    """Of workflows that take no tensors, every element is an input of its own, in whatever shape they come."""
    shape = spec.shape if card.kind == "tensors" else []
    datatype: Json = {"const": named(spec.dtype)} if spec.dtype else {"enum": list(DATATYPES)}
    return {
        "name": {"const": spec.name},
        "datatype": datatype,
        "shape": shape_schema(shape, answered=answered),
        "data": data_schema(spec.dtype, shape, nested=not answered),
    }


def _any_of(schemas: list[Json]) -> Json:
    """With no schema at all, nothing."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else {"not": {}}


def _parameters(card: Card) -> Json:
    """Of a tensor model, only the model knows its own."""
    sampling = _sampling(card) if card.kind == "generate" else {}
    known = card.kind != "tensors" and sampling is not None
    return {"type": "object", "properties": {**(sampling or {}), **OPTIONS}, "additionalProperties": not known}


def _sampling(card: Card) -> Json | None:
    """The sampling parameters of a `generate` workflow, as its card has them; None where it does not say."""
    definitions = card.input_schema.get("$defs", {})
    found: Any = card.input_schema.get("properties", {}).get("sampling", {})
    if "$ref" in found:
        found = definitions.get(found["$ref"].removeprefix(_LOCAL), {})
    fields: Json = dict(found.get("properties", {}))
    if not fields or found.get("additionalProperties") is not False or _LOCAL in str(fields):
        return None
    if "stop" in fields:
        fields["stop"] = {"anyOf": [fields["stop"], {"type": "string"}]}
    return fields
