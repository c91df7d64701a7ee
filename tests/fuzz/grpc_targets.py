"""Fuzz targets: infer requests over gRPC, as messages and as what takes messages apart."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from deployments.router.protocols.open_inference.binary_tensors import tensor_to_bytes
from deployments.router.protocols.open_inference.datatypes import DATATYPES
from deployments.router.protocols.open_inference.grpc_messages import (
    SMALL_BYTES,
    GrpcInfer,
    infer_answer,
    read_infer,
)
from deployments.router.protocols.open_inference.grpc_proto import message_class, split
from deployments.router.protocols.open_inference.inference import Inferred
from deployments.router.refusals import BadMessage
from tests.fuzz.bounded import bounded
from tests.fuzz.http_targets import LIMITS, at_once
from tests.fuzz.picks import Picks
from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, Array

__all__ = ["any_message", "any_split", "nearly_right_message"]

_REQUEST: Final = message_class("ModelInferRequest")
_ANSWER: Final = message_class("ModelInferResponse")
_RAW: Final[int] = _REQUEST.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_GROUP: Final = 3
_FIELDS: Final = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"]
_OF: Final = {
    "BOOL": "bool",
    **dict.fromkeys(["INT8", "INT16", "INT32"], "int"),
    "INT64": "int64",
    **dict.fromkeys(["UINT8", "UINT16", "UINT32"], "uint"),
    "UINT64": "uint64",
    "FP32": "fp32",
    "FP64": "fp64",
    "BYTES": "bytes",
}


def any_message(data: bytes) -> None:
    """A message as it comes; the first byte says whether it came on a stream."""
    picks = Picks(data)
    _check(bool(picks.below(2)), picks.rest())


def any_split(data: bytes) -> None:
    """Taken apart and put together again, a message is the one that protobuf reads, but for groups; or none for both."""
    try:
        whole = _REQUEST.FromString(data)
    except DecodeError:
        whole = None
    try:
        head, raw = split(data, _RAW)
        parts = _REQUEST.FromString(head)
    except (BadMessage, DecodeError):
        assert whole is None or any(unknown.wire_type == _GROUP for unknown in UnknownFieldSet(whole))
        return
    assert whole is not None
    assert not parts.raw_input_contents
    parts.raw_input_contents.extend(bytes(own) for own in raw)
    parts.DiscardUnknownFields()
    whole.DiscardUnknownFields()
    assert parts.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


def nearly_right_message(data: bytes) -> None:
    """A message of likely fields, and then perhaps of one byte that is not. Where nothing odd was picked it is taken."""
    picks = Picks(data)
    request = _REQUEST(model_name=picks.one_of(["m", "", "n"]), id=picks.likely(["", "r"], ["x" * 300]))
    raw, streaming = bool(picks.below(2)), bool(picks.below(2))
    for _ in range(1 + picks.below(4)):
        _add_tensor(request, picks, raw)
    if raw and picks.below(16) == 1:  # large ones are taken apart before they are parsed
        request.inputs.add(name="large", datatype="INT8", shape=[SMALL_BYTES])
        request.raw_input_contents.append(picks.take(1) * SMALL_BYTES)
    for name in "abcd"[: picks.one_of([0, 0, 1, 3])]:
        output = request.outputs.add(name=picks.likely([name], ["", "a"]))
        if picks.rarely():
            output.parameters["classification"].int64_param = 1
    if picks.below(3) == 1:
        _set(request.parameters[picks.likely(["own"], ["timeout", "priority", "stream", "binary_data_output"])], picks)
    message = request.SerializeToString()
    if picks.rarely() and message:
        place = picks.below(256) % len(message)
        _check(streaming, message[:place] + picks.take(1) + message[place + 1 :])
        return
    asked = _check(streaming, message)
    assert asked is not None or picks.odd
    if asked is None:
        return
    assert len(asked.infer.inputs) == len(request.inputs)
    raw = bool(request.raw_input_contents)
    assert not raw or len(request.raw_input_contents) == len(request.inputs)
    for index, tensor in enumerate(request.inputs):
        assert set(tensor.parameters) <= {"binary_data_size"}
        if tensor.parameters:
            said = tensor.parameters["binary_data_size"]
            assert said.HasField("int64_param")
            assert said.int64_param == len(request.raw_input_contents[index])
        assert not (raw and tensor.contents.ListFields())
        _check_same(asked.infer.inputs[tensor.name], tensor, request.raw_input_contents[index] if raw else None)


def _set(parameter: Any, picks: Picks) -> None:
    """A value of some kind, or rarely none at all."""
    if picks.rarely():
        return
    kind = picks.one_of(["bool", "int64", "string", "double", "uint64"])
    value = {"bool": True, "int64": picks.byte() - 128, "string": "np", "uint64": picks.byte()}.get(kind)
    setattr(parameter, f"{kind}_param", picks.likely([0.5, -0.0], [np.nan, np.inf]) if value is None else value)


def _add_tensor(request: Any, picks: Picks, raw: bool) -> None:
    datatype = picks.likely(list(DATATYPES if raw else _OF), ["BF16", "fp32", ""])
    shape = [picks.likely([1, 2, 0, 3], [-1, 1 << 40]) for _ in range(picks.below(4))]
    name = picks.likely(["abcd"[len(request.inputs)]], ["a", ""])
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    count = max(0, min(int(np.prod([dim for dim in shape if 0 <= dim < 4], dtype=np.int64)), 64))
    count = max(0, count + picks.likely([0], [1, -1]))
    if raw:
        if datatype == "BYTES":
            texts = [picks.take(picks.one_of([0, 1, 2, 70])) for _ in range(count)]
            own = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            own = picks.take(count * DTYPES[DATATYPES.get(datatype, "int8")].itemsize)
            own = bytes(byte & 1 for byte in own) if datatype == "BOOL" and not picks.rarely() else own
        request.raw_input_contents.extend([own] * picks.likely([1], [0, 2]))
        if picks.below(8) == 1:
            _say_size(tensor.parameters["binary_data_size"], picks, len(own))
    if not raw or picks.rarely():
        kind = picks.likely([_OF.get(datatype, "fp32")], _FIELDS)
        getattr(tensor.contents, f"{kind}_contents").extend(_element(kind, picks) for _ in range(count))
    if picks.rarely():
        tensor.parameters["shared_memory_region"].string_param = "x"


def _say_size(parameter: Any, picks: Picks, size: int) -> None:
    name, value = picks.likely(
        [("int64_param", size)], [("int64_param", -1), ("bool_param", True), ("double_param", 1.0)]
    )
    setattr(parameter, name, value)


def _element(kind: str, picks: Picks) -> Any:
    if kind == "bool":
        return bool(picks.below(2))
    if kind == "bytes":
        return picks.take(picks.below(4))
    if kind.startswith("fp"):
        return (
            np.frombuffer(picks.take(8)).item() if kind == "fp64" else np.frombuffer(picks.take(4), np.float32).item()
        )
    wide = 4 if picks.rarely() else 1
    if kind.endswith("64") and picks.below(2):
        wide = 8
    value = int.from_bytes(picks.take(wide), "little", signed=not kind.startswith("u"))
    return value if wide > 1 or picks.rarely() else value & 127


def _check(streaming: bool, message: bytes) -> GrpcInfer | None:
    """The request, if it is one: then its tensors, given back as outputs, come out as they went in."""
    result = at_once if len(message) <= SMALL_BYTES else asyncio.run  # for which threads are taken
    try:
        with bounded(len(message)):
            asked = result(read_infer(message, LIMITS, streaming=streaming))
    except (BadMessage, InvalidInput):
        return None
    answer = _ANSWER.FromString(result(infer_answer("m", asked, Inferred(asked.infer.inputs, {}))))
    assert [output.name for output in answer.outputs] == list(asked.infer.inputs)
    raw = list(answer.raw_output_contents) or [None] * len(answer.outputs)
    for output, own in zip(answer.outputs, raw, strict=True):
        _check_same(asked.infer.inputs[output.name], output, own)
    return asked


def _check_same(array: Array, tensor: Any, raw: bytes | None) -> None:
    """An array is what a message says of it: every byte, or every element of its contents."""
    assert list(array.shape) == list(tensor.shape)
    assert array.dtype == DTYPES[DATATYPES[tensor.datatype]]
    if raw is not None:
        assert bytes(tensor_to_bytes(array)) == raw
        return
    values = list(getattr(tensor.contents, f"{_OF[tensor.datatype]}_contents"))
    if tensor.datatype == "BYTES":
        assert [item if isinstance(item, bytes) else item.encode() for item in array.ravel().tolist()] == values
    elif array.dtype.kind == "f":  # a NaN may lose its payload on the way through Python's numbers
        np.testing.assert_array_equal(array.ravel(), np.array(values, array.dtype))
        finite = np.nan_to_num(array.ravel())
        assert finite.tobytes() == np.nan_to_num(np.array(values, array.dtype)).tobytes()
    else:
        assert array.ravel().tolist() == values
