"""The Open Inference Protocol described: its routes for any model. Of one model, `model_description` says more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    get_operation,
    json_response,
    name_parameter,
    or_null,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY
from deployments.router.protocols.open_inference.inference import MAX_ID_CHARS, MAX_TENSORS, RESERVED

__all__ = [
    "ERROR",
    "OPTIONS",
    "TAG",
    "TIMEOUT",
    "Described",
    "generate_paths",
    "generate_request",
    "infer_request",
    "infer_response",
    "input_tensor",
    "model_paths",
    "open_inference_paths",
    "open_inference_schemas",
    "wanted_outputs",
]

TAG: Final = "open inference"
ERROR: Final = "OpenInferenceError"
TIMEOUT: Final[Json] = {
    "timeout": {
        "type": "integer",
        "minimum": 1,
        "description": "Microseconds; may only shorten the server's own limit.",
    }
}
OPTIONS: Final[Json] = {
    **TIMEOUT,
    "content_type": {"enum": ["np", "str"], "description": "As MLServer's clients say it; changes nothing."},
    "binary_data_output": {
        "type": "boolean",
        "description": "Whether outputs are answered in binary form, those that are not said otherwise.",
    },
}
_BINARY_FORM: Final = (
    "In binary form (application/octet-stream), the tensors' bytes follow the JSON, little-endian and row-major, in the"
    " order of their names. The header `inference-header-content-length` says how many bytes the JSON has; in place of"
    " `data`, a tensor has `parameters` with `binary_data_size`, the number of its bytes. An element of BYTES is its"
    " length in four bytes and then itself. Answers have the same form where `binary_data_output` or an output's"
    " `binary_data` asks for it."
)
_JSON_SIZE: Final[Json] = {
    "name": "inference-header-content-length",
    "in": "header",
    "description": "How many bytes of the body are JSON; all of them if it is not there.",
    "schema": {"type": "integer", "minimum": 1},
}
_TEXT: Final[Json] = {"type": "string"}
_ID: Final[Json] = {"type": "string", "maxLength": MAX_ID_CHARS, "description": "Repeated in the answer."}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_BYTES: Final[Json] = {"schema": {"type": "string", "format": "binary"}}
_ANYTHING: Final[Json] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Described:
    """How operations on a model, or on any, are called and grouped, and the parameters of their paths."""

    prefix: str
    tag: str = TAG
    params: Sequence[Json] = field(default_factory=tuple)

    def id(self, name: str) -> str:
        return f"{self.prefix}{name}"


def open_inference_paths(names: Sequence[str], versions: Sequence[str]) -> Json:
    """Names and versions of models that there are."""
    about = "The server's name and version"
    server = get_operation("serverMetadata", TAG, about, ref("ServerMetadata"), error=ERROR)
    paths: Json = {"/v2": {"get": server}}
    name = name_parameter(names)
    version = _version_parameter(versions)
    for base, said in (
        ("/v2/models/{name}", Described("model", params=[name])),
        ("/v2/models/{name}/versions/{version}", Described("modelVersion", params=[name, version])),
    ):
        paths |= model_paths(base, said, ref("InferRequest"), ref("InferResponse"))
        paths |= generate_paths(base, said, ref("GenerateRequest"), ref("GenerateStreamRequest"))
    return paths


def _version_parameter(versions: Sequence[str]) -> Json:
    schema: Json = {"type": "string", "enum": list(versions)} if versions else _TEXT
    about = "One of those that the model's metadata names."
    return {"name": "version", "in": "path", "required": True, "description": about, "schema": schema}


def model_paths(base: str, said: Described, asked: Json, answered: Json) -> Json:
    """What every model has; its `infer` takes `asked` and gives `answered`, as JSON."""
    params = list(said.params)
    infer = post_operation(said.id("Infer"), said.tag, "Tensors in, tensors out", asked, answered, params, ERROR)
    infer["parameters"].append(_JSON_SIZE)
    infer["requestBody"]["content"]["application/octet-stream"] = _BYTES
    infer["responses"]["200"]["content"]["application/octet-stream"] = _BYTES
    infer["description"] = _BINARY_FORM
    about = get_operation(
        said.id("Metadata"), said.tag, "A model's inputs and outputs", ref("ModelMetadata"), params, ERROR
    )
    ready = get_operation(said.id("Ready"), said.tag, "Whether it can answer", ref("ModelReady"), params, ERROR)
    ready["responses"]["503"] = json_response("Not ready.", {"anyOf": [ref("ModelReady"), ref(ERROR)]})
    stats = get_operation(
        said.id("Statistics"), said.tag, "What its replicas have done", ref("Statistics"), params, ERROR
    )
    return {
        base: {"get": about},
        f"{base}/ready": {"get": ready},
        f"{base}/stats": {"get": stats},
        f"{base}/infer": {"post": infer},
        **_about_paths(base, said),
    }


def _about_paths(base: str, said: Described) -> Json:
    """The model's own description, and its examples."""
    params = list(said.params)
    document = get_operation(
        said.id("Openapi"), said.tag, "The model's own description, in OpenAPI", _ANYTHING, params, ERROR
    )
    examples = get_operation(
        said.id("Examples"), said.tag, "Commands and programs that ask this model, to copy", _TEXT, params, ERROR
    )
    examples["responses"]["200"] = {"description": "OK", "content": {"text/markdown": {"schema": _TEXT}}}
    return {f"{base}/openapi.json": {"get": document}, f"{base}/examples": {"get": examples}}


