"""Infer requests and answers as gRPC's messages: tensors raw, or as contents with a field for each kind of number.

Nothing that is asked for is ignored: unknown parameters are errors, and so is a number that its tensor's type cannot hold.
(Fields that the protocol does not have are ignored, as protobuf does everywhere.) An answer's tensors come as the
request's came, unless it says otherwise (`binary_data_output`); but all of them raw if one has a type for which contents
have no field.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from deployments.config import Limits
from deployments.router.json_body import render_json
from deployments.router.protocols.open_inference.binary_tensors import tensor_from_bytes, tensor_to_bytes
from deployments.router.protocols.open_inference.datatypes import DATATYPES, datatype_of
from deployments.router.protocols.open_inference.grpc_proto import message_class, parsed, split, tagged
from deployments.router.protocols.open_inference.infer_body import checked_id
from deployments.router.protocols.open_inference.inference import (
    MAX_TENSORS,
    Infer,
    Inferred,
    check_content_type,
    own_parameters,
)
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.tensors import DTYPES, MAX_RANK, Array, bad_tensor, checked_shape

__all__ = [
    "GrpcInfer",
    "StreamWishes",
    "given_parameters",
    "infer_answer",
    "read_infer",
    "stream_answer",
    "stream_error",
]

Parts = list[bytes | memoryview]

_REQUEST: Final = message_class("ModelInferRequest")
_ANSWER: Final = message_class("ModelInferResponse")
_STREAM_ANSWER: Final = message_class("ModelStreamInferResponse")
_RAW_INPUT: Final[int] = _REQUEST.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUT: Final[int] = _ANSWER.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_STREAMED: Final[int] = _STREAM_ANSWER.DESCRIPTOR.fields_by_name["infer_response"].number

# The field of contents for each datatype; the others go raw.
_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SMALL_BYTES: Final = 64 << 10
"""What is not larger is worth no care, and no thread: its numbers and texts are made in some milliseconds."""
FINAL: Final = "triton_final_response"
EMPTY_FINAL: Final = "triton_enable_empty_final_response"


@dataclass(frozen=True, slots=True)
class StreamWishes:
    """What a request on a stream says of its answers.

    Attributes:
        chunks: Whether a workflow that streams shall do so.
        empty_final: Whether an answer without tensors may come to say that it was the last, where no other does.
    """

    chunks: bool = True
    empty_final: bool = False


@dataclass(frozen=True, slots=True)
class GrpcInfer:
    """A request, whose model it names, and how its answer is wanted.

    Attributes:
        raw: Whether tensors are to go raw: as they came, unless it says otherwise.
    """

    name: str
    version: str
    infer: Infer
    raw: bool
    wishes: StreamWishes


# ---- in ------------------------------------------------------------------------------------------------------------------


async def read_infer(data: bytes, limits: Limits, *, streaming: bool = False) -> GrpcInfer:
    """The request in a message, on a thread if that may take long.

    Raises BadMessage and TooLarge, and InvalidInput for whatever is missing, unknown, or contradicts itself.

    Args:
        limits: `max_json_elements` bounds texts: they become Python's objects just like JSON's.
        streaming: Whether it came on a stream, where it may say how it wants its answers.
    """
    if len(data) <= SMALL_BYTES:
        message = parsed(_REQUEST, data)
        return _read(message, message.raw_input_contents, limits, streaming)
    head, raw = split(data, _RAW_INPUT)
    if len(head) > SMALL_BYTES:
        return await asyncio.to_thread(_parse, head, raw, limits, streaming)
    message = parsed(_REQUEST, head)
    texts = (len(own) for tensor, own in zip(message.inputs, raw, strict=False) if tensor.datatype == "BYTES")
    if sum(texts) > SMALL_BYTES:
        return await asyncio.to_thread(_read, message, raw, limits, streaming)
    return _read(message, raw, limits, streaming)


def _parse(head: bytes, raw: Sequence[memoryview], limits: Limits, streaming: bool) -> GrpcInfer:
    return _read(parsed(_REQUEST, head), raw, limits, streaming)


def _read(message: Any, raw: Sequence[bytes | memoryview], limits: Limits, streaming: bool) -> GrpcInfer:
    tensors = message.inputs
    if not 0 < len(tensors) <= MAX_TENSORS:
        raise InvalidInput("inputs must be a list of tensors", param="inputs")
    if raw and len(raw) != len(tensors):
        what = f"raw_input_contents has {len(raw)} members, but there are {len(tensors)} inputs"
        raise InvalidInput(what, param="raw_input_contents")
    texts = limits.max_json_elements
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if not name:
            raise InvalidInput("an input needs a name", param="name")
        if name in inputs:
            raise InvalidInput(f"two inputs are named {name[:64]!r}", param="inputs")
        inputs[name] = array = _input(tensor, raw[index] if raw else None, texts)
        texts -= array.size if array.dtype.kind == "O" else 0
    wishes = StreamWishes()
    parameters, timeout_s = own_parameters(given_parameters(message.parameters))
    if streaming:
        wishes = StreamWishes(_flag(parameters, "stream", True), _flag(parameters, EMPTY_FINAL, False))
    answers_raw = _flag(parameters, "binary_data_output", bool(raw))
    infer = Infer(inputs, _wanted(message.outputs), parameters, checked_id(message.id) or None, timeout_s)
    return GrpcInfer(message.model_name, message.model_version, infer, answers_raw, wishes)


def _input(tensor: Any, raw: bytes | memoryview | None, most_texts: int) -> Array:
    name, datatype = tensor.name, tensor.datatype
    for parameter, setting in given_parameters(tensor.parameters).items():
        if parameter == "content_type":
            check_content_type(setting, is_text=datatype == "BYTES")
        elif parameter != "binary_data_size":
            raise Unsupported(f"tensor {name[:64]!r}: unknown parameter {parameter[:64]!r}", param=name[:64])
        elif raw is None or type(setting) is not int or setting != len(raw):  # KServe's client says it here as well
            raise bad_tensor(name, "binary_data_size is not the size of what is in raw_input_contents")
    if datatype not in DATATYPES:
        raise bad_tensor(name, f"unknown datatype; known are {', '.join(DATATYPES)}")
    shape = tensor.shape[: MAX_RANK + 1]
    if raw is None:
        return _from_contents(name, datatype, shape, tensor.contents, most_texts)
    if tensor.contents.ListFields():
        raise bad_tensor(name, "contents and raw_input_contents exclude each other")
    return tensor_from_bytes(name, DATATYPES[datatype], shape, memoryview(raw), most_texts)


def _from_contents(name: str, datatype: str, shape: list[int], contents: Any, most_texts: int) -> Array:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise bad_tensor(name, f"{datatype} must be sent in raw_input_contents")
    for other, _ in contents.ListFields():
        if other.name != field:
            raise bad_tensor(name, f"{datatype} is sent in {field}, not in {other.name}")
    dims = checked_shape(name, shape)
    count = prod(dims)
    values = getattr(contents, field)
    if len(values) != count:
        raise bad_tensor(name, f"expected {count} elements, got {len(values)}")
    dtype = DATATYPES[datatype]
    if dtype == "string":
        if count > most_texts:
            raise bad_tensor(name, "too many texts")
        return _texts(values).reshape(dims)
    try:
        return np.fromiter(values, DTYPES[dtype], count).reshape(dims)
    except OverflowError:
        raise bad_tensor(name, f"an element is out of range for {dtype}") from None


def _texts(values: Sequence[bytes]) -> Array:
    array = np.empty(len(values), object)
    for index, value in enumerate(values):
        try:
            array[index] = str(value, "utf-8")
        except UnicodeDecodeError:
            array[index] = value  # as in binary tensors
    return array


def _wanted(outputs: Sequence[Any]) -> list[str] | None:
    """Names of the outputs asked for, in order; None for all."""
    if len(outputs) > MAX_TENSORS:
        raise InvalidInput("outputs must be a list", param="outputs")
    names: dict[str, None] = {}
    for output in outputs:
        name = output.name
        if not name:
            raise InvalidInput("an output needs a name", param="name")
        for parameter in output.parameters:
            raise Unsupported(f"output {name[:64]!r}: unknown parameter {parameter[:64]!r}", param=name[:64])
        if name in names:
            raise InvalidInput(f"output {name[:64]!r} is asked for twice", param="outputs")
        names[name] = None
    return list(names) or None


def given_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a message as plain values. Raises InvalidInput for one without a value, or that is not finite."""
    found: dict[str, Any] = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidInput(f"the parameter {name[:64]!r} has no value", param=name[:64])
        value = found[name] = getattr(parameter, choice)
        if choice == "double_param" and not math.isfinite(value):
            raise InvalidInput(f"the parameter {name[:64]!r} must be a finite number", param=name[:64])
    return found


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.pop(name, default)
    if type(value) is not bool:
        raise InvalidInput(f"{name} must be true or false", param=name)
    return value


