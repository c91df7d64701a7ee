"""What a model file is, by its content and never by its name; which kinds run code when they are loaded. Runs nothing."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable
from typing import IO, Final, Literal

import numpy as np

__all__ = ["RUNS_CODE", "Kind", "kind_of"]

Kind = Literal[
    "safetensors", "onnx", "ort", "torchscript", "exported", "pickle", "numpy", "objects", "hdf5", "archive", "other"
]

# What to call those kinds that run code when they are loaded, or may hold some that do.
RUNS_CODE: Final[dict[Kind, str]] = {
    "torchscript": "a TorchScript file",
    "exported": "a torch.export program",
    "pickle": "a pickle",
    "objects": "a numpy file of pickled objects",
    "hdf5": "an HDF5 file, as Keras writes them with code inside",
    "archive": "an archive",
}

# Where in a file, and what stands there.
_MARKS: Final[tuple[tuple[Kind, int, tuple[bytes, ...]], ...]] = (
    ("pickle", 0, (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
    ("hdf5", 0, (b"\x89HDF\r\n\x1a\n",)),
    (
        "archive",
        0,
        (b"PK\x05\x06", b"PK\x07\x08", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"),
    ),
    ("archive", 257, (b"ustar",)),
    ("ort", 4, (b"ORTM",)),
)
_ZIP: Final = b"PK\x03\x04"
_NPY: Final = b"\x93NUMPY"
_HEAD_BYTES: Final = 1 << 16
_MAX_MEMBERS: Final = 100_000
_MAX_CHANCE: Final = 100  # no text of people's has so many opcodes in a row
# What pickles of the text protocols, which begin with nothing certain, need in order to do anything.
_CALLS: Final = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
_ONNX_IR_VERSION: Final = 0x08  # the tag of ModelProto's first field, which every writer writes first
_MAX_IR_VERSION: Final = 64


def kind_of(file: IO[bytes]) -> Kind:
    """What an open, seekable file holds. Reads its beginning and, of a zip, its table; leaves the position anywhere.

    `other` is what no library of ours would take for a program: text, JSON, vocabularies.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if head.startswith(_ZIP):
        return _kind_of_zip(file)
    if _is_safetensors(head, size):
        return "safetensors"
    if head.startswith(_NPY):
        return "objects" if _has_objects(io.BytesIO(head)) else "numpy"
    for kind, place, marks in _MARKS:
        if head[place:].startswith(marks):
            return kind
    if len(head) > 2 and head[0] == _ONNX_IR_VERSION and 0 < head[1] <= _MAX_IR_VERSION:
        return "onnx"
    return "pickle" if _is_text_pickle(head) else "other"


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _kind_of_zip(file: IO[bytes]) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            if len(members) > _MAX_MEMBERS:
                return "archive"
            names = {name.partition("/")[2] or name for name in members}
            if "archive_format" in names or "models/model.json" in names or "serialized_exported_program.json" in names:
                return "exported"
            if "constants.pkl" in names:
                return "torchscript"
            if "data.pkl" in names:
                return "pickle"
            if members and all(name.endswith(".npy") for name in members):
                return "objects" if _any_objects(archive, members) else "numpy"
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError):
        pass  # damaged, encrypted, or packed in a way that Python does not know
    return "archive"


def _any_objects(archive: zipfile.ZipFile, members: Iterable[str]) -> bool:
    for name in members:
        with archive.open(name) as member:
            if _has_objects(member):
                return True
    return False


def _has_objects(file: IO[bytes]) -> bool:
    """Whether an array's header declares Python objects, which are pickled; so does, for all we know, one without sense."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return bool(read(file)[2].hasobject)
    except (ValueError, EOFError):
        return True


def _is_text_pickle(head: bytes) -> bool:
    """Whether this reads as a pickle's opcodes, up to their end or further than chance goes, and calls something."""
    calls, count = False, 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            calls, count = calls or opcode.name in _CALLS, count + 1
    except Exception:  # noqa: BLE001 - whatever a parser of foreign bytes raises: it is no pickle, or is cut off
        return calls and count > _MAX_CHANCE
    return calls
