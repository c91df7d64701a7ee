"""One tensor request in all the forms in which the router takes it, each as its protocol has it on the wire.

Official clients check what they are given before they send it; what is to be refused has to be written by hand.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import numpy as np

from deployments.router.protocols.open_inference.datatypes import DATATYPES
from deployments.router.protocols.open_inference.grpc_proto import SERVICE, message_class
from tests.clients.system import System
from workflows.tensors import DTYPES, Array

__all__ = ["CONTENTS", "FORMS", "Form", "Refused", "Said", "said_of"]

CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NAMES: Final = {dtype: datatype for datatype, dtype in DATATYPES.items()}
_REQUEST: Final = message_class("ModelInferRequest")
_ANSWER: Final = message_class("ModelInferResponse")
_INFER: Final = f"/{SERVICE}/ModelInfer"
_PARAMETERS: Final = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class Refused(Exception):
    """The error that came back, by its place in the error tree."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Said:
    """What a request says of one tensor, whether or not it is true.

    Attributes:
        data: For the forms that have JSON in them.
        raw: For those that have bytes.
    """

    name: str = "image"
    datatype: Any = "FP32"
    shape: Any = (1, 64)
    data: Any = None
    raw: bytes | None = None


def said_of(name: str, array: Array) -> Said:
    if array.dtype.kind == "O":
        elements = [str(item, "utf-8") if isinstance(item, bytes) else item for item in array.ravel().tolist()]
        raw = b"".join(struct.pack("<I", len(item)) + item for item in map(str.encode, elements))
        return Said(name, "BYTES", array.shape, elements, raw)
    return Said(name, _NAMES[array.dtype.name], array.shape, array.ravel().tolist(), array.tobytes())


class Form(Protocol):
    """One way to ask."""

    def __call__(
        self,
        system: System,
        model: str,
        tensors: Sequence[Said],
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]: ...


def native(
    system: System,
    model: str,
    tensors: Sequence[Said],
    outputs: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    inputs = {said.name: {"dtype": _dtype(said.datatype), "shape": said.shape, "data": said.data} for said in tensors}
    body = {"inputs": inputs, "outputs": outputs, "parameters": parameters or {}}
    answer = system.caller.post(f"/v1/workflows/{model}/inference", json=body)
    told = answer.json()
    if answer.status_code != 200:
        raise Refused(told["error"]["code"], told["error"]["message"])
    return {name: _array(tensor["dtype"], tensor) for name, tensor in told["outputs"].items()}


def plain_json(
    system: System,
    model: str,
    tensors: Sequence[Said],
    outputs: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    inputs = [
        {"name": said.name, "datatype": said.datatype, "shape": said.shape, "data": said.data} for said in tensors
    ]
    return _open_inference(system, model, {"inputs": inputs}, b"", outputs, parameters)


def binary(
    system: System,
    model: str,
    tensors: Sequence[Said],
    outputs: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    raw = [said.raw or b"" for said in tensors]
    inputs = [
        {
            "name": said.name,
            "datatype": said.datatype,
            "shape": said.shape,
            "parameters": {"binary_data_size": len(own)},
        }
        for said, own in zip(tensors, raw, strict=True)
    ]
    wishes = {**(parameters or {}), "binary_data_output": True}
    return _open_inference(system, model, {"inputs": inputs}, b"".join(raw), outputs, wishes)


def grpc_raw(
    system: System,
    model: str,
    tensors: Sequence[Said],
    outputs: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    request = _REQUEST(model_name=model, raw_input_contents=[said.raw or b"" for said in tensors])
    for said in tensors:
        request.inputs.add(name=said.name, datatype=said.datatype, shape=said.shape)
    return _grpc(system, request, outputs, parameters)


def grpc_contents(
    system: System,
    model: str,
    tensors: Sequence[Said],
    outputs: Sequence[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    request = _REQUEST(model_name=model)
    for said in tensors:
        tensor = request.inputs.add(name=said.name, datatype=said.datatype, shape=said.shape)
        data = [item.encode() if isinstance(item, str) else item for item in said.data or []]
        getattr(tensor.contents, CONTENTS.get(said.datatype, "fp32_contents")).extend(data)
    return _grpc(system, request, outputs, parameters)


FORMS: Mapping[str, Form] = {
    "native": native,
    "json": plain_json,
    "binary": binary,
    "grpc_raw": grpc_raw,
    "grpc_contents": grpc_contents,
}


def _grpc(
    system: System, request: Any, outputs: Sequence[str] | None, parameters: Mapping[str, Any] | None
) -> dict[str, Array]:
    for name in outputs or ():
        request.outputs.add(name=name)
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], _PARAMETERS[type(value)], value)
    ask = system.channel.unary_unary(_INFER, type(request).SerializeToString, _ANSWER.FromString)
    try:
        answer = ask(request, timeout=30)
    except grpc.RpcError as error:
        code = {grpc.StatusCode.INVALID_ARGUMENT: "invalid", grpc.StatusCode.NOT_FOUND: "no_model"}.get(error.code())
        raise Refused(code or error.code().name, error.details()) from error
    is_raw = bool(answer.raw_output_contents)
    assert is_raw == bool(request.raw_input_contents), "an answer comes as the request came"
    raw = list(answer.raw_output_contents) if is_raw else [None] * len(answer.outputs)
    found = {}
    for tensor, own in zip(answer.outputs, raw, strict=True):
        data = None if own is not None else list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        found[tensor.name] = _array(_dtype(tensor.datatype), {"shape": tensor.shape, "data": data}, own)
    return found


def _open_inference(
    system: System,
    model: str,
    body: dict[str, Any],
    tail: bytes,
    outputs: Sequence[str] | None,
    parameters: Mapping[str, Any] | None,
) -> dict[str, Array]:
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    head = json.dumps({**body, "parameters": parameters or {}}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    answer = system.caller.post(f"/v2/models/{model}/infer", content=head + tail, headers=headers)
    size = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    told = json.loads(answer.content[:size])
    if answer.status_code != 200:
        raise Refused({400: "invalid", 404: "no_model"}.get(answer.status_code, answer.reason_phrase), told["error"])
    found = {}
    rest = answer.content[size:]
    for tensor in told["outputs"]:
        own = tensor.get("parameters", {}).get("binary_data_size")
        found[tensor["name"]] = _array(_dtype(tensor["datatype"]), tensor, None if own is None else rest[:own])
        rest = rest[own or 0 :]
    assert not rest
    return found


def _dtype(datatype: Any) -> Any:
    return DATATYPES.get(datatype, datatype) if isinstance(datatype, str) else datatype


def _array(dtype: str, tensor: Mapping[str, Any], raw: bytes | None = None) -> Array:
    shape = tuple(tensor["shape"])
    if raw is None:
        return np.array(tensor["data"], DTYPES[dtype]).reshape(shape)
    if dtype != "string":
        return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)
    found: list[bytes] = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        found.append(raw[4:end])
        raw = raw[end:]
    array = np.empty(len(found), object)
    array[:] = found
    return array.reshape(shape)
