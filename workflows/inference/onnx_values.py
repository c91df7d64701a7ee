"""What onnxruntime gives back, as named arrays: tensors as they are, sequences in parts, maps as values and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workflows.errors import BadOutput, InvalidInput
from workflows.inference.graph_signature import LABELS, Output, Selection
from workflows.tensors import DTYPES, Array

__all__ = ["named_arrays"]


def named_arrays(values: Sequence[Any], selection: Selection) -> dict[str, Array]:
    """The answer under the names that were asked for, in that order.

    Args:
        values: One per member of `selection.outputs`. An optional output that the graph left empty is left out.

    Raises:
        InvalidInput: A part of a sequence was asked for that is not there this time.
        BadOutput: The maps of one output do not all have the same labels.
    """
    found: dict[str, Array] = {}
    sequences: dict[str, list[Array]] = {}
    for output, value in zip(selection.outputs, values, strict=True):
        if value is None:
            continue
        if output.form == "tensor":
            found[output.name] = value
        elif output.form == "sequence":
            sequences[output.name] = value
        else:
            rows = value if output.form == "maps" else [value]
            dense, labels = _dense(output, rows)
            found[output.name] = dense if output.form == "maps" else dense[0]
            found[output.name + LABELS] = labels
    if not sequences:
        return found if tuple(found) == selection.wanted else {n: found[n] for n in selection.wanted if n in found}
    answer: dict[str, Array] = {}
    for name in selection.wanted:
        if name in sequences:
            answer.update((f"{name}.{index}", part) for index, part in enumerate(sequences[name]))
        elif name in found:
            answer[name] = found[name]
        else:
            answer.update(_part(name, sequences))
    return answer


def _part(name: str, sequences: Mapping[str, Sequence[Array]]) -> dict[str, Array]:
    """One part of a sequence, by its own name; nothing where that output was left empty."""
    whole, _, index = name.rpartition(".")
    if whole not in sequences:
        return {}
    if int(index) >= len(sequences[whole]):
        raise InvalidInput(f"output {name[:64]!r} is unknown: there are {len(sequences[whole])} parts", param="outputs")
    return {name: sequences[whole][int(index)]}


def _dense(output: Output, rows: Sequence[Mapping[Any, Any]]) -> tuple[Array, Array]:
    """Values of shape (rows, classes) and labels of shape (classes,); without rows nobody knows the classes: (0, 0), (0,)."""
    keys = tuple(rows[0]) if rows else ()
    if any(tuple(row) != keys for row in rows):
        raise BadOutput(f"output {output.name[:64]!r} has different labels in different rows")
    dense = np.empty((len(rows), len(keys)), DTYPES[output.dtype or "float32"])
    for index, row in enumerate(rows):
        dense[index] = list(row.values())
    return dense, np.array(keys, DTYPES[output.labels or "string"])