# ---- out -----------------------------------------------------------------------------------------------------------------


async def infer_answer(model: str, asked: GrpcInfer, inferred: Inferred, version: str = "1") -> bytes:
    """Raises BadOutput for tensors of a type that the protocol does not have."""
    if _is_quick(asked, inferred.outputs):
        return b"".join(_answer(model, asked, inferred, version))
    return await asyncio.to_thread(lambda: b"".join(_answer(model, asked, inferred, version)))


async def stream_answer(model: str, asked: GrpcInfer, inferred: Inferred, version: str = "1", *, final: bool) -> bytes:
    """The same, on a stream."""
    said = Inferred(inferred.outputs, {**inferred.parameters, FINAL: final})
    if _is_quick(asked, inferred.outputs):
        return b"".join(tagged(_STREAMED, _answer(model, asked, said, version)))
    return await asyncio.to_thread(lambda: b"".join(tagged(_STREAMED, _answer(model, asked, said, version))))


def stream_error(message: str, model: str, request_id: str | None) -> bytes:
    """What failed, on a stream, where all its other requests go on."""
    answer = _STREAM_ANSWER(error_message=message)
    answer.infer_response.model_name = model
    answer.infer_response.id = request_id or ""
    answer.infer_response.parameters[FINAL].bool_param = True
    return bytes(answer.SerializeToString())


