"""The OpenAPI 3.1 document of the router, built from cards, and a page that fetches it from here and shows it.

The general paths (`/v1/workflows/{name}/inference`) are always there; every workflow that was ready once adds concrete
ones with its own schemas.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from deployments.router.directory import Entry
from deployments.router.protocols.open_inference.datatypes import DATATYPES
from deployments.router.protocols.open_inference.metadata import own_version
from deployments.router.request import Reply
from workflows.card import Card

__all__ = ["document", "page"]

Json = dict[str, Any]

_LOCAL: Final = "#/$defs/"
_MEANINGS: Final = {
    "400": "Not a valid request: its HTTP, its JSON, or its input.",
    "401": "A valid API key is needed.",
    "403": "This needs an operator's API key, or callers from elsewhere need one.",
    "404": "There is no such workflow, or not for this API key.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "414": "The URL is too long.",
    "415": "The body is not application/json, or compressed.",
    "421": "This server does not answer to that host name.",
    "429": "The rate limit is used up; see Retry-After.",
    "431": "The request headers are too large.",
    "500": "A fault of the server, or an output that cannot be passed on.",
    "502": "A remote model failed.",
    "503": "Overloaded, or not ready yet; see Retry-After.",
    "504": "The deadline has passed.",
}
_OF_A_GET: Final = ("400", "401", "403", "404", "408", "414", "421", "431", "500", "503")
_PUBLIC: Final[list[Json]] = [{}]


def document(entries: Iterable[Entry]) -> Json:
    """The API as these workflows make it."""
    schemas = _schemas()
    paths = {**_native_paths(), **_open_inference_paths(), **_operation_paths()}
    for entry in entries:
        if entry.card is not None:
            paths.update(_workflow_paths(entry.card, schemas))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "infernet-serve",
            "version": own_version(),
            "description": "Inference workflows behind one router. Every answer has an x-request-id.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def page() -> Reply:
    """One HTML page that knows nothing by itself, the same for everybody: a browser sends no key when it opens a page.

    It fetches the description, with a key that its reader types in where one is needed; its policy allows nothing else.
    """
    script, style = _asset("docs.js"), _asset("docs.css")
    html = (
        b'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>infernet-serve</title><style>%b</style></head>'
        b'<body><main id="api"></main><script>%b</script></body></html>'
    ) % (style, script)
    policy = (
        f"default-src 'none'; script-src '{_source(script)}'; style-src '{_source(style)}'; "
        "connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]
    return Reply(200, html, headers)


def _asset(name: str) -> bytes:
    return files("deployments.router").joinpath("page", name).read_bytes()


def _source(content: bytes) -> str:
    return "sha256-" + base64.b64encode(sha256(content).digest()).decode()


# ---- paths -------------------------------------------------------------------------------------------------------------


def _native_paths() -> Json:
    name = [_path_parameter("name")]
    base = "/v1/workflows/{name}"
    return {
        "/v1/workflows": {
            "get": _get("listWorkflows", "native", "All workflows that this key may use", _ref("Workflows"))
        },
        base: {"get": _get("getWorkflow", "native", "One workflow with its card", _ref("Workflow"), name)},
        f"{base}/inference": {
            "post": _post(
                "inference", "native", "The answer to one input, or to each of an array of inputs", {}, {}, name
            )
        },
        f"{base}/stream": {"post": _post_stream("stream", "The answer chunk by chunk", {}, {}, name)},
    }


def _workflow_paths(card: Card, schemas: Json) -> Json:
    """The concrete paths of one workflow; its schemas are added to `schemas`."""
    asked = _adopt(f"{card.name}.input", card.input_schema, schemas)
    answered = _adopt(f"{card.name}.output", card.output_schema, schemas)
    one_or_many = {"anyOf": [asked, {"type": "array", "items": asked, "minItems": 1}]}
    result_or_results = {"anyOf": [answered, {"type": "array", "items": {"anyOf": [answered, _ref("NativeError")]}}]}
    base = f"/v1/workflows/{card.name}"
    summary = card.summary or f"Ask {card.name}"
    paths = {
        f"{base}/inference": {
            "post": _post(f"inference_{card.name}", card.name, summary, one_or_many, result_or_results)
        }
    }
    if card.chunk_schema is not None:
        chunk = _adopt(f"{card.name}.chunk", card.chunk_schema, schemas)
        paths[f"{base}/stream"] = {"post": _post_stream(f"stream_{card.name}", summary, asked, chunk, tag=card.name)}
    return paths


def _open_inference_paths() -> Json:
    tag = "open inference"
    paths: Json = {"/v2": {"get": _get("serverMetadata", tag, "The server's name and version", _ref("ServerMetadata"))}}
    for base, names, suffix in (
        ("/v2/models/{name}", ["name"], ""),
        ("/v2/models/{name}/versions/{version}", ["name", "version"], "Version"),
    ):
        params = [_path_parameter(name) for name in names]
        error = "OpenInferenceError"
        paths[base] = {
            "get": _get(
                f"model{suffix}Metadata", tag, "A model's inputs and outputs", _ref("ModelMetadata"), params, error
            )
        }
        ready = _get(f"model{suffix}Ready", tag, "Whether it can answer", _ref("ModelReady"), params, error)
        ready["responses"]["503"] = _json_response("Not ready.", _ref("ModelReady"))
        paths[f"{base}/ready"] = {"get": ready}
        infer = _post(
            f"model{suffix}Infer",
            tag,
            "Tensors in, tensors out",
            _ref("InferRequest"),
            _ref("InferResponse"),
            params,
            error,
        )
        binary: Json = {"schema": {"type": "string", "format": "binary"}}
        infer["requestBody"]["content"]["application/octet-stream"] = binary
        infer["responses"]["200"]["content"]["application/octet-stream"] = binary
        infer["description"] = (
            "In binary form, the tensors' bytes follow the JSON in the order of their names; the header"
            " `inference-header-content-length` says how long the JSON is, and each tensor's `binary_data_size`"
            " how many bytes are its own."
        )
        paths[f"{base}/infer"] = {"post": infer}
    return paths


def _operation_paths() -> Json:
    text: Json = {"type": "string"}
    paths: Json = {}
    for path, operation, summary, schema in (
        ("/v2/health/live", "serverLive", "Whether the router lives", {"type": "object"}),
        ("/v2/health/ready", "serverReady", "Whether the router can answer", {"type": "object"}),
        ("/health", "health", "Whether the router can answer", {"type": "object"}),
        ("/-/healthz", "healthz", "The same in one word", text),
        ("/-/routes", "routes", "What is mounted where (operators)", {"type": "object"}),
        ("/metrics", "metrics", "Prometheus metrics (operators)", text),
        ("/openapi.json", "openapi", "This document", {"type": "object"}),
        ("/docs", "docs", "A page that shows this document", text),
    ):
        get = _get(operation, "operations", summary, schema)
        if path in ("/v2/health/live", "/v2/health/ready", "/health", "/-/healthz"):
            get["security"] = _PUBLIC
            get["responses"] = {status: get["responses"][status] for status in ("200", "503")}
            get["responses"]["503"] = {"description": "Not ready, or draining."}
        elif path == "/docs":
            get["security"] = _PUBLIC
            get["responses"] = {"200": get["responses"]["200"]}
        if schema is text:
            media = "text/html" if path == "/docs" else "text/plain"
            get["responses"]["200"] = {"description": "OK", "content": {media: {"schema": text}}}
        paths[path] = {"get": get}
    return paths


# ---- parts -------------------------------------------------------------------------------------------------------------


def _get(
    operation: str,
    tag: str,
    summary: str,
    answer: Json,
    parameters: list[Json] | None = None,
    error: str = "NativeError",
) -> Json:
    return {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "parameters": parameters or [],
        "responses": {"200": _json_response("OK", answer), **_errors(_OF_A_GET, error)},
    }


def _post(
    operation: str,
    tag: str,
    summary: str,
    asked: Json,
    answer: Json,
    parameters: list[Json] | None = None,
    error: str = "NativeError",
) -> Json:
    deadline = {
        "name": "x-deadline-s",
        "in": "header",
        "description": "Seconds after which the answer is of no use any more; may only shorten the server's own limit.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
    return {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "parameters": [*(parameters or []), deadline],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": _json_response("OK", answer), **_errors(_MEANINGS, error)},
    }


def _post_stream(
    operation: str, summary: str, asked: Json, chunk: Json, parameters: list[Json] | None = None, tag: str = "native"
) -> Json:
    post = _post(operation, tag, summary, asked, {}, parameters)
    post["responses"]["200"] = {
        "description": "Events `data: {chunk}`, at last `data: [DONE]`. An error after the first chunk is an event "
        '`data: {"error": {...}}`, and then the end mark is missing.',
        "content": {"text/event-stream": {"schema": {"type": "string"}, "x-event-schema": chunk}},
    }
    return post


def _json_response(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(statuses: Iterable[str], schema: str) -> Json:
    return {status: _json_response(_MEANINGS[status], _ref(schema)) for status in statuses}


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


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
    return _ref(name)


def _closed(properties: Json, required: Iterable[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _schemas() -> Json:
    text: Json = {"type": "string"}
    numbers: Json = {"type": "array", "items": {"type": "integer"}}
    anything: Json = {"type": "object"}
    datatype: Json = {"enum": list(DATATYPES)}
    tensor = _closed({"name": text, "datatype": datatype, "shape": numbers, "data": {"type": "array"}})
    asked = _closed(
        {**tensor["properties"], "parameters": anything},
        ["name", "datatype", "shape", "data"],
    )
    spec = _closed({"name": text, "datatype": text, "shape": numbers})
    error = _closed({"code": text, "message": text, "request_id": text, "retryable": {"type": "boolean"}})
    workflow = _closed(
        {
            "name": text,
            "state": {"enum": ["loading", "ready", "failed", "stopping"]},
            "reason": text,
            "card": {"type": ["object", "null"]},
        }
    )
    wanted = _closed({"name": text, "parameters": anything}, ["name"])
    return {
        "NativeError": _closed({"error": error}),
        "OpenInferenceError": _closed({"error": text}),
        "Workflow": workflow,
        "Workflows": _closed({"workflows": {"type": "array", "items": _ref("Workflow")}}),
        "ServerMetadata": _closed({"name": text, "version": text, "extensions": {"type": "array", "items": text}}),
        "ModelReady": _closed({"name": text, "ready": {"type": "boolean"}}),
        "ModelMetadata": _closed(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array", "items": spec},
                "outputs": {"type": "array", "items": spec},
            }
        ),
        "InferRequest": _closed(
            {
                "id": text,
                "parameters": anything,
                "inputs": {"type": "array", "minItems": 1, "items": asked},
                "outputs": {"type": "array", "items": wanted},
            },
            ["inputs"],
        ),
        "InferResponse": _closed(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": anything,
                "outputs": {"type": "array", "items": tensor},
            },
            ["model_name", "model_version", "outputs"],
        ),
    }
