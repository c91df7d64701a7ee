"""Tensors as the Open Inference Protocol's binary form has them: little-endian, row-major, no padding.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

An element of BYTES is its length in four bytes and then itself: text where it is UTF-8, and else `bytes`. Sizes are
checked with Python's integers before memory is taken, and numbers are not copied: what comes out is a read-only view of
what came in.
"""

from __future__ import annotations

import struct
from math import prod

import numpy as np

from workflows.errors import BadOutput
from workflows.tensors import DTYPES, Array, bad_tensor, checked_shape

__all__ = ["tensor_from_bytes", "tensor_to_bytes"]

_LENGTH = struct.Struct("<I")


def tensor_from_bytes(name: str, dtype: str, shape: object, data: memoryview, most_texts: int) -> Array:
    """Build the array that a binary tensor describes.

    Args:
        name: The tensor's name, for error messages and `param`.
        dtype: A key of `DTYPES`.
        shape: Non-negative integers.
        data: All of the tensor's bytes, and nothing else.
        most_texts: How many elements a tensor of texts may have.

    Raises:
        InvalidInput: A shape that cannot be, another number of bytes than the shape says, a boolean that is neither 0
            nor 1, an element of BYTES that ends elsewhere than its length says.
    """
    dims = checked_shape(name, shape)
    count = prod(dims)
    target = DTYPES[dtype]
    if dtype == "string":
        if count > most_texts:
            raise bad_tensor(name, "too many texts")
        return _texts(name, count, data).reshape(dims)
    if len(data) != count * target.itemsize:
        raise bad_tensor(name, f"expected {count * target.itemsize} bytes, got {len(data)}")
    if not count:
        return np.empty(dims, target)
    array: Array = np.frombuffer(data, target.newbyteorder("<")).astype(target, copy=False)
    if dtype == "bool" and np.frombuffer(data, np.uint8).max() > 1:
        raise bad_tensor(name, "a boolean is neither 0 nor 1")
    return array.reshape(dims)


def tensor_to_bytes(array: Array) -> bytes | memoryview:
    """An array's bytes: its own memory, if that is in order. Texts are written in UTF-8.

    Raises BadOutput for a text that has no UTF-8, because it holds half of a surrogate pair.
    """
    if array.dtype.kind in "OUS":
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(_utf8, array.ravel().tolist()))
    ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data if ordered.size else b""


def _texts(name: str, count: int, data: memoryview) -> Array:
    if len(data) < count * _LENGTH.size:
        raise bad_tensor(name, f"{len(data)} bytes cannot hold {count} elements")
    found: list[str | bytes] = []
    place = 0
    for _ in range(count):
        start = place + _LENGTH.size
        if start > len(data):
            raise bad_tensor(name, f"ends within element {len(found)}")
        (size,) = _LENGTH.unpack_from(data, place)
        place = start + size
        if place > len(data):
            raise bad_tensor(name, f"element {len(found)} is longer than what is there")
        try:
            found.append(str(data[start:place], "utf-8"))
        except UnicodeDecodeError:
            found.append(bytes(data[start:place]))
    if place != len(data):
        raise bad_tensor(name, f"{len(data) - place} bytes too many")
    array = np.empty(count, object)
    array[:] = found
    return array


def _utf8(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        return str(item).encode()
    except UnicodeEncodeError as cause:
        raise BadOutput("the model gave a text that has no form in UTF-8") from cause
