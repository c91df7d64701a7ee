"""The native protocol: general paths, and those of every workflow with its own schemas."""

from __future__ import annotations

import re
from typing import Any, Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    get_operation,
    path_parameter,
    post_operation,
    ref,
    stream_operation,
)
from workflows.card import Card

__all__ = ["native_paths", "native_schemas", "workflow_paths"]

_LOCAL: Final = "#/$defs/"


def native_paths() -> Json:
    name = [path_parameter("name")]
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
        f"{base}/stream": {"post": stream_operation("stream", "The answer chunk by chunk", {}, {}, name)},
    }


def workflow_paths(card: Card, schemas: Json) -> Json:
    """The concrete paths of one workflow; its schemas are added to `schemas`."""
    asked = _adopt(f"{card.name}.input", card.input_schema, schemas)
    answered = _adopt(f"{card.name}.output", card.output_schema, schemas)
    one_or_many = {"anyOf": [asked, {"type": "array", "items": asked, "minItems": 1}]}
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
        paths[f"{base}/stream"] = {
            "post": stream_operation(f"stream_{card.name}", summary, asked, chunk, tag=card.name)
        }
    return paths


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
