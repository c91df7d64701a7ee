"""The Open Inference Protocol (KServe v2) in its JSON form, under `/v2`: for tensor workflows, one version each.

Nothing that is asked for is ignored: unknown fields, parameters that would need another form of the protocol (binary
tensors, shared memory, sequences, priorities) and outputs that do not exist are errors. The parameter `timeout`
(microseconds, as Triton has it) may only shorten the deadline; other parameters go to the workflow, which knows its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.tables import OPEN_INFERENCE
from deployments.router.request import Protocol, Reply, Request, Route, json_reply
from workflows.card import Card, TensorSpec
from workflows.errors import BadOutput, InvalidInput, ModelNotFound, Unsupported
from workflows.tensors import tensor_from_json, tensor_to_json

__all__ = ["DATATYPES", "PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("open_inference", "/v2", OPEN_INFERENCE)
VERSION: Final = "1"
MAX_TENSORS: Final = 1024
MAX_ID_CHARS: Final = 256
DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BYTES": "string",
}
_NAMES: Final = {dtype: datatype for datatype, dtype in DATATYPES.items()}
_BINARY_HEADER: Final = b"inference-header-content-length"
_NO_BINARY: Final = "binary tensors are not supported yet: send and ask for JSON data"
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
    """A checked request: plain input for the workflow, what is echoed, and the caller's own time limit."""

    input_data: dict[str, Any]
    id: str | None
    timeout_s: float | None


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router, but for the two health routes of the server itself."""

    async def server(request: Request) -> Reply:
        return json_reply({"name": "infernet-serve", "version": own_version(), "extensions": []})

    async def metadata(request: Request) -> Reply:
        return json_reply(_metadata(workflows.card(_find(workflows, request))))

    async def ready(request: Request) -> Reply:
        entry = _find(workflows, request)
        is_ready = entry.state == "ready"
        return json_reply({"name": entry.name, "ready": is_ready}, 200 if is_ready else 503)

    async def infer(request: Request) -> Reply:
        if _BINARY_HEADER in request.headers:
            raise Unsupported(_NO_BINARY)
        body = await request.json()
        entry = _find(workflows, request)
        card = workflows.card(entry)
        if card.kind != "tensors":
            raise Unsupported(f"this workflow takes {card.kind} inputs, not tensors")
        asked = _parse(body)
        output = await workflows.ask(request, entry, asked.input_data, at_most_s=asked.timeout_s)
        return json_reply(_answer(entry, asked, output))

    found = [Route("GET", "/v2", server, PROTOCOL)]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route("GET", model, metadata, PROTOCOL),
            Route("GET", f"{model}/ready", ready, PROTOCOL),
            Route("POST", f"{model}/infer", infer, PROTOCOL, body="json_or_unnamed"),
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


def _parse(body: Any) -> _Infer:
    """Raises InvalidInput for whatever is missing, unknown, or contradicts itself."""
    fields = _object(body, "the body", {"id", "parameters", "inputs", "outputs"})
    tensors = fields.get("inputs")
    if not isinstance(tensors, list) or not 0 < len(tensors) <= MAX_TENSORS:
        raise InvalidInput("inputs must be a list of tensors", param="inputs")
    inputs: dict[str, Any] = {}
    for tensor in tensors:
        name, array = _input(tensor)
        if name in inputs:
            raise InvalidInput(f"two inputs are named {name[:64]!r}", param="inputs")
        inputs[name] = array
    parameters, timeout_s = _parameters(fields.get("parameters"))
    input_data = {"inputs": inputs, "outputs": _wanted(fields.get("outputs")), "parameters": parameters}
    return _Infer(input_data, _id(fields.get("id")), timeout_s)


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


def _input(value: Any) -> tuple[str, Any]:
    fields = _object(value, "an input", {"name", "shape", "datatype", "parameters", "data"})
    name = _name(fields, "an input")
    shown = name[:64]
    for parameter in _given_parameters(fields.get("parameters")):
        if parameter == "binary_data_size":
            raise Unsupported(_NO_BINARY, param=parameter)
        raise Unsupported(f"tensor {shown!r}: unknown parameter {parameter[:64]!r}", param=shown)
    datatype = fields.get("datatype")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        hint = " (BF16 exists in binary form only)" if datatype == "BF16" else ""
        raise InvalidInput(f"tensor {shown!r}: unknown datatype{hint}; known are {', '.join(DATATYPES)}", param=shown)
    if "data" not in fields:
        raise InvalidInput(f"tensor {shown!r}: data is missing", param=shown)
    return name, tensor_from_json(name, DATATYPES[datatype], fields.get("shape"), fields["data"])


def _wanted(value: Any) -> list[str] | None:
    """Names of the outputs asked for, in order; None for all, also for an empty list, as the protocol has it."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise InvalidInput("outputs must be a list", param="outputs")
    names: list[str] = []
    for output in value:
        fields = _object(output, "an output", {"name", "parameters"})
        name = _name(fields, "an output")
        for parameter, setting in _given_parameters(fields.get("parameters")).items():
            if parameter != "binary_data":
                raise Unsupported(f"output {name[:64]!r}: unknown parameter {parameter[:64]!r}", param=name[:64])
            if setting is not False:
                raise Unsupported(_NO_BINARY, param="binary_data")
        if name in names:
            raise InvalidInput(f"output {name[:64]!r} is asked for twice", param="outputs")
        names.append(name)
    return names


def _parameters(value: Any) -> tuple[dict[str, Any], float | None]:
    """What is left for the workflow, and the caller's time limit in seconds."""
    parameters = dict(_given_parameters(value))
    timeout_s: float | None = None
    if "timeout" in parameters:
        timeout = parameters.pop("timeout")
        if type(timeout) is not int or timeout <= 0:
            raise InvalidInput("timeout must be a positive number of microseconds", param="timeout")
        timeout_s = timeout / 1e6
    if parameters.pop("binary_data_output", False) is not False:
        raise Unsupported(_NO_BINARY, param="binary_data_output")
    for parameter in parameters:
        if parameter in _RESERVED:
            raise Unsupported(f"the parameter {parameter!r} is not supported", param=parameter)
    return parameters, timeout_s


def _given_parameters(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("parameters must be a JSON object", param="parameters")
    return value


# ---- out ---------------------------------------------------------------------------------------------------------------


def _answer(entry: Entry, asked: _Infer, output: Any) -> dict[str, Any]:
    if not isinstance(output, dict) or not isinstance(output.get("outputs"), dict):
        raise BadOutput("the workflow gave no tensors")
    answer: dict[str, Any] = {"model_name": entry.name, "model_version": VERSION}
    if asked.id is not None:
        answer["id"] = asked.id
    if output.get("parameters"):
        answer["parameters"] = output["parameters"]
    answer["outputs"] = [_output(name, array) for name, array in output["outputs"].items()]
    return answer


def _output(name: str, array: Any) -> dict[str, Any]:
    tensor = tensor_to_json(array)
    datatype = _NAMES.get(tensor["dtype"])
    if datatype is None:
        raise BadOutput(f"output {name[:64]!r} has a type that this protocol does not have")
    return {"name": name, "datatype": datatype, "shape": tensor["shape"], "data": tensor["data"]}
