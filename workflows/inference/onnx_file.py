"""What the bytes of a model file say that onnxruntime does not tell. Reads them; knows no protobuf and runs nothing."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Final

__all__ = ["quantises_by_batch"]

# Operators that take one scale from a whole tensor, so that every row's precision depends on the loudest row.
_BY_TENSOR: Final = (b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul", b"DynamicQuantizeLSTM")
# A node's kind is a text with its length before it: in `.onnx` (protobuf) after the tag of its field, in `.ort`
# (flatbuffers) as four bytes.
_NODES: Final = re.compile(
    b"|".join(
        rb"(?:\x22%b|%b)%b" % (re.escape(bytes([len(kind)])), re.escape(len(kind).to_bytes(4, "little")), kind)
        for kind in _BY_TENSOR
    ),
    re.DOTALL,
)


def quantises_by_batch(path: str) -> bool:
    """Whether a graph has a node that quantises with one scale for all rows.

    Text of a node that happens to be written like this would be taken for one, which costs speed and no answer.
    """
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _NODES.search(content) is not None
