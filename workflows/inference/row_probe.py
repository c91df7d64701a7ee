"""Whether a model treats rows independently, found out by running it. Knows arrays and a function, no model.

Shapes cannot tell: a model that normalises over the batch, or that quantises its activations with one scale for all rows,
has the same shapes as any other. So ordinary rows are run in three kinds of company: copies of themselves, which can change
nothing but the kernels; other ordinary rows; and rows of very large numbers. Each is compared by its own magnitude: what a
neighbour does to a row of ones disappears beside the numbers of a row of ten thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np

from workflows.errors import WorkflowError
from workflows.inference.graph_signature import Input
from workflows.inference.merging import merge
from workflows.tensors import DTYPES, Array, element_kind, widened

__all__ = ["Fill", "mixed_outputs", "sample"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Fill = Literal["zeros", "ordinary", "other", "third", "hostile"]
Draw = Callable[[Fill, int], Mapping[str, Array]]

_SEEDS: Final[dict[Fill, int]] = {"ordinary": 0, "other": 1, "third": 2, "hostile": 3}
_LOUD: Final = 1e4
# How far a row may be from itself, in parts of its largest number. Among copies, where only kernels differ: generous, what
# counts the rows is further off. In other company of the same number: next to nothing, or as much as kernels explain.
_AMONG_COPIES: Final = 0.1
_LEAST: Final = 1e-4
_NOISES: Final = 3


def sample(
    inputs: Sequence[Input], fill: Fill, rows: int | None, sizes: Mapping[str, int], size: int
) -> dict[str, Array]:
    """Inputs that fit, the same every time.

    Args:
        fill: `zeros`; `ordinary`, `other` and `third` are different fractions in float tensors, and 1, both and 0 in those of
            integers; `hostile` is very large where a number cannot be mistaken for an index.
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
    copies = [_joined(run, [first] * 3)[0], _joined(run, [last] * 3)[-1]]
    allowed: dict[str, float] = {}
    for name in alone[0]:
        noise = max(_distance(part.get(name), answer.get(name)) for part, answer in zip(copies, alone, strict=True))
        if noise <= _AMONG_COPIES:
            allowed[name] = min(max(_NOISES * noise, _LEAST), _AMONG_COPIES)
    mixed = set(alone[0]) - allowed.keys()
    for fill in ("third", "hostile"):
        company = draw(fill, size)
        try:
            parts = _joined(run, [first, company, last])
        except WorkflowError:
            if fill == "third" or not _refused(run, company):
                return set(alone[0])
            continue  # not for the company's sake: the model refuses such rows by themselves
        for part, copy in zip((parts[0], parts[-1]), copies, strict=True):
            mixed.update(name for name, most in allowed.items() if _distance(part.get(name), copy[name]) > most)
    return mixed


def _joined(run: Run, requests: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """The answers to requests that run together, without the outputs that cannot be cut apart."""
    merged = merge(requests)
    if merged is None:
        raise ValueError("rows that cannot be joined cannot be probed")
    together = run(merged.inputs)
    unfit = merged.unfit(together)
    parts = merged.split({name: array for name, array in together.items() if name not in unfit})
    assert parts is not None
    return parts


def _refused(run: Run, inputs: Mapping[str, Array]) -> bool:
    try:
        run(inputs)
    except WorkflowError:
        return True
    return False


def _distance(array: Array | None, expected: Array | None) -> float:
    """How far the furthest row is from the expected one, in parts of that row's own largest number."""
    if array is None or expected is None or array.shape != expected.shape or array.dtype != expected.dtype:
        return np.inf
    if element_kind(array.dtype) != "f":
        return 0.0 if (array == expected).all() else np.inf
    return max((_row_distance(*rows) for rows in zip(widened(array), widened(expected), strict=True)), default=0.0)


def _row_distance(row: Array, expected: Array) -> float:
    finite = np.isfinite(expected)
    if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(row), 0, row), equal_nan=True):
        return np.inf
    numbers = expected[finite].astype(np.float64)
    furthest = float(np.abs(row[finite].astype(np.float64) - numbers).max(initial=0.0))
    largest = float(np.abs(numbers).max(initial=0.0))
    return furthest and (furthest / largest if largest else np.inf)


def _filled(spec: Input, fill: Fill, shape: tuple[int, ...]) -> Array:
    dtype = DTYPES[spec.dtype or "float32"]
    kind = element_kind(dtype)
    if fill == "zeros":
        return np.full(shape, "", dtype=object) if spec.dtype == "string" else np.zeros(shape, dtype)
    values = np.random.default_rng(_SEEDS[fill]).random(shape)
    # As much apart as two numbers can be that every table of words has, and that are good for a mask.
    ones = {"ordinary": values >= 0, "third": values < 0}.get(fill, values > 0.5)
    if spec.dtype == "string":
        text: Array = np.where(ones, "1", "0").astype(object)
        return text
    if fill == "hostile":
        if kind == "f":
            return ((2 * values - 1) * _LOUD).astype(dtype)
        if kind in "iu" and dtype.itemsize == 1:  # brightness, most of the time
            return (values * np.iinfo(dtype).max).astype(dtype)
    return values.astype(dtype) if kind == "f" else ones.astype(dtype)
