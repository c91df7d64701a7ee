"""The Open Inference Protocol: paths and schemas."""

from __future__ import annotations

from typing import Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    get_operation,
    json_response,
    path_parameter,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.protocols.open_inference.datatypes import DATATYPES

__all__ = ["open_inference_paths", "open_inference_schemas"]

_TAG: Final = "open inference"
_ERROR: Final = "OpenInferenceError"
_BINARY_FORM: Final = (
    "In binary form, the tensors' bytes follow the JSON in the order of their names; the header"
    " `inference-header-content-length` says how long the JSON is, and each tensor's `binary_data_size`"
    " how many bytes are its own."
)
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_ANYTHING: Final[Json] = {"type": "object"}


def open_inference_paths() -> Json:
    server = get_operation("serverMetadata", _TAG, "The server's name and version", ref("ServerMetadata"))
    paths: Json = {"/v2": {"get": server}, **_repository_paths()}
    for base, names, suffix in (
        ("/v2/models/{name}", ["name"], ""),
        ("/v2/models/{name}/versions/{version}", ["name", "version"], "Version"),
    ):
        params = [path_parameter(name) for name in names]
        paths |= _model_paths(base, f"model{suffix}", params) | _generate_paths(base, f"model{suffix}", params)
    return paths


def _model_paths(base: str, operation: str, params: list[Json]) -> Json:
    metadata = get_operation(
        f"{operation}Metadata", _TAG, "A model's inputs and outputs", ref("ModelMetadata"), params, _ERROR
    )
    ready = get_operation(f"{operation}Ready", _TAG, "Whether it can answer", ref("ModelReady"), params, _ERROR)
    ready["responses"]["503"] = json_response("Not ready.", ref("ModelReady"))
    infer = post_operation(
        f"{operation}Infer", _TAG, "Tensors in, tensors out", ref("InferRequest"), ref("InferResponse"), params, _ERROR
    )
    binary: Json = {"schema": {"type": "string", "format": "binary"}}
    infer["requestBody"]["content"]["application/octet-stream"] = binary
    infer["responses"]["200"]["content"]["application/octet-stream"] = binary
    infer["description"] = _BINARY_FORM
    return {
        base: {"get": metadata},
        f"{base}/ready": {"get": ready},
        f"{base}/infer": {"post": infer},
    }


def _generate_paths(base: str, operation: str, params: list[Json]) -> Json:
    asked, answer = ref("GenerateRequest"), ref("GenerateResponse")
    whole = post_operation(f"{operation}Generate", _TAG, "Text in, text out", asked, answer, params, _ERROR)
    stream = stream_operation(
        f"{operation}GenerateStream",
        "Text in, text out, piece by piece",
        asked,
        ref("GenerateEvent"),
        params,
        _TAG,
        error=_ERROR,
        end='the last one has `"done": true`',
    )
    return {f"{base}/generate": {"post": whole}, f"{base}/generate_stream": {"post": stream}}


def _repository_paths() -> Json:
    params = [path_parameter("name")]
    index = post_operation(
        "repositoryIndex", _TAG, "The models there are", ref("IndexRequest"), ref("Index"), None, _ERROR
    )
    load = post_operation(
        "modelLoad",
        _TAG,
        "Set a model up again in every replica (operators)",
        ref("LoadRequest"),
        ref("Nothing"),
        params,
        _ERROR,
    )
    unload = post_operation(
        "modelUnload",
        _TAG,
        "Tear a model down in every replica, after its requests in flight (operators)",
        ref("UnloadRequest"),
        ref("Nothing"),
        params,
        _ERROR,
    )
    for operation in (index, load, unload):
        operation["requestBody"]["required"] = False
    return {
        "/v2/repository/index": {"post": index},
        "/v2/repository/models/{name}/load": {"post": load},
        "/v2/repository/models/{name}/unload": {"post": unload},
    }


def open_inference_schemas() -> Json:
    return {
        "OpenInferenceError": closed({"error": _TEXT}),
        "ServerMetadata": closed({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}),
        **_model_schemas(),
        **_infer_schemas(),
        **_generate_schemas(),
        **_repository_schemas(),
    }


def _model_schemas() -> Json:
    shape: Json = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    tensors: Json = {"type": "array", "items": closed({"name": _TEXT, "datatype": _TEXT, "shape": shape})}
    metadata = {
        "name": _TEXT,
        "versions": {"type": "array", "items": _TEXT},
        "platform": _TEXT,
        "inputs": tensors,
        "outputs": tensors,
    }
    return {"ModelReady": closed({"name": _TEXT, "ready": {"type": "boolean"}}), "ModelMetadata": closed(metadata)}


def _infer_schemas() -> Json:
    shape: Json = {"type": "array", "items": _COUNT}
    named: Json = {"name": _TEXT, "datatype": {"enum": list(DATATYPES)}, "shape": shape}
    data: Json = {"type": "array"}
    # In binary form, parameters say how many bytes there are, and data is not there.
    asked = closed({**named, "data": data, "parameters": _ANYTHING}, named)
    answered = closed({**named, "data": data, "parameters": _ANYTHING}, named)
    wanted = closed({"name": _TEXT, "parameters": _ANYTHING}, ["name"])
    request = {
        "id": _TEXT,
        "model_name": _TEXT,
        "model_version": _TEXT,
        "parameters": _ANYTHING,
        "inputs": {"type": "array", "minItems": 1, "items": asked},
        "outputs": {"type": "array", "items": wanted},
    }
    response = {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "id": _TEXT,
        "parameters": _ANYTHING,
        "outputs": {"type": "array", "items": answered},
    }
    return {
        "InferRequest": closed(request, ["inputs"]),
        "InferResponse": closed(response, ["model_name", "model_version", "outputs"]),
    }


def _generate_schemas() -> Json:
    said: Json = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "text_output": _TEXT}
    request = {"id": _TEXT, "text_input": _TEXT, "parameters": _ANYTHING}
    whole = [name for name in said if name != "id"]
    return {
        "GenerateRequest": closed(request, ["text_input"]),
        "GenerateResponse": closed({**said, "finish_reason": _TEXT}, [*whole, "finish_reason"]),
        "GenerateEvent": closed({**said, "done": {"type": "boolean"}, "finish_reason": _TEXT}, [*whole, "done"]),
    }


def _repository_schemas() -> Json:
    model = closed(
        {"name": _TEXT, "version": _TEXT, "state": {"enum": ["READY", "LOADING", "UNAVAILABLE"]}, "reason": _TEXT}
    )
    flag: Json = {"type": "boolean"}
    return {
        "IndexRequest": closed({"ready": flag}, []),
        "Index": {"type": "array", "items": model},
        "LoadRequest": closed({"parameters": closed({})}, []),
        "UnloadRequest": closed({"parameters": closed({"unload_dependents": flag}, [])}, []),
        "Nothing": closed({}),
    }
