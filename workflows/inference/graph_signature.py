"""What a tensor model takes and gives, as it declares it itself: requests are checked against it before it runs.

Knows names, dtypes and shapes, in the words of ONNX, and of torch as far as that has any; runs nothing and imports no
runtime.
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
_PART: Final = re.compile(r".+\.(0|[1-9]\d{0,5})", re.DOTALL | re.ASCII)  # of a sequence
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
        dtype: None where nobody declared it: then every array passes.
        dims: A number where the graph fixes a dimension, a name where equal names mean equal sizes, None where anything
            goes. None as a whole: scalar or unknown rank (onnxruntime does not tell them apart); every shape passes.
        required: False for optional inputs, and for initializers that a request may override.
    """

    name: str
    dtype: str | None
    dims: Dims | None
    required: bool = True

    def check(self, array: Array, sizes: dict[str, int]) -> Array:
        """The array as the runtime takes it. `sizes` collects what named dimensions turned out to be in this request."""
        if self.dtype == "string":
            array = self._as_text(array)
        elif self.dtype is not None and array.dtype != DTYPES[self.dtype]:
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

    def sample_shape(self, sizes: Mapping[str, int], size: int, rows: int | None = None) -> tuple[int, ...]:
        """A shape that passes.

        Args:
            sizes: How long free axes are, by the axis' own name or as `input.axis`, for example `x.1`.
            size: How long those are that `sizes` does not say.
            rows: For a free leading axis, whatever `sizes` says.
        """
        shape = []
        for axis, dim in enumerate(self.dims or ()):
            if isinstance(dim, int):
                shape.append(dim)
            elif axis == 0 and rows is not None:
                shape.append(rows)
            else:
                shape.append(sizes.get(f"{self.name}.{axis}", sizes.get(dim or "", size)))
        return tuple(shape)

    def free_sizes(self) -> list[str]:
        """What `sizes` may say of this input: its free axes by name where they have one, and as `input.axis`."""
        free = [(axis, dim) for axis, dim in enumerate(self.dims or ()) if not isinstance(dim, int)]
        return [dim for _, dim in free if dim] + [f"{self.name}.{axis}" for axis, _ in free]

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


@dataclass(frozen=True, slots=True)
class Selection:
    """The outputs that one request asked for.

    Attributes:
        wanted: The names of the answer, in order; none where all are wanted and nobody knows their names.
        outputs: What the graph must compute for them.
        mergeable: Whether by the declared shapes every one has a part for every row, so that requests may run together.
        shared: Those among `wanted` that belong to every row alike.
        fetch: The names of what is computed: of `outputs`, where they are known.
    """

    wanted: tuple[str, ...]
    outputs: tuple[Output, ...]
    mergeable: bool
    shared: frozenset[str]
    fetch: list[str]


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """All inputs and outputs of one graph, in its order; `outputs` is None where nobody knows them yet."""

    inputs: Mapping[str, Input]
    outputs: tuple[Output, ...] | None

    @property
    def declared(self) -> bool:
        """Whether every input has a dtype and a shape."""
        return all(spec.dtype is not None for spec in self.inputs.values())

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

    def joinable(self, names: Iterable[str]) -> bool:
        """Whether all of these inputs can bring rows; what a graph lets callers override has another leading axis."""
        specs = [self.inputs[name] for name in names]
        return all(spec.required or spec.dtype is None for spec in specs)

    def select(self, wanted: Iterable[str] | None) -> Selection:
        """The outputs of these names, all of the graph's for None.

        Args:
            wanted: Names from `Output.names`, or parts of a sequence: `name.0`, `name.1`, ...

        Raises:
            InvalidInput: A name that is unknown or comes twice.
            Unsupported: An output of a type that numpy has not.
        """
        by_name = {name: output for output in self.outputs or () for name in output.names}
        names = tuple(by_name) if wanted is None else tuple(wanted)
        found = {} if self.outputs is None else {name: _found(name, by_name) for name in names}
        whole = {name for name in names if name in by_name}
        twice = [name for name, output in found.items() if name not in whole and output.name in whole]
        if len(set(names)) < len(names) or twice:
            raise InvalidInput("an output is asked for twice", param="outputs")
        outputs = tuple(dict.fromkeys(found.values()))
        return Selection(
            wanted=names,
            outputs=outputs,
            mergeable=self._merges(outputs),
            shared=frozenset(name for name, output in found.items() if output.form == "maps" and output.name != name),
            fetch=[output.name for output in outputs] if self.outputs is not None else list(names),
        )

    def mergeable_outputs(self) -> list[str]:
        """The names of all outputs that a request may ask for and that the declared shapes allow to be cut into rows."""
        given = [output for output in self.outputs or () if output.dtype is not None]
        return [output.name for output in given if self._merges((output,))]

    def _merges(self, outputs: Sequence[Output]) -> bool:
        """Whether the declared shapes say that requests can be joined along axis 0 and their answers cut apart again.

        Every required input must have a free leading axis, and every output one that is free and not called otherwise;
        an axis of that name anywhere else (a table of all rows against all rows) rules it out. Where nothing is declared,
        nothing is ruled out.
        """
        if not self.declared:
            return True
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
        by_name = {name: output for output in self.outputs or () for name in output.names}
        inputs = [(spec.name, spec.dtype or "", _sizes(spec.dims)) for spec in self.required]
        return Signature(
            inputs=[TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs],
            outputs=[_output_spec(name, _found(name, by_name)) for name in wanted],
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


def _found(name: str, by_name: Mapping[str, Output]) -> Output:
    """The output of this name, or the sequence of which it is a part."""
    output = by_name.get(name)
    if output is None and _PART.fullmatch(name):
        whole = by_name.get(name.rpartition(".")[0])
        output = whole if whole is not None and whole.form == "sequence" else None
    shown = name[:MAX_NAME_CHARS]
    if output is None:
        raise InvalidInput(f"output {shown!r} is unknown; the model gives {_listed(by_name)}", param="outputs")
    if output.dtype is None:
        raise Unsupported(f"output {shown!r} has a type that cannot be given", param="outputs")
    return output


def _output_spec(name: str, output: Output) -> TensorSpec:
    if name != output.name and output.form != "sequence":
        return TensorSpec(name=name, dtype=output.labels or "string", shape=[-1])
    shape = {"maps": [-1, -1], "map": [-1]}.get(output.form) or _sizes(output.dims)
    shown = name + ".*" if output.form == "sequence" and name == output.name else name
    return TensorSpec(name=shown, dtype=output.dtype or "", shape=shape)


def _decoded(item: Any) -> str:
    return item.decode() if isinstance(item, bytes) else str.__str__(item)


def _shown(array: Array) -> str:
    return dtype_name(array) if array.dtype.isnative else f"{dtype_name(array)} in another byte order"


def _listed(names: Iterable[str]) -> str:
    known = [repr(name[:MAX_NAME_CHARS]) for name in names]
    return ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
