"""bfloat16 into onnxruntime and out of it, whose Python interface has no arrays of that: bit by bit, as values of its own.

Knows how a session is run and what a signature says. The module `onnxruntime` is passed in, since importing it belongs
into `do_setup`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from workflows.errors import WorkflowError
from workflows.inference.graph_signature import GraphSignature, Selection
from workflows.tensors import BFLOAT16, Array

__all__ = ["givable", "has_bfloat16", "run_by_values"]

_DTYPE: Final = "bfloat16"
_ELEMENT_TYPE: Final = 16  # of onnx.TensorProto


def has_bfloat16(graph: GraphSignature) -> bool:
    taken, given = graph.inputs.values(), graph.outputs or ()
    return any(spec.dtype == _DTYPE for spec in taken) or any(output.dtype == _DTYPE for output in given)


def givable(graph: GraphSignature) -> GraphSignature:
    """The signature, in which outputs of bfloat16 have no dtype where they cannot be had.

    Their bits can be read from values of onnxruntime's own, which it gives for all outputs or none, and for such values
    as inputs. No text can be one, and of sequences and maps nothing can be read.
    """
    outputs = graph.outputs or ()
    by_values = all(output.form == "tensor" for output in outputs)
    if by_values and not any(spec.dtype == "string" for spec in graph.inputs.values()):
        return graph
    return replace(
        graph, outputs=tuple(replace(output, dtype=None) if output.dtype == _DTYPE else output for output in outputs)
    )


def run_by_values(
    onnxruntime: Any, session: Any, feeds: Mapping[str, Array], selection: Selection, options: Any
) -> list[Any]:
    """What `session.run` gives, also with bfloat16 among inputs and outputs; arrays of their own memory."""
    values = onnxruntime.OrtValue
    if all(output.dtype != _DTYPE for output in selection.outputs):
        mixed = {name: _value(values, array) if array.dtype == BFLOAT16 else array for name, array in feeds.items()}
        found: list[Any] = session.run(selection.fetch, mixed, options)
        return found
    given = {name: _value(values, array) for name, array in feeds.items()}
    return [_array(value) for value in session.run_with_ort_values(selection.fetch, given, options)]


def _value(values: Any, array: Array) -> Any:
    """The array's memory as a value of onnxruntime, which would not see strides."""
    ordered = np.asarray(array, order="C")
    if array.dtype == BFLOAT16:
        return values.ortvalue_from_numpy_with_onnx_type(ordered.view(np.uint16), _ELEMENT_TYPE)
    return values.ortvalue_from_numpy(ordered)


def _array(value: Any) -> Array | None:
    """A copy: an output that is an input as well has the memory of that."""
    if not value.has_value():
        return None
    if value.element_type() != _ELEMENT_TYPE:
        return np.array(value.numpy())
    if value.device_name() != "cpu":
        raise WorkflowError("onnxruntime left an output of bfloat16 on a device from which it cannot be read")
    return np.array(_Bits(value)).view(BFLOAT16)


class _Bits:
    """What numpy must know to read a value's memory, and the value, so that the memory stays as long."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(np.uint16).str,
            "shape": tuple(value.shape()),
            "data": (value.data_ptr(), True),
        }
