"""What an ONNX file refers to outside of itself, and whether that stays in the model's own directory.

Reads protobuf's wire format, as far as tensors may stand anywhere in a model; knows no operators and runs nothing.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workflows.errors import InvalidInput
from workflows.models.content import RUNS_CODE, kind_of

__all__ = ["check_onnx"]

# Field numbers of onnx.proto: by message, the fields that are messages in which a tensor may stand.
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH: Final = 7
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH: Final = 64
_MAX_FIELDS: Final = 8_000_000  # some seconds of reading: a million operators
_MAX_LOCATION_CHARS: Final = 1024


@dataclass(frozen=True, slots=True)
class _External:
    location: str
    offset: int
    length: int | None


class _Malformed(Exception):
    pass


def check_onnx(path: Path, name: str) -> int:
    """Whether a file may be given to onnxruntime, by its real content.

    Args:
        path: In the directory in which its external data lie: a link of the hub's cache must not have been followed.
        name: What to call it in errors.

    Returns:
        The bytes of all its files together.

    Raises:
        InvalidInput: It is no ONNX model, or refers to a file outside of its directory, to a link, or beyond a file's end.
    """
    with ExitStack() as opened:
        file = opened.enter_context(path.open("rb"))
        kind = kind_of(file)
        size = file.seek(0, 2)
        # onnxruntime goes by this name, and would read as ONNX what only begins like a flatbuffer.
        if kind == "ort" and path.suffix.lower() == ".ort":  # whole in one file
            return size
        externals: list[_External] | None = None
        # A writer that does not begin with the version writes ONNX all the same: what it is, is found by reading it.
        if kind in ("onnx", "ort", "other") and size:
            content = opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            try:
                externals = list(_externals(content))
            except (_Malformed, UnicodeDecodeError, ValueError):
                externals = None
    if externals is None:
        what = f": it is {RUNS_CODE[kind]}, which is never loaded here" if kind in RUNS_CODE else ""
        raise InvalidInput(f"{name!r} is not an ONNX model that this onnxruntime can load{what}", param="model")
    return size + _check_files(path.parent, externals, name)


# ---- what it refers to -----------------------------------------------------------------------------------------------


def _externals(content: mmap.mmap) -> Iterator[_External]:
    """All tensors whose data lie in other files. Raises _Malformed."""
    fields = 0
    graphs = 0
    waiting = [("model", 0, len(content), 0)]
    while waiting:
        message, start, end, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise _Malformed
        parts: list[tuple[int, int]] = []
        outside = False
        for number, wire, first, last in _fields(content, start, end):
            fields += 1
            if fields > _MAX_FIELDS:
                raise _Malformed
            if message == "tensor":
                if number == _EXTERNAL_DATA and wire == _BYTES:
                    parts.append((first, last))
                outside = outside or (number == _DATA_LOCATION and _varint(content, first, last)[0] == 1)
            elif wire == _BYTES and number in _INSIDE[message]:
                graphs += depth == 0 and number == _GRAPH
                waiting.append((_INSIDE[message][number], first, last, depth + 1))
        if outside or parts:
            yield _external(content, parts)
    if graphs != 1:
        raise _Malformed


def _external(content: mmap.mmap, parts: list[tuple[int, int]]) -> _External:
    said: dict[str, str] = {}
    for start, end in parts:
        # Fields of another wire type are no text: protobuf passes over them.
        fields = [(number, first, last) for number, wire, first, last in _fields(content, start, end) if wire == _BYTES]
        texts = {number: content[first:last].decode() for number, first, last in fields}
        if texts.get(1, "") in said:
            raise _Malformed
        said[texts.get(1, "")] = texts.get(2, "")
    length = said.get("length")
    return _External(said.get("location", ""), int(said.get("offset", "0")), None if length is None else int(length))


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, and where the value begins and ends, of every field of one message."""
    at = start
    while at < end:
        tag, at = _varint(content, at, end)
        if tag >= 1 << 32:  # other readers cut such a number off, and see another field
            raise _Malformed
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, at = _varint(content, at, end)
            last = at + length
        elif wire == _VARINT:
            last = _varint(content, at, end)[1]
        else:
            last = at + {_FIXED64: 8, _FIXED32: 4}.get(wire, end)
        if number == 0 or last > end:
            raise _Malformed
        yield number, wire, at, last
        at = last


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Malformed


# ---- whether it may --------------------------------------------------------------------------------------------------


def _check_files(directory: Path, externals: list[_External], name: str) -> int:
    """The bytes of all files that are referred to."""
    sizes: dict[str, int] = {}
    for external in externals:
        if external.location not in sizes:
            sizes[external.location] = _checked_size(directory, external.location, name)
        size = sizes[external.location]
        length = size - external.offset if external.length is None else external.length
        if external.offset < 0 or length < 0 or external.offset + length > size:
            raise _refused(name, "reaches beyond the end of its file")
    return sum(sizes.values())


def _checked_size(directory: Path, location: str, name: str) -> int:
    parts = location.split("/")
    if len(location) > _MAX_LOCATION_CHARS or not location.isprintable() or set(location) & set("\\:*"):
        raise _refused(name, "has a location that is no relative path")
    if any(part in ("", ".", "..") for part in parts):
        raise _refused(name, "leaves the model's directory")
    inside = directory.resolve()
    try:
        real = (directory / location).resolve(strict=True)
        about = real.stat()
    except (OSError, RuntimeError) as cause:
        raise _refused(name, "is not there") from cause
    if real != inside / location and not _is_blob_of_hub(inside, location, real):
        raise _refused(name, "is reached by a link")
    if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
        raise _refused(name, "is no regular file of its own: links are not followed")
    return about.st_size


def _is_blob_of_hub(inside: Path, location: str, real: Path) -> bool:
    """The layout of huggingface_hub's cache: `snapshots/<commit>/...` holds links to files in `blobs` of the same model."""
    link = inside / location
    alone = link.parent.resolve() == link.parent  # only the last part is a link
    return alone and real.parent.name == "blobs" and inside.is_relative_to(real.parent.parent / "snapshots")


def _refused(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"{name!r} has external data that {why}", param="model")
