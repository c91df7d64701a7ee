"""JSON in, strictly, and JSON out, exactly. Knows sizes and nesting, not what the JSON means.

In: UTF-8 without a byte order mark, no NaN, no number beyond float64, no lone surrogate; of two equal keys in one
object the last counts, everywhere, because a body is parsed once. An integer beyond 64 bits is read as the nearest
float64 (orjson has no other way), which fields and tensors of integers refuse, while those of floats take it. Out: every
number that is written reads back as the same bits (float32 in its shortest form), and what JSON cannot say (NaN,
infinities) is an error instead of `null`.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import numpy as np
import orjson

from deployments.config import Limits
from deployments.router.refusals import BadJson
from workflows.errors import BadOutput, InvalidInput
from workflows.tensors import element_kind, tensor_to_json, widened

__all__ = ["parse_json", "parse_json_aside", "render_json"]

ASIDE_BYTES: Final = 1 << 20
"""What is not larger is parsed within some milliseconds, which a thread would not make better."""
PART_BYTES: Final = 256 << 10
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{},"'))
_STEPS: Final = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


async def parse_json_aside(body: bytes, limits: Limits) -> Any:
    """As `parse_json`, with large documents on a thread.

    The check of the bounds lets the event loop run meanwhile. orjson does not: it holds the interpreter for as long as
    it parses, which is what `limits.max_json_elements` bounds.
    """
    if len(body) <= ASIDE_BYTES:
        return parse_json(body, limits)
    return await asyncio.to_thread(parse_json, body, limits)


def parse_json(body: bytes, limits: Limits) -> Any:
    """The value of a JSON document.

    Raises:
        BadJson: It is not strict JSON, or nested deeper than `limits.max_json_depth`.
        InvalidInput: It holds more than `limits.max_json_elements` values.
    """
    if len(body) > ASIDE_BYTES or _may_exceed(body, limits):
        _check_bounds(body, limits)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        what = f"the body is not valid JSON in UTF-8, from character {cause.pos} on" if body else "the body is empty"
        raise BadJson(what) from cause


def render_json(value: Any) -> bytes:
    """Plain data with numpy arrays (as nested lists) as one JSON document. Raises BadOutput for what JSON cannot say."""
    try:
        document = orjson.dumps(value, default=_unusual, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as cause:
        raise BadOutput("the model gave an output that JSON cannot express") from cause
    # NaN was written as null: looking for that word first spares nearly every answer the walk.
    if b"null" in document and not _all_finite(value):
        raise BadOutput("the model gave an output that is not finite (NaN or infinity)")
    return document


def _may_exceed(body: bytes, limits: Limits) -> bool:
    """Counts also what stands in strings. For small documents only: a count holds the interpreter until it is done."""
    containers = body.count(b"[") + body.count(b"{")
    return containers > limits.max_json_depth or containers + body.count(b",") >= limits.max_json_elements


def _check_bounds(body: bytes, limits: Limits) -> None:
    """The exact counts: brackets and commas outside of strings.

    Linear in time: part by part, in little memory, and done with the first part that goes too far.
    """
    depth, values, in_string, start = 0, 0, False, 0
    while start < len(body):
        part = body[start : start + PART_BYTES]
        if (len(part) - len(part.rstrip(b"\\"))) % 2:
            part = body[start : start + PART_BYTES + 1]  # an escape is not torn apart
        start += len(part)
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        skeleton = np.frombuffer(part.translate(None, _NOT_STRUCTURE), np.uint8)
        if not skeleton.size:
            continue
        quoted = np.logical_xor.accumulate(skeleton == ord('"')) ^ in_string
        in_string = bool(quoted[-1])
        bare = skeleton[~quoted]
        steps = _STEPS[bare]
        values += int(np.count_nonzero(steps > 0) + np.count_nonzero(bare == ord(",")))
        if values >= limits.max_json_elements:
            raise InvalidInput(f"more than {limits.max_json_elements} values in one body")
        if depth + int(steps.cumsum(dtype=np.int32).max(initial=0)) > limits.max_json_depth:
            raise BadJson(f"the body is nested deeper than {limits.max_json_depth} levels")
        depth += int(steps.sum(dtype=np.int64))


def _unusual(value: Any) -> Any:
    """What orjson leaves to us: bytes, which are UTF-8 text in JSON, and arrays it cannot take as they are."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, np.ndarray):
        raise TypeError
    if value.dtype.kind in "OUS":
        return np.reshape(np.array(tensor_to_json(value)["data"], dtype=object), value.shape).tolist()
    if value.ndim and element_kind(value.dtype) in "biuf":
        return np.ascontiguousarray(widened(value))
    return value.tolist()


def _all_finite(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return element_kind(value.dtype) != "f" or bool(np.isfinite(widened(value)).all())
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_all_finite, value))
    return True
