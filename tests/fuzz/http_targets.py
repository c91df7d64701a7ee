"""Fuzz targets: binary tensors and whole infer bodies over HTTP.

For any bytes there is an error of the caller's, or a request that says the same again when it is written. Each target
takes bytes, and raises only if that does not hold, or if decoding takes more memory than the bytes may cost.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterator
from math import prod
from typing import Any, Final, TypeVar

import numpy as np
import orjson

from deployments.config import Limits
from deployments.router.directory import Entry
from deployments.router.dispatch import Dispatcher
from deployments.router.keys import Key
from deployments.router.protocols.open_inference import http
from deployments.router.protocols.open_inference.binary_tensors import tensor_from_bytes, tensor_to_bytes
from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY
from deployments.router.protocols.open_inference.infer_body import HttpInfer, infer_reply, read_infer
from deployments.router.protocols.open_inference.inference import Inferred
from deployments.router.refusals import BadJson
from deployments.router.request import Reply, Request, Route
from tests.fuzz.bounded import bounded
from tests.fuzz.picks import Picks
from tests.router.router_front import ScriptedClient
from workflows.errors import BadOutput, InvalidInput
from workflows.tensors import DTYPES, Array, element_kind

__all__ = ["any_body", "any_tensor", "at_once", "nearly_right_body", "same_bits"]

T = TypeVar("T")

LIMITS: Final = Limits(max_json_elements=2000, max_json_depth=16)
ENTRY: Final = Entry("m", Dispatcher(ScriptedClient()))
DIMS: Final[list[Any]] = [1, 2, 0, 3, 4, 1, 2, 1]
ODD_DIMS: Final[list[Any]] = [-1, 1 << 31, 1 << 64, 2.0, True, "1", None, [1]]
ELEMENTS: Final[dict[str, list[Any]]] = {
    "b": [True, False],
    "i": [0, 1, -1, 127, -128],
    "u": [0, 1, 255],
    "f": [0.5, -0.0, 1, 1e-45, 65504, 3.1, -7e-5],
    "O": ["a", "é", "", "\u0000"],
}
ODD_ELEMENTS: Final[list[Any]] = [256, 1 << 31, 1 << 63, 1 << 64, -1, 1e39, 1.0, True, "1", None, [1], 65520]
NAMES: Final[list[Any]] = ["a", "b", "c", "d"]
ODD_NAMES: Final[list[Any]] = ["a", "", None, 1, "\u0000", "é" * 40, "e"]
PARAMETERS: Final[list[Any]] = [
    {},
    None,
    {"timeout": 5},
    {"binary_data_output": False},
    {"content_type": "np"},
    {"own": [1, {"x": None}]},
]
ODD_PARAMETERS: Final[list[Any]] = [
    {"timeout": -1},
    {"timeout": True},
    {"binary_data_output": 1},
    {"sequence_id": 1},
    {"content_type": "x"},
    [],
]
MORE: Final[list[Any]] = [("id", "r"), ("model_name", "m"), ("model_version", "1"), ("id", None), ("outputs", [])]
ODD_MORE: Final[list[Any]] = [
    ("other", 1),
    ("id", 5),
    ("id", "x" * 257),
    ("model_name", 1),
    ("inputs", []),
    ("outputs", 1),
]
_KEY: Final = Key(id="fuzz", sha256="0" * 64)
_HEADER: Final = b"inference-header-content-length"


def any_tensor(data: bytes) -> None:
    """The binary form of one tensor."""
    picks = Picks(data)
    dtype = picks.one_of(list(DTYPES))
    shape = [picks.one_of([0, 1, 2, 3, 5, -1, 1 << 20, 1 << 62]) for _ in range(picks.below(6))]
    raw = picks.rest()
    try:
        with bounded(len(data)):
            array = tensor_from_bytes("x", dtype, shape, memoryview(raw), 64)
    except InvalidInput:
        return
    assert list(array.shape) == shape
    assert array.dtype == DTYPES[dtype]
    assert bytes(tensor_to_bytes(array)) == raw
    assert dtype != "bool" or set(raw) <= {0, 1}  # numpy's own functions trust that


def any_body(data: bytes) -> None:
    """A whole body; the first byte says where its JSON ends, if it is not all JSON."""
    picks = Picks(data)
    split = picks.byte()
    body = picks.rest()
    _check(body, None if split == 255 else b"%d" % (split * max(1, len(body) // 254)))


def nearly_right_body(data: bytes) -> None:
    """A body whose JSON is made of likely fields, and then perhaps of one byte that is not.

    Where nothing odd was picked it has to be taken.
    """
    picks = Picks(data)
    said = [_tensor(picks, NAMES[index]) for index in range(1 + picks.below(4))]
    body: dict[str, Any] = {"inputs": [fields for fields, _ in said]}
    if picks.below(3) == 0:
        body["outputs"] = [_output(picks, name) for name in NAMES[: picks.below(4)]]
    if picks.below(4) == 1:
        body["parameters"] = picks.likely(PARAMETERS, ODD_PARAMETERS)
    if picks.below(8) == 1:
        name, value = picks.likely(MORE, ODD_MORE)
        body[name] = value
    if picks.below(2) == 0 and isinstance(body.setdefault("parameters", {}), dict):
        body["parameters"] = {"binary_data_output": True, **body["parameters"]}
    head = json.dumps(body, ensure_ascii=False).encode()
    tail = b"".join(raw for _, raw in said) + bytes(picks.likely([0], [1]))
    size = len(head)
    if picks.rarely():
        size += picks.below(7) - 3
    if picks.rarely():
        place = picks.below(256) % len(head)
        head = head[:place] + picks.take(1) + head[place + 1 :]
    asked = _check(head + tail, b"%d" % size)
    assert asked is not None or picks.odd
    if asked is not None and json.loads(head[:size]) == body:
        assert len(asked.infer.inputs) == len(said)
        assert len(tail) == sum(len(raw) for _, raw in said)
        for fields, raw in said:
            _check_same(asked.infer.inputs[fields["name"]], fields, raw)


# ---- writing ---------------------------------------------------------------------------------------------------------------


def _tensor(picks: Picks, name: str) -> tuple[dict[str, Any], bytes]:
    """One tensor's JSON, and its bytes that follow."""
    datatype = picks.likely(list(DATATYPES), ["fp32", "", None])
    dtype = DTYPES[DATATYPES.get(datatype or "", "int8")]
    shape: Any = [picks.likely(DIMS, ODD_DIMS) for _ in range(picks.below(5))]
    fields = {"name": picks.likely([name], ODD_NAMES), "datatype": datatype, "shape": shape}
    count = min(prod(dim if type(dim) is int and dim >= 0 else 1 for dim in shape), 256)
    count = max(0, count + picks.likely([0], [1, -1]))
    if picks.below(2) and (datatype not in ONLY_BINARY or picks.rarely()):
        data: list[Any] = [picks.likely(ELEMENTS[element_kind(dtype)], ODD_ELEMENTS) for _ in range(count)]
        for dim in reversed(shape[1:] if picks.below(4) == 1 else []):
            if type(dim) is int and 0 < dim <= len(data):
                data = [data[start : start + dim] for start in range(0, len(data), dim)]
        return {**fields, "data": data}, b""
    if datatype == "BYTES":
        raw = b"".join(_counted(picks) for _ in range(count))
    else:
        raw = picks.take(count * dtype.itemsize)
        if datatype == "BOOL" and not picks.rarely():
            raw = bytes(byte & 1 for byte in raw)
    size = picks.likely([len(raw)], [len(raw) + 1, -1, None, 1.0, True, 1 << 70])
    return {**fields, "parameters": {"binary_data_size": size}}, raw


