"""Whether a model treats rows independently, found out by running it. Knows arrays and a function, no model.

Shapes cannot tell: a model that normalises over the batch, or that quantises its activations with one scale for all rows,
has the same shapes as any other. So ordinary rows are run alone and in company, and compared each by its own magnitude:
what a neighbour does to a row of ones disappears beside the numbers of a row of ten thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from workflows.errors import WorkflowError
from workflows.inference.graph_signature import Input
from workflows.inference.merging import merge
from workflows.tensors import DTYPES, Array

__all__ = ["Fill", "mixed_outputs", "sample"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Fill = Literal["zeros", "ordinary", "other", "third", "hostile"]
Draw = Callable[[Fill, int], Mapping[str, Array]]

_SEEDS: Final[dict[Fill, int]] = {"ordinary": 0, "other": 1, "third": 2, "hostile": 3}
_LOUD: Final = 1e4
# Generous: half precision and other kernels for other sizes differ; a mixed-up row differs more.
_TOLERANCE: Final = 1e-2


def sample(
    inputs: Sequence[Input], fill: Fill, rows: int | None, sizes: Mapping[str, int], size: int
) -> dict[str, Array]:
    """Inputs that fit, the same every time.

    Args:
        fill: `zeros`; `ordinary`, `other` and `third` are fractions in float tensors and 0 and 1 in those of integers,
            different in every row; `hostile` has rows of very large and very small numbers in turn, where a number cannot
            be mistaken for an index.
        rows: Of free leading axes, see `Input.sample_shape`; as well `sizes` and `size`.
    """
    return {spec.name: _filled(spec, fill, spec.sample_shape(sizes, size, rows)) for spec in inputs}


def mixed_outputs(run: Run, draw: Draw) -> set[str]:
    """The outputs whose part for a row depends on the other rows that run with it.

    Args:
        run: The model. Raises WorkflowError where it refuses its inputs; whatever else it raises, this raises.
        draw: Inputs of this kind, see `sample`, with this many rows.

    Raises:
        WorkflowError: The model refuses made-up rows, so that nothing is known.
    """
    for size in (1, 2):  # exported programs may leave no room for 1, which has rules of its own
        try:
            return _compared(run, draw, size)
        except WorkflowError as error:
            refused = error
    raise refused


def _compared(run: Run, draw: Draw, size: int) -> set[str]:
    first, last = draw("ordinary", size), draw("other", size)
    alone = [run(first), run(last)]
    mixed = _changed(run, alone, [first, draw("third", size), last])
    hostile = draw("hostile", 2 * size)
    try:
        return mixed | _changed(run, alone, [first, hostile, last])
    except WorkflowError:
        pass
    try:
        run(hostile)
    except WorkflowError:
        return mixed  # not for the company's sake: the model refuses such rows by themselves
    return {name for answer in alone for name in answer}


def _changed(run: Run, alone: Sequence[Mapping[str, Array]], requests: Sequence[Mapping[str, Array]]) -> set[str]:
    """The outputs that differ for the first and the last of the requests when all run together."""
    merged = merge(requests)
    if merged is None:
        raise ValueError("rows that cannot be joined cannot be probed")
    together = run(merged.inputs)
    mixed = merged.unfit(together)
    mixed.update(name for answer in alone for name in answer if name not in together)
    parts = merged.split({name: array for name, array in together.items() if name not in mixed})
    assert parts is not None
    for answer, part in zip(alone, (parts[0], parts[-1]), strict=True):
        mixed.update(name for name, array in part.items() if name not in answer or not _same(array, answer[name]))
    return mixed


def _same(part: Array, alone: Array) -> bool:
    if part.shape != alone.shape or part.dtype != alone.dtype:
        return False
    if part.dtype.kind != "f":
        return bool((part == alone).all())
    return all(_close(*rows) for rows in zip(part, alone, strict=True))


def _close(row: Array, expected: Array) -> bool:
    finite = np.abs(expected[np.isfinite(expected)], dtype=np.float64)
    slack = _TOLERANCE * float(finite.max(initial=0.0))
    return bool(np.allclose(row, expected, rtol=_TOLERANCE, atol=slack, equal_nan=True))


def _filled(spec: Input, fill: Fill, shape: tuple[int, ...]) -> Array:
    dtype = DTYPES[spec.dtype or "float32"]
    if fill == "zeros":
        return np.full(shape, "", dtype=object) if spec.dtype == "string" else np.zeros(shape, dtype)
    values = np.random.default_rng(_SEEDS[fill]).random(shape)
    if spec.dtype == "string":
        text: Array = np.where(values > 0.5, "1", "0").astype(object)
        return text
    if fill == "hostile" and values.ndim:
        if dtype.kind == "f":
            values = 2 * values - 1
            values[::2] *= _LOUD
            values[1::2] /= _LOUD
            return values.astype(dtype)
        if dtype.kind in "iu" and dtype.itemsize == 1:  # brightness, most of the time
            return (values * np.iinfo(dtype).max).astype(dtype)
    return values.astype(dtype) if dtype.kind == "f" else (values > 0.5).astype(dtype)
