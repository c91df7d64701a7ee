"""The protocol's messages over gRPC, made from the descriptor set beside this file. Knows their form, not what they mean.

There is no generated code: it would need the very protobuf that generated it, and could not be in one process with a
client's own copy of the same names.

What comes in is taken apart before protobuf sees it. Raw tensors stay where they are, instead of being copied twice; and
protobuf gets no message that is small on the wire and huge in memory, such as one of a million empty inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from deployments.router.refusals import BadMessage, TooLarge

__all__ = ["MAX_PLAIN_BYTES", "PACKAGE", "SERVICE", "Rpc", "message_class", "parsed", "rpcs", "split", "tagged"]

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"
MAX_FIELDS: Final = 8192
"""Of one message, nested ones counted as one each."""
MAX_PLAIN_BYTES: Final = 4 << 20
"""What protobuf may get: in memory it may take forty times as much, and its parser holds the interpreter meanwhile."""
_MAX_VARINT_BYTES: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _loaded() -> DescriptorPool:
    pool = DescriptorPool()
    content = (files(__package__) / "open_inference.binpb").read_bytes()
    for file in FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL: Final = _loaded()


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of the service. `path` is how it is called on the wire."""

    name: str
    path: str
    request: Any
    answer: Any
    streams: bool


def message_class(name: str) -> Any:
    """The class of a message, by its name within the package."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def rpcs() -> list[Rpc]:
    """All methods of the service."""
    return [
        Rpc(
            method.name,
            f"/{SERVICE}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.client_streaming,
        )
        for method in _POOL.FindServiceByName(SERVICE).methods
    ]


def parsed(kind: Any, data: bytes) -> Any:
    """The message of this class. Raises BadMessage for what is none, TooLarge for what should have been split."""
    if len(data) > MAX_PLAIN_BYTES:
        raise TooLarge(f"all but raw tensors may take {MAX_PLAIN_BYTES} bytes of a message")
    try:
        return kind.FromString(data)
    except DecodeError as cause:
        raise BadMessage() from cause


def split(data: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """A message without one of its fields, which holds bytes and may be repeated; and what that field holds, in order.

    Raises BadMessage for what is no message, or one of more than `MAX_FIELDS` fields.
    """
    view = memoryview(data)
    rest: list[memoryview] = []
    found: list[memoryview] = []
    place = kept = fields = 0
    while place < len(data):
        start = place
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == _BYTES:
            size, place = _varint(data, place)
            begin, place = place, place + size
        elif kind == _VARINT:
            _, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise BadMessage()
        fields += 1
        if place > len(data) or fields > MAX_FIELDS:
            raise BadMessage()
        if kind == _BYTES and tag >> 3 == number:
            found.append(view[begin:place])
            rest.append(view[kept:start])
            kept = place
    if not found:
        return data, found
    rest.append(view[kept:])
    return b"".join(rest), found


def tagged(number: int, parts: Sequence[bytes | memoryview]) -> Iterable[bytes | memoryview]:
    """A field that holds bytes, as it stands in a message; in parts, so that large ones are joined only once."""
    yield _as_varint(number << 3 | _BYTES) + _as_varint(sum(map(len, parts)))
    yield from parts


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = shift = 0
    for index in range(place, min(place + _MAX_VARINT_BYTES, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise BadMessage()


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
