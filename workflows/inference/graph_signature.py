"""What an ONNX graph takes and gives, as the graph itself declares it: requests are checked against it before it runs.

Knows names, dtypes and shapes; runs nothing and imports no runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np

from workflows.card import Signature, TensorSpec
from workflows.errors import InvalidInput, Unsupported
from workflows.tensors import DTYPES, Array, dtype_name

__all__ = ["Dims", "GraphSignature", "Input", "NodeArg", "Output", "Selection", "read_signature"]

Dims = tuple[int | str | None, ...]
Form = Literal["tensor", "sequence", "map", "maps"]

LABELS: Final = ".labels"
MAX_NAME_CHARS: Final = 64
_ELEMENT: Final = {"float": "float32", "double": "float64"}  # the others are called as in numpy
_TENSOR: Final = re.compile(r"(optional\()?tensor\((\w+)\)\)?")
_SEQUENCE: Final = re.compile(r"seq\(tensor\((\w+)\)\)")
_MAP: Final = re.compile(r"(seq\()?map\((\w+),tensor\((\w+)\)\)\)?")
# Names that exporters and onnxruntime make up for a dimension that nobody named.
_MADE_UP: Final = re.compile(r"unk__\d+|.*_dim_\d+")


class NodeArg(Protocol):
    """One input or output as onnxruntime describes it; `shape` is empty for a scalar and for an unknown rank alike."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> list[int | str | None]: ...


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that the graph takes.

    Attributes:
        dims: A number where the graph fixes a dimension, a name where equal names mean equal sizes, None where anything
            goes. None as a whole: scalar or unknown rank (onnxruntime does not tell them apart); every shape passes.
        required: False for optional inputs, and for initializers that a request may override.
    """

    name: str
    dtype: str
    dims: Dims | None
    required: bool = True

    def check(self, array: Array, sizes: dict[str, int]) -> Array:
        """The array as the runtime takes it. `sizes` collects what named dimensions turned out to be in this request."""
        if self.dtype == "string":
            array = self._as_text(array)
        elif array.dtype != DTYPES[self.dtype]:
            raise self._bad(f"dtype {self.dtype} is needed, got {_shown(array)}")
        if self.dims is None:
            return array
        if array.ndim != len(self.dims):
            raise self._bad(f"{len(self.dims)} dimensions are needed, got {array.ndim}")
        for axis, (dim, size) in enumerate(zip(self.dims, array.shape, strict=True)):
            if dim is None or dim == size:
                continue
            if isinstance(dim, int):
                raise self._bad(f"axis {axis} must be {dim} long, got {size}")
            if sizes.setdefault(dim, size) != size:
                raise self._bad(f"axis {axis} must be {sizes[dim]} long like the other axes called {dim!r}, got {size}")
        return array

    def sample_shape(self, sizes: Mapping[str, int], rows: int | None = None) -> tuple[int, ...]:
        """A shape that passes: `sizes` says how long named dimensions are, else 1; `rows` goes to a free leading axis."""
        shape = [dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in self.dims or ()]
        if rows is not None and self.dims and not isinstance(self.dims[0], int):
            shape[0] = rows
        return tuple(shape)

    def _as_text(self, array: Array) -> Array:
        """An object array of `str`, which the runtime takes for text; it would print other objects into strings."""
        if array.dtype.kind not in "OUS":
            raise self._bad(f"dtype string is needed, got {dtype_name(array)}")
        items = array.ravel().tolist()
        try:
            texts = [item if type(item) is str else _decoded(item) for item in items]
            "".join(texts).encode()
        except (TypeError, UnicodeError) as cause:
            raise self._bad("an element is not text") from cause
        checked = np.empty(len(texts), dtype=object)
        checked[:] = texts
        return checked.reshape(array.shape)

    def _bad(self, what: str) -> InvalidInput:
        return InvalidInput(f"input {self.name[:MAX_NAME_CHARS]!r}: {what}", param=self.name[:MAX_NAME_CHARS])


@dataclass(frozen=True, slots=True)
class Output:
    """Something that the graph gives.

    Attributes:
        form: `tensor`; `sequence` of tensors, answered as `name.0`, `name.1`, ...; `map` from labels to values, answered
            as the values, of shape (classes,), and `name.labels`, of shape (classes,); `maps`, one map per row, answered as
            values of shape (rows, classes) and the labels.
        dtype: Of the tensor, or of the maps' values; None where numpy has no such type.
        dims: As in `Input`.
        labels: dtype of the maps' keys.
    """

    name: str
    form: Form
    dtype: str | None
    dims: Dims | None = None
    labels: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a request may ask for."""
        return (self.name, self.name + LABELS) if self.form in ("map", "maps") else (self.name,)


