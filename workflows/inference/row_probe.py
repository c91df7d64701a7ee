"""Whether a model treats rows independently, found out by running it. Knows arrays and a function, no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from workflows.card import TensorSpec
from workflows.tensors import DTYPES, Array

__all__ = ["rows_stand_alone", "sample"]

_ROWS: Final = 3
_OTHER: Final = 2  # exported programs often leave no room for 1, which has rules of its own
_TOLERANCE: Final = (
    1e-2  # generous: half precision and other kernels for other sizes differ; a mixed-up row differs more
)

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def sample(specs: Sequence[TensorSpec], rows: int, *, varied: bool = False) -> dict[str, Array]:
    """Inputs that fit: zeros, or rows that differ; -1 is `rows` on the leading axis and 2 elsewhere."""
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for spec in specs:
        shape = [size if size >= 0 else (rows if axis == 0 else _OTHER) for axis, size in enumerate(spec.shape)]
        dtype = DTYPES[spec.dtype]
        values = random.random(shape) if varied else np.zeros(shape)
        arrays[spec.name] = values.astype(dtype) if dtype.kind == "f" else (values > 0.5).astype(dtype)
    return arrays


def rows_stand_alone(run: Run, specs: Sequence[TensorSpec]) -> bool:
    """Whether a few rows give together what each gives alone. Raises what `run` raises."""
    inputs = sample(specs, _ROWS, varied=True)
    together = run(inputs)
    alone = [run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(_ROWS)]
    return all(_same(array, [answer[name] for answer in alone]) for name, array in together.items())


def _same(together: Array, alone: Sequence[Array]) -> bool:
    if together.ndim == 0 or any(part.ndim == 0 or part.shape[0] != 1 for part in alone):
        return False
    if any(part.shape != alone[0].shape for part in alone):
        return False
    expected = np.concatenate(alone)
    if together.shape != expected.shape:
        return False
    if together.dtype.kind != "f":
        return bool((together == expected).all())
    finite = np.abs(expected[np.isfinite(expected)], dtype=np.float64)
    slack = _TOLERANCE * float(finite.max(initial=0.0))
    return bool(np.allclose(together, expected, rtol=_TOLERANCE, atol=slack, equal_nan=True))
