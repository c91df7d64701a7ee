"""Infer requests and answers over HTTP: JSON, with tensors in binary form behind it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Each tensor comes and goes as JSON or in binary form by itself: binary ones follow the JSON in the order of their names,
and a header says how long the JSON is. Nothing that is asked for is ignored: unknown fields and parameters are errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deployments.config import Limits
from deployments.router.directory import Entry
from deployments.router.json_body import render_json
from deployments.router.protocols.open_inference.binary_tensors import tensor_from_bytes, tensor_to_bytes
from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY, datatype_of
from deployments.router.protocols.open_inference.inference import (
    MAX_ID_CHARS,
    MAX_TENSORS,
    Infer,
    Inferred,
    check_content_type,
    own_parameters,
)
from deployments.router.request import JSON, Reply, Request
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.tensors import Array, element_kind, tensor_from_json, tensor_to_json

__all__ = ["HttpInfer", "checked_id", "checked_object", "given_parameters", "infer_reply", "read_infer"]

MAX_SIZE_DIGITS: Final = 16
_BINARY_HEADER: Final = b"inference-header-content-length"
_ASIDE_BYTES: Final = 64 << 10
"""Of binary tensors; in texts so many bytes take some milliseconds."""
_BINARY: Final = (b"content-type", b"application/octet-stream")


@dataclass(frozen=True, slots=True)
class HttpInfer:
    """A request and how its answer is wanted.

    Attributes:
        named: Model and version, where the body says them as well, as KServe's own client does.
        binary: Which outputs are to be binary, where the caller said so for each; the others are as `all_binary` says.
    """

    infer: Infer
    named: tuple[str | None, str | None]
    binary: dict[str, bool]
    all_binary: bool

    def is_binary(self, output: str) -> bool:
        return self.binary.get(output, self.all_binary)


async def read_infer(request: Request) -> HttpInfer:
    """The request in a body. Raises BadJson, and InvalidInput for whatever is missing, unknown, or contradicts itself."""
    size = _json_size(request)
    body = await request.json(size)
    tail = memoryview(request.body)[size:]
    if len(tail) <= _ASIDE_BYTES:
        return _parse(body, tail, request.limits)
    return await asyncio.to_thread(_parse, body, tail, request.limits)


def infer_reply(entry: Entry, asked: HttpInfer, inferred: Inferred) -> Reply:
    """Raises BadOutput for what cannot be said, InvalidInput where it could be in another form than the one asked for."""
    answer: dict[str, Any] = {"model_name": entry.known_as, "model_version": entry.version}
    if asked.infer.id is not None:
        answer["id"] = asked.infer.id
    if inferred.parameters:
        answer["parameters"] = inferred.parameters
    tail: list[bytes | memoryview] = []
    answer["outputs"] = [
        _output(name, array, tail if asked.is_binary(name) else None) for name, array in inferred.outputs.items()
    ]
    try:
        head = render_json(answer)
    except BadOutput:
        for name, array in inferred.outputs.items():
            if not asked.is_binary(name):
                _refuse_not_finite(name, array)
        raise
    if not tail:
        return Reply(200, head, [JSON])
    return Reply(200, b"".join([head, *tail]), [_BINARY, (_BINARY_HEADER, b"%d" % len(head))])


# ---- in ----------------------------------------------------------------------------------------------------------------


def _json_size(request: Request) -> int:
    """How many of the body's bytes are JSON: all, or as many as the header says."""
    said = request.headers.get(_BINARY_HEADER)
    if said is None:
        return len(request.body)
    size = int(said) if said.isdigit() and len(said) < MAX_SIZE_DIGITS else -1
    if _BINARY_HEADER in request.repeated or not 0 < size <= len(request.body):
        raise InvalidInput("inference-header-content-length must be the number of bytes of JSON in the body")
    return size