def _counted(picks: Picks) -> bytes:
    """An element of BYTES."""
    text = picks.take(picks.below(4))
    size = picks.byte() << 24 if picks.rarely() else len(text)
    return size.to_bytes(4, "little") + text


def _output(picks: Picks, name: str) -> Any:
    fields: dict[str, Any] = {"name": picks.likely([name], ODD_NAMES)}
    if picks.below(2):
        fields["parameters"] = {picks.likely(["binary_data"], ["x"]): picks.likely([True, False], [0, None])}
    return fields


# ---- checking --------------------------------------------------------------------------------------------------------------


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits: what is small is decoded where it is."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def same_bits(one: Array, other: Array) -> bool:
    if one.dtype.kind in "OS":
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def _read(body: bytes, size: bytes | None) -> HttpInfer:
    request = Request(
        id="r",
        call_id="r",
        key=_KEY,
        limits=LIMITS,
        headers={} if size is None else {_HEADER: size},
        repeated=frozenset(),
        started=0.0,
        method="POST",
        route=Route("POST", "/", _nobody, http.PROTOCOL),
        params=(),
        receive=_nobody,
        send=_nobody,
        body=body,
    )
    return at_once(read_infer(request))


async def _nobody(*given: Any) -> Any:
    raise AssertionError("nobody is asked")