def _is_quick(asked: GrpcInfer, outputs: Mapping[str, Array]) -> bool:
    """Whether nothing of an answer has to be made one by one, but for a few."""
    slow = (array.nbytes for array in outputs.values() if not asked.raw or array.dtype.kind in "OUS")
    return sum(slow) <= SMALL_BYTES


def _answer(model: str, asked: GrpcInfer, inferred: Inferred, version: str) -> Parts:
    datatypes = {name: datatype_of(name, array) for name, array in inferred.outputs.items()}
    raw = asked.raw or not _CONTENTS.keys() >= set(datatypes.values())
    answer = _ANSWER(model_name=model, model_version=version, id=asked.infer.id or "")
    tail: Parts = []
    try:
        for name, value in inferred.parameters.items():
            _set(answer.parameters[name], value)
        for name, array in inferred.outputs.items():
            output = answer.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
            if raw:
                tail += tagged(_RAW_OUTPUT, [tensor_to_bytes(array)])
            else:
                getattr(output.contents, _CONTENTS[datatypes[name]]).extend(_elements(array))
    except (TypeError, ValueError) as cause:  # a name or a text that is no UTF-8
        raise BadOutput("the workflow gave an output that cannot be sent") from cause
    return [answer.SerializeToString(), *tail]


def _elements(array: Array) -> Iterable[Any]:
    elements = array.ravel().tolist()
    if array.dtype.kind not in "OUS":
        return elements
    return (item if isinstance(item, bytes) else str(item).encode() for item in elements)


def _set(parameter: Any, value: Any) -> None:
    """A value of JSON as a parameter; what is no simple value is said as a JSON document."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        parameter.int64_param = value
    elif isinstance(value, int) and 0 <= value < 1 << 64:
        parameter.uint64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        parameter.string_param = render_json(value).decode()