def _parse(body: Any, tail: memoryview, limits: Limits) -> HttpInfer:
    """Perhaps on a thread.

    Args:
        tail: What follows the JSON.
        limits: `max_json_elements` bounds binary texts as well: they become Python's objects just like JSON's.
    """
    texts = limits.max_json_elements
    fields = checked_object(body, "the body", {"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
    tensors = fields.get("inputs")
    if not isinstance(tensors, list) or not 0 < len(tensors) <= MAX_TENSORS:
        raise InvalidInput("inputs must be a list of tensors", param="inputs")
    inputs: dict[str, Any] = {}
    for tensor in tensors:
        name, array, size = _input(tensor, tail, texts)
        tail = tail[size:]
        texts -= array.size if size and array.dtype.kind == "O" else 0
        if name in inputs:
            raise InvalidInput(f"two inputs are named {name[:64]!r}", param="inputs")
        inputs[name] = array
    if tail:
        raise InvalidInput(f"{len(tail)} bytes follow the last tensor", param="inputs")
    parameters, timeout_s, all_binary = _parameters(fields.get("parameters"))
    names, binary = _wanted(fields.get("outputs"))
    named = (_text(fields, "model_name"), _text(fields, "model_version"))
    return HttpInfer(
        Infer(inputs, names, parameters, checked_id(fields.get("id")), timeout_s), named, binary, all_binary
    )


def checked_object(value: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object")
    for field in value:
        if field not in known:
            raise InvalidInput(f"{what} has an unknown field {field[:64]!r}", param=field[:64])
    return value


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{name} must be a string", param=name)
    return value


def checked_id(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > MAX_ID_CHARS):
        raise InvalidInput(f"id must be a string of at most {MAX_ID_CHARS} characters", param="id")
    return value


def _name(fields: Mapping[str, Any], what: str) -> str:
    name = fields.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{what} needs a name", param="name")
    return name


def _input(value: Any, tail: memoryview, most_texts: int) -> tuple[str, Array, int]:
    """An input's name, its array, and how many of the bytes that follow are its own."""
    fields = checked_object(value, "an input", {"name", "shape", "datatype", "parameters", "data"})
    name = _name(fields, "an input")
    shown = name[:64]
    size: Any = None
    for parameter, setting in given_parameters(fields.get("parameters")).items():
        if parameter == "content_type":
            check_content_type(setting, is_text=fields.get("datatype") == "BYTES")
            continue
        if parameter != "binary_data_size":
            raise Unsupported(f"tensor {shown!r}: unknown parameter {parameter[:64]!r}", param=shown)
        size = setting
        if type(size) is not int or not 0 <= size <= len(tail):
            raise InvalidInput(
                f"tensor {shown!r}: binary_data_size must be a number of bytes that follow the JSON", param=shown
            )
    datatype = fields.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise InvalidInput(f"tensor {shown!r}: unknown datatype; known are {', '.join(DATATYPES)}", param=shown)
    dtype, shape = DATATYPES[datatype], fields.get("shape")
    if size is not None:
        if "data" in fields:
            raise InvalidInput(f"tensor {shown!r}: data and binary_data_size exclude each other", param=shown)
        return name, tensor_from_bytes(name, dtype, shape, tail[:size], most_texts), size
    if "data" not in fields:
        raise InvalidInput(f"tensor {shown!r}: data is missing", param=shown)
    if datatype in ONLY_BINARY:
        raise InvalidInput(f"tensor {shown!r}: {datatype} has no form in JSON: send it in binary form", param=shown)
    return name, tensor_from_json(name, dtype, shape, fields["data"]), 0


def _wanted(value: Any) -> tuple[list[str] | None, dict[str, bool]]:
    """Names of the outputs asked for, in order, and which of them are to be binary or not.

    None for all, also for an empty list, as the protocol has it.
    """
    if value is None or value == []:
        return None, {}
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise InvalidInput("outputs must be a list", param="outputs")
    names: list[str] = []
    binary: dict[str, bool] = {}
    for output in value:
        fields = checked_object(output, "an output", {"name", "parameters"})
        name = _name(fields, "an output")
        for parameter, setting in given_parameters(fields.get("parameters")).items():
            if parameter != "binary_data":
                raise Unsupported(f"output {name[:64]!r}: unknown parameter {parameter[:64]!r}", param=name[:64])
            binary[name] = _flag(setting, "binary_data")
        if name in names:
            raise InvalidInput(f"output {name[:64]!r} is asked for twice", param="outputs")
        names.append(name)
    return names, binary


def _flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise InvalidInput(f"{name} must be true or false", param=name)
    return value


def _parameters(value: Any) -> tuple[dict[str, Any], float | None, bool]:
    """What is left for the workflow, the caller's time limit in seconds, and whether outputs are to be binary."""
    parameters = dict(given_parameters(value))
    all_binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    return *own_parameters(parameters), all_binary


def given_parameters(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("parameters must be a JSON object", param="parameters")
    return value


# ---- out ---------------------------------------------------------------------------------------------------------------


def _output(name: str, array: Any, tail: list[bytes | memoryview] | None) -> dict[str, Any]:
    """The tensor as JSON; or, if there is a `tail`, what JSON says of it, and its bytes in there."""
    datatype = datatype_of(name, array)
    said = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if tail is not None:
        tail.append(tensor_to_bytes(array))
        return {**said, "parameters": {"binary_data_size": len(tail[-1])}}
    if datatype in ONLY_BINARY:
        raise _needs_binary(name, f"{datatype} has no form in JSON")
    try:
        return {**said, "data": tensor_to_json(array)["data"]}
    except BadOutput as cause:
        raise _needs_binary(name, "there are bytes that are no text") from cause


def _refuse_not_finite(name: str, array: Array) -> None:
    """It can be had in another form; but most often it is a model that has gone wrong, which operators must see."""
    if element_kind(array.dtype) == "f" and not np.isfinite(array).all():
        raise BadOutput(_in_binary_form(name, "JSON cannot say NaN or infinity"))


def _needs_binary(name: str, why: str) -> InvalidInput:
    """Not the workflow's fault: the caller can have the same output in another form."""
    return InvalidInput(_in_binary_form(name, why), param=name[:64])


def _in_binary_form(name: str, why: str) -> str:
    return f"output {name[:64]!r}: {why}: ask for it in binary form"
