"""What the bytes of a model file say that onnxruntime does not tell. Reads them; knows no protobuf and runs nothing."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Final

__all__ = ["quantises_by_batch"]

# Operators that take one scale from a whole tensor, so that every row's precision depends on the loudest row. They begin
# alike, which finds them at the speed of memory.
_BY_TENSOR: Final = re.compile(rb"DynamicQuantize(?:Linear|MatMul|LSTM)")


def quantises_by_batch(path: str) -> bool:
    """Whether a graph has a node that quantises with one scale for all rows.

    Other text that is written exactly like such a node would be taken for one, which costs speed and no answer.
    """
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(_is_node(content, *found.span()) for found in _BY_TENSOR.finditer(content))


def _is_node(content: mmap.mmap, start: int, end: int) -> bool:
    """Whether this text says what kind a node is, rather than how somebody called something.

    The kind has its length before it: in `.onnx` (protobuf) after the tag of its field, in `.ort` (flatbuffers) as four
    bytes.
    """
    length = end - start
    before = content[max(start - 4, 0) : start]
    return before.endswith(bytes([0x22, length])) or before == length.to_bytes(4, "little")