def _check(body: bytes, size: bytes | None) -> HttpInfer | None:
    """The request, if it is one: then its tensors, given back as outputs, come out as they went in."""
    try:
        with bounded(len(body)):
            asked = _read(body, size)
    except (BadJson, InvalidInput):
        return None
    inputs = asked.infer.inputs
    in_json = [array for name, array in inputs.items() if not asked.is_binary(name)]
    try:
        with bounded(len(body)):
            reply = infer_reply(ENTRY, asked, Inferred(inputs, {}))
    except InvalidInput:
        assert any(map(_has_no_json, in_json))
        return asked
    except BadOutput:
        assert not all(map(_is_finite, in_json))
        return asked
    told = _outputs(reply)
    assert list(told) == list(inputs)
    for name, array in inputs.items():
        assert same_bits(told[name], array), name
    return asked


def _has_no_json(array: Array) -> bool:
    elements = array.ravel().tolist() if array.dtype.kind == "O" else []
    return array.dtype == DTYPES["bfloat16"] or any(isinstance(item, bytes) for item in elements)


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _outputs(reply: Reply) -> dict[str, Array]:
    """What the answer says, read by itself."""
    sizes = [int(value) for name, value in reply.headers if name == _HEADER]
    head = reply.body[: sizes[0]] if sizes else reply.body
    rest = memoryview(reply.body)[len(head) :]
    found: dict[str, Array] = {}
    for said in orjson.loads(head)["outputs"]:
        dtype, shape = DATATYPES[said["datatype"]], said["shape"]
        if "data" in said:
            assert said["datatype"] not in ONLY_BINARY
            found[said["name"]] = np.array(said["data"], DTYPES[dtype]).reshape(shape)
            continue
        own, rest = rest[: said["parameters"]["binary_data_size"]], rest[said["parameters"]["binary_data_size"] :]
        found[said["name"]] = tensor_from_bytes("", dtype, shape, own, len(own))
    assert not rest
    return found


def _check_same(array: Array, fields: dict[str, Any], raw: bytes) -> None:
    """An accepted tensor is what was said of it: every byte, or every element of JSON, as near as its type comes."""
    assert list(array.shape) == fields["shape"]
    if "data" not in fields:
        assert repr(fields["parameters"]["binary_data_size"]) == str(len(raw))
        assert bytes(tensor_to_bytes(array)) == raw
        return
    flat = list(_flat(fields["data"]))
    kind = element_kind(array.dtype)
    allowed: dict[str, set[type]] = {"b": {bool}, "O": {str}, "f": {int, float}, "i": {int}, "u": {int}}
    assert {type(item) for item in flat} <= allowed[kind]
    if kind == "f":
        assert np.array(flat, np.float64).astype(array.dtype).tobytes() == array.tobytes()
    else:
        assert array.ravel().tolist() == flat


def _flat(data: Any) -> Iterator[Any]:
    for part in data:
        if isinstance(part, list):
            yield from _flat(part)
        else:
            yield part
