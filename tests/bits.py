"""Arrays for hypothesis whose bits matter: those of bfloat16 are drawn as bits, since hypothesis does not know that format."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workflows.tensors import BFLOAT16, Array

__all__ = ["EVERY_BFLOAT16", "arrays_of"]

EVERY_BFLOAT16: Array = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
"""By their bits: subnormals, both zeros, infinities, and NaNs of every payload."""
_EXPONENT = 0x7F80


def arrays_of(
    dtype: np.dtype[Any], shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]], *, finite: bool = False
) -> st.SearchStrategy[Array]:
    if dtype != BFLOAT16:
        elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False) if finite else None
        return hnp.arrays(dtype, shape, elements=elements)
    bits = st.integers(0, 0xFFFF)
    if finite:
        bits = bits.filter(lambda found: found & _EXPONENT != _EXPONENT)
    return hnp.arrays(np.uint16, shape, elements=bits).map(lambda array: array.view(BFLOAT16))
