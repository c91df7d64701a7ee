"""Several requests as one, and the answer as several again: arrays joined and cut along their leading axis.

Knows arrays and row counts; no model, and no opinion on whether a model treats its rows independently.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from workflows.tensors import Array

__all__ = ["Merged", "bucket_of", "cost_of", "merge", "rows_of"]

Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Merged:
    """Requests joined along axis 0.

    Attributes:
        inputs: What the model runs on.
        rows: How many rows each request brought, in order; all above 0.
    """

    inputs: dict[str, Array]
    rows: tuple[int, ...]

    def split(self, outputs: Arrays, shared: Collection[str] = ()) -> list[dict[str, Array]] | None:
        """Each request's part of the model's outputs: views into them, in the order of the requests.

        Args:
            outputs: What the model gave for `inputs`.
            shared: Outputs that belong to every request as they are (class labels, for example).

        Returns:
            None where an output does not have as many rows as all requests together: it says something about the whole
            batch, and nobody can tell which part is whose. Then the requests must run one by one. An output that has
            that many rows by accident cannot be told apart here: ask the model's signature before merging.
        """
        if self.unfit(outputs, shared):
            return None
        ends = list(accumulate(self.rows))
        return [
            {name: array if name in shared else array[end - count : end] for name, array in outputs.items()}
            for count, end in zip(self.rows, ends, strict=True)
        ]

    def unfit(self, outputs: Arrays, shared: Collection[str] = ()) -> set[str]:
        """The outputs that `split` cannot cut: those that do not have as many rows as all requests together."""
        count = sum(self.rows)
        wrong = {name for name, array in outputs.items() if array.ndim == 0 or array.shape[0] != count}
        return wrong.difference(shared)


def rows_of(inputs: Arrays) -> int | None:
    """The length of the leading axis that all arrays share; None where one has no axis or another length."""
    count: int | None = None
    for array in inputs.values():
        if array.ndim == 0 or (count is not None and array.shape[0] != count):
            return None
        count = array.shape[0]
    return count


def cost_of(inputs: Mapping[str, Array]) -> float:
    """What a request takes of a batch's `max_cost`: its rows, at least one."""
    first = next(iter(inputs.values()), None)
    return float(first.shape[0]) if first is not None and first.ndim and first.shape[0] else 1.0


def bucket_of(inputs: Arrays) -> Hashable:
    """Equal for requests that can be merged: the same names, dtypes and shapes behind the leading axis. Never raises."""
    return tuple([(name, inputs[name].dtype, inputs[name].ndim, inputs[name].shape[1:]) for name in sorted(inputs)])


def merge(requests: Sequence[Arrays]) -> Merged | None:
    """Join requests along axis 0; every dtype stays what it is.

    Returns None where that cannot be undone or would change a value: no requests, names, dtypes or trailing shapes that
    differ, arrays of one request that disagree on their rows, or a request without any row.
    """
    if not requests:
        return None
    rows = []
    names = requests[0].keys()
    for request in requests:
        count = rows_of(request)
        if not count or request.keys() != names:
            return None
        rows.append(count)
    inputs = {}
    for name in names:
        parts = [request[name] for request in requests]
        dtype, trailing = parts[0].dtype, parts[0].shape[1:]
        if any(part.dtype != dtype or part.shape[1:] != trailing for part in parts):
            return None
        inputs[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Merged(inputs, tuple(rows))
