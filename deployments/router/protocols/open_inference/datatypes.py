"""The protocol's names for the types of tensors, and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from workflows.errors import BadOutput
from workflows.tensors import Array, dtype_name

__all__ = ["DATATYPES", "ONLY_BINARY", "datatype_of", "named"]

DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "BYTES": "string",
}
ONLY_BINARY: Final = frozenset({"BF16"})
"""Those that the protocol has no JSON form for. It has none for FP16 either, which JSON can say: that is taken."""
_NAMES: Final = {dtype: datatype for datatype, dtype in DATATYPES.items()}


def named(dtype: str) -> str:
    """The protocol's name of a dtype; where it has none, the dtype in capitals."""
    return _NAMES.get(dtype, dtype.upper())


def datatype_of(name: str, array: Array) -> str:
    """The protocol's name of an output's type. Raises BadOutput where it has none."""
    datatype = _NAMES.get(dtype_name(array))
    if datatype is None:
        raise BadOutput(f"output {name[:64]!r} has a type that this protocol does not have")
    return datatype