def generate_paths(base: str, said: Described, asked: Json, asked_to_stream: Json | None) -> Json:
    """Of a model that generates text; None where it does not stream."""
    answer = ref("GenerateResponse")
    params = list(said.params)
    whole = post_operation(said.id("Generate"), said.tag, "Text in, text out", asked, answer, params, ERROR)
    paths: Json = {f"{base}/generate": {"post": whole}}
    if asked_to_stream is not None:
        stream = stream_operation(
            said.id("GenerateStream"),
            said.tag,
            "Text in, text out, piece by piece",
            asked_to_stream,
            ref("GenerateEvent"),
            params,
            ERROR,
            end='the last one has `"done": true`',
        )
        paths[f"{base}/generate_stream"] = {"post": stream}
    return paths


# ---- schemas -----------------------------------------------------------------------------------------------------------


def open_inference_schemas() -> Json:
    said: Json = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "text_output": _TEXT}
    whole = [name for name in said if name != "id"]
    datatypes = [datatype for datatype in DATATYPES if datatype not in ONLY_BINARY]
    tensor = {"name": _TEXT, "datatype": {"enum": datatypes}, "shape": {"type": "array", "items": _COUNT}}
    data: Json = {"data": {"type": "array"}}
    named: Json = {"name": {"type": "string", "minLength": 1}}
    return {
        ERROR: closed({"error": _TEXT}),
        "ServerMetadata": closed({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}),
        "ModelReady": closed({"name": _TEXT, "ready": {"type": "boolean"}}),
        "ModelMetadata": _metadata(),
        "InferRequest": infer_request(
            {
                "type": "array",
                "items": input_tensor({**tensor, **named, **data}),
                "minItems": 1,
                "maxItems": MAX_TENSORS,
            },
            wanted_outputs(named["name"]),
            _open_parameters(OPTIONS),
        ),
        "InferResponse": infer_response(_TEXT, _TEXT, closed({**tensor, **data})),
        "GenerateRequest": generate_request({**TIMEOUT, "stream": {"const": False}}, None),
        "GenerateStreamRequest": generate_request({**TIMEOUT, "stream": {"type": "boolean"}}, None),
        "GenerateResponse": closed({**said, "finish_reason": _TEXT}, [*whole, "finish_reason"]),
        "GenerateEvent": closed({**said, "done": {"type": "boolean"}, "finish_reason": _TEXT}, [*whole, "done"]),
    }


def infer_request(inputs: Json, outputs: Json, parameters: Json, version: Json = _TEXT) -> Json:
    return closed(
        {
            "id": or_null(_ID),
            "model_name": or_null({**_TEXT, "description": "If it is there, the one in the path."}),
            "model_version": or_null({**version, "description": "If it is there, the one in the path."}),
            "parameters": or_null(parameters),
            "inputs": inputs,
            "outputs": or_null(outputs),
        },
        ["inputs"],
    )


def input_tensor(fields: Mapping[str, Json]) -> Json:
    """A tensor as JSON; the other parameters that there are belong to the binary form."""
    parameters = or_null(closed({"content_type": {"enum": ["np", "str"]}}, []))
    return closed({**fields, "parameters": parameters}, list(fields))


def wanted_outputs(name: Json) -> Json:
    """Which outputs a request asks for."""
    binary = closed({"binary_data": {"type": "boolean"}}, [])
    wanted = closed({"name": name, "parameters": or_null(binary)}, ["name"])
    return {"type": "array", "items": wanted, "maxItems": MAX_TENSORS, "description": "None at all asks for every one."}


def infer_response(model: Json, version: Json, output: Json) -> Json:
    return closed(
        {
            "model_name": model,
            "model_version": version,
            "id": _TEXT,
            "parameters": _ANYTHING,
            "outputs": {"type": "array", "items": output},
        },
        ["model_name", "model_version", "outputs"],
    )


def generate_request(parameters: Json, sampling: Json | None) -> Json:
    """`sampling`: the parameters that this model knows; None for any."""
    said = _open_parameters(parameters) if sampling is None else closed({**sampling, **parameters}, [])
    return closed({"id": or_null(_ID), "text_input": _TEXT, "parameters": or_null(said)}, ["text_input"])


def _open_parameters(known: Json) -> Json:
    return {"type": "object", "properties": known, "propertyNames": {"not": {"enum": sorted(RESERVED)}}}


def _metadata() -> Json:
    shape: Json = {"type": "array", "items": {"type": "integer", "minimum": -1}}
    tensors: Json = {"type": "array", "items": closed({"name": _TEXT, "datatype": _TEXT, "shape": shape})}
    fields = {"name": _TEXT, "versions": {"type": "array", "items": _TEXT}, "platform": _TEXT}
    return closed({**fields, "inputs": tensors, "outputs": tensors})
