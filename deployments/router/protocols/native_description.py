"""The native protocol described: general paths, and those of every workflow with its own schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    get_operation,
    name_parameter,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.openapi.tensors import data_schema, dtype_schema, names_schema, shape_schema
from workflows.card import Card, TensorSpec

__all__ = ["native_paths", "native_schemas", "workflow_paths"]

_LOCAL: Final = "#/$defs/"


def native_paths(names: Sequence[str]) -> Json:
    """`names`: of workflows that there are."""
    name = [name_parameter(names)]
    base = "/v1/workflows/{name}"
    return {
        "/v1/workflows": {
            "get": get_operation("listWorkflows", "native", "All workflows that this key may use", ref("Workflows"))
        },
        base: {"get": get_operation("getWorkflow", "native", "One workflow with its card", ref("Workflow"), name)},
        f"{base}/inference": {
            "post": post_operation(
                "inference", "native", "The answer to one input, or to each of an array of inputs", {}, {}, name
            )
        },
        f"{base}/stream": {"post": _stream("stream", "native", "The answer chunk by chunk", {}, {}, name)},
    }


def workflow_paths(card: Card, schemas: Json) -> Json:
    """The concrete paths of one workflow; its schemas are added to `schemas`."""
    asked = _adopt(f"{card.name}.input", card.input_schema, schemas)
    answered = _adopt(f"{card.name}.output", card.output_schema, schemas)
    if card.signature is not None:
        _name_inputs(card.signature.inputs, schemas[f"{card.name}.input"])
        _name_outputs(card.signature.outputs, schemas[f"{card.name}.output"])
    member = {"anyOf": [asked, {"description": "What is no input is answered with an error of its own."}]}
    one_or_many = {"anyOf": [asked, {"type": "array", "items": member, "minItems": 1}]}
    result_or_results = {"anyOf": [answered, {"type": "array", "items": {"anyOf": [answered, ref("NativeError")]}}]}
    base = f"/v1/workflows/{card.name}"
    summary = card.summary or f"Ask {card.name}"
    paths = {
        f"{base}/inference": {
            "post": post_operation(f"inference_{card.name}", card.name, summary, one_or_many, result_or_results)
        }
    }
    if card.chunk_schema is not None:
        chunk = _adopt(f"{card.name}.chunk", card.chunk_schema, schemas)
        paths[f"{base}/stream"] = {"post": _stream(f"stream_{card.name}", card.name, summary, asked, chunk)}
    return paths


def _stream(
    operation: str, tag: str, summary: str, asked: Json, chunk: Json, parameters: list[Json] | None = None
) -> Json:
    end = {"end": "at last `data: [DONE]`", "mark": "[DONE]"}
    return stream_operation(operation, tag, summary, asked, chunk, parameters, **end)


def native_schemas() -> Json:
    text: Json = {"type": "string"}
    error = closed({"code": text, "message": text, "request_id": text, "retryable": {"type": "boolean"}})
    workflow = closed(
        {
            "name": text,
            "state": {"enum": ["loading", "ready", "failed", "stopping", "unloaded"]},
            "reason": text,
            "card": {"type": ["object", "null"]},
        }
    )
    return {
        "NativeError": closed({"error": error}),
        "Workflow": workflow,
        "Workflows": closed({"workflows": {"type": "array", "items": ref("Workflow")}}),
    }


def _adopt(name: str, schema: Json, schemas: Json) -> Json:
    """Put a card's schema, whose definitions are its own, among the document's; returns the reference to it."""

    def placed(definition: str) -> str:
        return f"{name}.{re.sub(r'[^A-Za-z0-9._-]', '_', definition)}"

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(part) for key, part in value.items() if key != "$defs"}
        if isinstance(value, list):
            return [moved(part) for part in value]
        if isinstance(value, str) and value.startswith(_LOCAL):
            return f"#/components/schemas/{placed(value.removeprefix(_LOCAL))}"
        return value

    for definition, content in schema.get("$defs", {}).items():
        schemas[placed(definition)] = moved(content)
    schemas[name] = moved(schema)
    return ref(name)


# ---- tensor models, which know their inputs and outputs by name ---------------------------------------------------------


def _name_inputs(specs: Sequence[TensorSpec], schema: Json) -> None:
    """Put exactly these tensors into the schema of `Tensors`; one that says something else is left as it is."""
    if specs and "inputs" in schema.get("properties", {}):
        schema["properties"]["inputs"] = closed({spec.name: _tensor(spec, answered=False) for spec in specs})


def _name_outputs(specs: Sequence[TensorSpec], schema: Json) -> None:
    """The same for `TensorsResult`. Outputs that are not given unasked may be asked for: those are tensors of any kind."""
    declared = schema.get("properties", {}).get("outputs")
    if not isinstance(declared, dict):
        return
    for spec in specs:
        said = names_schema(spec.name)
        group, name = ("patternProperties", said["pattern"]) if "pattern" in said else ("properties", spec.name)
        declared.setdefault(group, {})[name] = _tensor(spec, answered=True)


def _tensor(spec: TensorSpec, *, answered: bool) -> Json:
    return closed(
        {
            "dtype": dtype_schema(spec.dtype),
            "shape": shape_schema(spec.shape, answered=answered),
            "data": data_schema(spec.dtype, spec.shape, nested=not answered),
        }
    )
