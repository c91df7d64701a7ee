"""From checked bytes to a torch module that is ready to be called, and what it says of its own inputs and outputs.

Knows the three forms: a module class with safetensors weights, TorchScript, torch.export programs. Runs no request.
What must be imported (`torch`, `safetensors.torch`) is passed in, since importing it belongs into `do_setup`.
"""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from workflows.errors import BadOutput, InvalidInput, Unsupported, WorkflowError
from workflows.inference.graph_signature import GraphSignature, Input, Output
from workflows.inference.torch_values import named_outputs
from workflows.tensors import DTYPES

__all__ = ["Program", "from_class", "from_exported", "from_torchscript"]

_SHOWN_KEYS: Final = 3


@dataclass(frozen=True, slots=True)
class Program:
    """A module and how to call it.

    Attributes:
        accepts: The names it takes; None where it does not say.
        requires: Those of `accepts` that must be given.
        positional: The names that are passed by position, in this order; all others by name.
        signature: Dtypes and shapes of inputs and outputs, where the file has them.
        dtypes: torch's float formats by input name, where they are not those of the signature.
        max_rows: The most rows it takes at once, where it says so.
    """

    module: Any
    accepts: tuple[str, ...] | None = None
    requires: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    signature: GraphSignature | None = None
    dtypes: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int | None = None


def from_class(torch: Any, safetensors: Any, path: str, options: Mapping[str, Any], weights: bytes) -> Program:
    """An instance of the class at `package.module:ClassName`, made with `options`, with these weights.

    Raises:
        InvalidInput: There is no such class, it is no `torch.nn.Module`, or does not take these options.
        WorkflowError: The weights are not this module's; the message names some of the keys.
    """
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as cause:
        raise InvalidInput(f"cannot import {path[:128]!r}: write package.module:ClassName", param="module") from cause
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise InvalidInput(f"{path[:128]!r} is not a torch.nn.Module", param="module")
    try:
        module = found(**options)
    except TypeError as cause:
        raise InvalidInput("the module class does not take these options", param="module_options") from cause
    try:
        state = safetensors.load(weights)
    except Exception as cause:
        raise WorkflowError("the safetensors file is damaged") from cause
    _fill(module, state)
    return Program(module.eval(), *_parameters(module.forward))


def from_torchscript(torch: Any, content: bytes) -> Program:
    """Raises WorkflowError where this torch cannot load the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such; people still have these files
            module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except Exception as cause:
        raise WorkflowError("this torch cannot load the TorchScript file") from cause
    arguments = module.forward.schema.arguments[1:]
    required = tuple(argument.name for argument in arguments if not argument.has_default_value())
    return Program(module, tuple(argument.name for argument in arguments), required)


def from_exported(
    torch: Any, move_to_device: Any, content: bytes, device: Any, output_names: Sequence[str] | None
) -> Program:
    """A torch.export program, on `device`. What `output_names` mean says `torch_values.named_outputs`.

    Raises:
        InvalidInput: The names do not fit the outputs.
        WorkflowError: This torch cannot load the file.
        Unsupported: Its inputs or outputs are no plain tensors.
    """
    try:
        exported = move_to_device(torch.export.load(io.BytesIO(content)), str(device))
    except Exception as cause:
        raise WorkflowError("this torch cannot load the torch.export program") from cause
    positional, keywords = _input_names(exported)
    placeholders = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    inputs, dtypes = {}, {}
    for name, placeholder in zip((*positional, *keywords), exported.graph_signature.user_inputs, strict=True):
        value = placeholders.get(placeholder)
        if not isinstance(value, torch.Tensor):
            raise Unsupported(f"the program's input {name[:64]!r} is no tensor")
        dtype = _dtype_name(value)
        if dtype not in DTYPES:
            dtypes[name] = value.dtype
            dtype = "float32"
        inputs[name] = Input(name, dtype, _dims(value))
    signature = GraphSignature(inputs, _outputs(torch, exported, output_names))
    names = (*positional, *keywords)
    return Program(exported.module(), names, names, positional, signature, dtypes, _max_rows(exported, inputs))


def _fill(module: Any, weights: Mapping[str, Any]) -> None:
    """Load a state dict whole: tensors that the module shares under several names may be stored under one of them."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as cause:  # shapes
        raise WorkflowError("the weights have other shapes than the module") from cause
    own = module.state_dict()
    filled = {own[name].data_ptr() for name in weights if name in own and own[name].numel()}
    missing = [name for name in missing if name not in own or own[name].data_ptr() not in filled]
    if missing or unexpected:
        wrong = [
            f"{len(keys)} {what} ({_listed(keys)})"
            for what, keys in (("missing", missing), ("unknown", unexpected))
            if keys
        ]
        raise WorkflowError(f"the weights are not this module's: {' and '.join(wrong)}")


def _listed(keys: list[str]) -> str:
    return ", ".join(key[:64] for key in sorted(keys)[:_SHOWN_KEYS]) + (", ..." if len(keys) > _SHOWN_KEYS else "")


def _parameters(forward: Any) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names that `forward` takes and those it must be given; None where it takes any."""
    parameters = inspect.signature(forward).parameters.values()
    if any(parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) for parameter in parameters):
        return None, ()
    required = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
    return tuple(parameter.name for parameter in parameters), required


def _input_names(exported: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The program's own names for what it takes by position and by name."""
    by_position, by_name = exported.call_spec.in_spec.children()
    if not all(spec.is_leaf() for spec in (*by_position.children(), *by_name.children())):
        raise Unsupported("the program takes nested inputs; export it with plain tensors")
    names = tuple(str(name) for name in exported.graph_signature.user_inputs)
    return names[: by_position.num_children], tuple(by_name.context or ())


def _outputs(torch: Any, exported: Any, names: Sequence[str] | None) -> tuple[Output, ...]:
    """What the program gives, under the names that its answers will have: the exported tensors stand in for them."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    nodes = exported.graph_signature.user_outputs
    example = exported.call_spec.out_spec.unflatten([values.get(node) for node in nodes])
    try:
        named = named_outputs(example, names)
    except BadOutput as cause:
        raise InvalidInput(cause.message, param="output_names") from cause
    outputs = []
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise Unsupported(
                f"the program's output {name[:64]!r} is no tensor; of a mapping, `output_names` can choose the others"
            )
        dtype = _dtype_name(value)
        outputs.append(Output(name, "tensor", dtype if dtype in DTYPES else "float32", _dims(value)))
    return tuple(outputs)


def _dims(value: Any) -> tuple[int | str | None, ...]:
    """Sizes; a free one by the name that the program gave it, which equal sizes share."""
    return tuple(size if isinstance(size, int) else str(size.node.expr) for size in value.shape)


def _dtype_name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _max_rows(exported: Any, inputs: Mapping[str, Input]) -> int | None:
    leading = {spec.dims[0] for spec in inputs.values() if spec.dims}
    bounds = [bound.upper for symbol, bound in exported.range_constraints.items() if str(symbol) in leading]
    finite = [int(upper) for upper in bounds if upper.is_Integer]
    return min(finite, default=None)
