"""The Open Inference Protocol (KServe v2) over HTTP, under `/v2`: for tensor workflows, one version each.

Tensors come and go as JSON or in binary form, each as its own: binary ones follow the JSON in the order of their names,
and a header says how long the JSON is.

Nothing that is asked for is ignored: unknown fields, parameters that would need another form of the protocol (shared
memory, sequences, priorities) and outputs that do not exist are errors. The parameter `timeout`
(microseconds, as Triton has it) may only shorten the deadline; other parameters go to the workflow, which knows its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from deployments.config import Limits
from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.json_body import render_json
from deployments.router.protocols.binary_tensors import tensor_from_bytes, tensor_to_bytes
from deployments.router.protocols.tables import OPEN_INFERENCE
from deployments.router.request import Protocol, Reply, Request, Route, json_reply
from workflows.card import Card, TensorSpec
from workflows.errors import BadOutput, InvalidInput, ModelNotFound, Unsupported
from workflows.tensors import Array, dtype_name, tensor_from_json, tensor_to_json

__all__ = ["DATATYPES", "PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("open_inference", "/v2", OPEN_INFERENCE)
VERSION: Final = "1"
MAX_TENSORS: Final = 1024
MAX_ID_CHARS: Final = 256
MAX_SIZE_DIGITS: Final = 16
DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "string",
}
_NAMES: Final = {dtype: datatype for datatype, dtype in DATATYPES.items()}
_BINARY_HEADER: Final = b"inference-header-content-length"
_ASIDE_BYTES: Final = 64 << 10
"""Of binary tensors; in texts so many bytes take some milliseconds."""
_BINARY: Final = (b"content-type", b"application/octet-stream")
_RESERVED: Final = frozenset(
    {
        "binary_data_size",
        "classification",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "shared_memory_byte_size",
        "shared_memory_offset",
        "shared_memory_region",
    }
)


@dataclass(frozen=True, slots=True)
class _Infer:
    """A checked request: plain input for the workflow, what is echoed, and the caller's own time limit.

    Attributes:
        binary: Which outputs are to be binary, where the caller said so for each; the others are as `all_binary` says.
    """

    input_data: dict[str, Any]
    id: str | None
    timeout_s: float | None
    binary: dict[str, bool]
    all_binary: bool


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router, but for the two health routes of the server itself."""

    async def server(request: Request) -> Reply:
        return json_reply({"name": "infernet-serve", "version": own_version(), "extensions": ["binary_tensor_data"]})

    async def metadata(request: Request) -> Reply:
        return json_reply(_metadata(workflows.card(_find(workflows, request))))

    async def ready(request: Request) -> Reply:
        entry = _find(workflows, request)
        is_ready = entry.state == "ready"
        return json_reply({"name": entry.name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(request: Request) -> Reply:
        size = _json_size(request)
        body = await request.json(size)
        entry = _find(workflows, request)
        card = workflows.card(entry)
        if card.kind != "tensors":
            raise Unsupported(f"this workflow takes {card.kind} inputs, not tensors")
        asked = await _parse_aside(body, memoryview(request.body)[size:], request.limits)
        output = await workflows.ask(request, entry, asked.input_data, at_most_s=asked.timeout_s)
        return _reply(entry, asked, output)

    found = [Route("GET", "/v2", server, PROTOCOL)]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route("GET", model, metadata, PROTOCOL),
            Route("GET", f"{model}/ready", ready, PROTOCOL),
            Route("POST", f"{model}/infer", infer, PROTOCOL, body="json_or_binary"),
        ]
    return found


def own_version() -> str:
    """The installed version of this distribution."""
    try:
        return version("infernet-serve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def _find(workflows: Workflows, request: Request) -> Entry:
    if len(request.params) > 1 and request.params[1] != VERSION:
        raise ModelNotFound()
    return workflows.find(request, request.params[0])


def _metadata(card: Card) -> dict[str, Any]:
    """Inputs and outputs are empty where the workflow takes no tensors, or cannot tell."""
    inputs = card.signature.inputs if card.signature is not None else []
    outputs = card.signature.outputs if card.signature is not None else []
    return {
        "name": card.name,
        "versions": [VERSION],
        "platform": "infernet",
        "inputs": [_spec(tensor) for tensor in inputs],
        "outputs": [_spec(tensor) for tensor in outputs],
    }


def _spec(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": _NAMES.get(tensor.dtype, tensor.dtype.upper()), "shape": tensor.shape}


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


async def _parse_aside(body: Any, tail: memoryview, limits: Limits) -> _Infer:
    """As `_parse`, on a thread if it may take long."""
    if len(tail) <= _ASIDE_BYTES:
        return _parse(body, tail, limits)
    return await asyncio.to_thread(_parse, body, tail, limits)


def _parse(body: Any, tail: memoryview, limits: Limits) -> _Infer:
    """Raises InvalidInput for whatever is missing, unknown, or contradicts itself.

    Args:
        tail: What follows the JSON.
        limits: `max_json_elements` bounds binary texts as well: they become Python's objects just like JSON's.
    """
    texts = limits.max_json_elements
    fields = _object(body, "the body", {"id", "parameters", "inputs", "outputs"})
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
    input_data = {"inputs": inputs, "outputs": names, "parameters": parameters}
    return _Infer(input_data, _id(fields.get("id")), timeout_s, binary, all_binary)


def _object(value: Any, what: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object")
    for field in value:
        if field not in known:
            raise InvalidInput(f"{what} has an unknown field {field[:64]!r}", param=field[:64])
    return value


def _id(value: Any) -> str | None:
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
    fields = _object(value, "an input", {"name", "shape", "datatype", "parameters", "data"})
    name = _name(fields, "an input")
    shown = name[:64]
    size: Any = None
    for parameter, setting in _given_parameters(fields.get("parameters")).items():
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
        fields = _object(output, "an output", {"name", "parameters"})
        name = _name(fields, "an output")
        for parameter, setting in _given_parameters(fields.get("parameters")).items():
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
    parameters = dict(_given_parameters(value))
    timeout_s: float | None = None
    if "timeout" in parameters:
        timeout = parameters.pop("timeout")
        if type(timeout) is not int or timeout <= 0:
            raise InvalidInput("timeout must be a positive number of microseconds", param="timeout")
        timeout_s = timeout / 1e6
    all_binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    for parameter in parameters:
        if parameter in _RESERVED:
            raise Unsupported(f"the parameter {parameter!r} is not supported", param=parameter)
    return parameters, timeout_s, all_binary


def _given_parameters(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("parameters must be a JSON object", param="parameters")
    return value


# ---- out ---------------------------------------------------------------------------------------------------------------


def _reply(entry: Entry, asked: _Infer, output: Any) -> Reply:
    if not isinstance(output, dict) or not isinstance(output.get("outputs"), dict):
        raise BadOutput("the workflow gave no tensors")
    answer: dict[str, Any] = {"model_name": entry.name, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    if output.get("parameters"):
        answer["parameters"] = output["parameters"]
    tail: list[bytes | memoryview] = []
    answer["outputs"] = [
        _output(name, array, tail if asked.binary.get(name, asked.all_binary) else None)
        for name, array in output["outputs"].items()
    ]
    if not tail:
        return json_reply(answer)
    head = render_json(answer)
    return Reply(200, b"".join([head, *tail]), [_BINARY, (_BINARY_HEADER, b"%d" % len(head))])


def _output(name: str, array: Any, tail: list[bytes | memoryview] | None) -> dict[str, Any]:
    """The tensor as JSON; or, if there is a `tail`, what JSON says of it, and its bytes in there."""
    datatype = _NAMES.get(dtype_name(array))
    if datatype is None:
        raise BadOutput(f"output {name[:64]!r} has a type that this protocol does not have")
    said = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if tail is None:
        return {**said, "data": tensor_to_json(array)["data"]}
    tail.append(tensor_to_bytes(array))
    return {**said, "parameters": {"binary_data_size": len(tail[-1])}}