@dataclass(slots=True)
class Selection:
    """The outputs that one request asked for.

    Attributes:
        wanted: The names of the answer, in order.
        outputs: What the graph must compute for them.
        mergeable: Whether every one has a part for every row, so that requests may run together.
        shared: Those among `wanted` that belong to every row alike.
    """

    wanted: tuple[str, ...]
    outputs: tuple[Output, ...]
    mergeable: bool
    shared: frozenset[str]
    fetch: list[str]


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """All inputs and outputs of one graph, in its order."""

    inputs: Mapping[str, Input]
    outputs: tuple[Output, ...]

    @property
    def required(self) -> list[Input]:
        return [spec for spec in self.inputs.values() if spec.required]

    def check(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """A request's arrays as the runtime takes them, never cast.

        Raises InvalidInput, whose `param` is the tensor's name: unknown or missing, or not of the declared dtype or shape.
        """
        checked: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for name, array in arrays.items():
            spec = self.inputs.get(name)
            if spec is None:
                shown = name[:MAX_NAME_CHARS]
                raise InvalidInput(f"input {shown!r} is unknown; the model takes {_listed(self.inputs)}", param=shown)
            checked[name] = spec.check(array, sizes)
        if len(checked) < len(self.inputs):
            for spec in self.inputs.values():
                if spec.required and spec.name not in checked:
                    shown = spec.name[:MAX_NAME_CHARS]
                    raise InvalidInput(f"input {shown!r} is missing", param=shown)
        return checked

    def select(self, wanted: Iterable[str] | None, whole_batch: frozenset[str] = frozenset()) -> Selection:
        """The outputs of these names, all of the graph's for None.

        Args:
            wanted: Names from `Output.names`.
            whole_batch: Outputs known to say something about all rows together, whatever their shape.

        Raises:
            InvalidInput: A name that is unknown or comes twice.
            Unsupported: An output of a type that numpy has not.
        """
        by_name = {name: output for output in self.outputs for name in output.names}
        names = tuple(by_name) if wanted is None else tuple(wanted)
        for name in names:
            if name not in by_name:
                shown = name[:MAX_NAME_CHARS]
                raise InvalidInput(f"output {shown!r} is unknown; the model gives {_listed(by_name)}", param="outputs")
            if by_name[name].dtype is None:
                raise Unsupported(f"output {name[:MAX_NAME_CHARS]!r} has a type that cannot be given", param="outputs")
        if len(set(names)) < len(names):
            raise InvalidInput("an output is asked for twice", param="outputs")
        outputs = tuple(dict.fromkeys(by_name[name] for name in names))
        return Selection(
            wanted=names,
            outputs=outputs,
            mergeable=self._merges(outputs) and whole_batch.isdisjoint(output.name for output in outputs),
            shared=frozenset(name for name in names if by_name[name].name != name),
            fetch=[output.name for output in outputs],
        )

    def _merges(self, outputs: Sequence[Output]) -> bool:
        """Whether the declared shapes say that requests can be joined along axis 0 and their answers cut apart again.

        Every required input must have a free leading axis, and every output one that is free and not called otherwise;
        an axis of that name anywhere else (a table of all rows against all rows) rules it out.
        """
        leading = [_leading(spec.dims) for spec in self.required]
        named = {name for name in leading if name}
        if not leading or None in leading or len(named) > 1:
            return False
        shapes = [*(spec.dims for spec in self.required), *(output.dims for output in outputs)]
        if any(not named.isdisjoint((dims or ())[1:]) for dims in shapes):
            return False
        for output in outputs:
            if output.form == "maps":
                continue
            axis = _leading(output.dims) if output.form == "tensor" else None
            if axis is None or (axis and named and axis not in named):
                return False
        return True

    def for_card(self, wanted: Iterable[str]) -> Signature:
        by_name = {name: output for output in self.outputs for name in output.names}
        return Signature(
            inputs=[TensorSpec(name=spec.name, dtype=spec.dtype, shape=_sizes(spec.dims)) for spec in self.required],
            outputs=[_output_spec(name, by_name[name]) for name in wanted],
        )


def read_signature(
    inputs: Iterable[NodeArg], outputs: Iterable[NodeArg], overridable: Iterable[NodeArg] = ()
) -> GraphSignature:
    """Understand what onnxruntime says about a graph.

    Raises Unsupported for an input that is no tensor of a numpy type, or two outputs that would be answered under one name.
    """
    taken = {spec.name: spec for spec in _inputs(inputs, required=True)}
    for spec in _inputs(overridable, required=False):
        taken.setdefault(spec.name, spec)
    given = tuple(map(_output, outputs))
    names = [name for output in given for name in output.names]
    parts = [re.compile(re.escape(output.name) + r"\.\d+") for output in given if output.form == "sequence"]
    if len(set(names)) < len(names) or any(part.fullmatch(name) for part in parts for name in names):
        raise Unsupported("the model has two outputs that would be answered under one name")
    return GraphSignature(taken, given)


def _inputs(args: Iterable[NodeArg], required: bool) -> Iterator[Input]:
    for arg in args:
        found = _TENSOR.fullmatch(arg.type)
        dtype = _dtype(found[2]) if found else None
        if found is None or dtype is None:
            raise Unsupported(
                f"the model's input {arg.name[:MAX_NAME_CHARS]!r} is of type {arg.type}, which is not served"
            )
        yield Input(arg.name, dtype, _dims(arg.shape), required and not found[1])


def _output(arg: NodeArg) -> Output:
    if found := _TENSOR.fullmatch(arg.type):
        return Output(arg.name, "tensor", _dtype(found[2]), _dims(arg.shape))
    if found := _SEQUENCE.fullmatch(arg.type):
        return Output(arg.name, "sequence", _dtype(found[1]))
    if found := _MAP.fullmatch(arg.type):
        return Output(arg.name, "maps" if found[1] else "map", _dtype(found[3]), labels=_dtype(found[2]))
    return Output(arg.name, "tensor", None)


def _dtype(element: str) -> str | None:
    name = _ELEMENT.get(element, element)
    return name if name in DTYPES else None


def _dims(shape: Iterable[int | str | None]) -> Dims | None:
    dims = tuple(map(_dim, shape))
    return dims or None


def _dim(dim: int | str | None) -> int | str | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return None if not dim or _MADE_UP.fullmatch(dim) else dim


def _leading(dims: Dims | None) -> str | None:
    """The name of a free leading axis, "" where it is free without a name; None where there is no such axis."""
    if not dims or isinstance(dims[0], int):
        return None
    return dims[0] or ""


def _sizes(dims: Dims | None) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in dims or ()]


def _output_spec(name: str, output: Output) -> TensorSpec:
    if name != output.name:
        return TensorSpec(name=name, dtype=output.labels or "string", shape=[-1])
    shape = {"maps": [-1, -1], "map": [-1]}.get(output.form) or _sizes(output.dims)
    shown = name + ".*" if output.form == "sequence" else name
    return TensorSpec(name=shown, dtype=output.dtype or "", shape=shape)


def _decoded(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str.__str__(item)


def _shown(array: Array) -> str:
    return dtype_name(array) if array.dtype.isnative else f"{dtype_name(array)} in another byte order"


def _listed(names: Iterable[str]) -> str:
    known = [repr(name[:MAX_NAME_CHARS]) for name in names]
    return ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
