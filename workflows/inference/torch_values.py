"""Numpy arrays to what a torch module takes, and what it gave back to numpy arrays with names. No model, no requests.

The module `torch` is passed in, since importing it belongs into `do_setup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workflows.errors import BadOutput, InvalidInput
from workflows.tensors import BFLOAT16, Array, element_kind

__all__ = ["check_dtype", "named_outputs", "to_arrays", "to_tensors"]


def check_dtype(name: str, array: Array) -> None:
    """Raises InvalidInput for what torch has no tensors of: text, and numbers in another machine's byte order."""
    if element_kind(array.dtype) not in "biuf" or array.dtype.itemsize > 8:
        raise InvalidInput(f"input {name[:64]!r}: a tensor of numbers or booleans is needed", param=name[:64])
    if not array.dtype.isnative:
        raise InvalidInput(f"input {name[:64]!r}: native byte order is needed", param=name[:64])


def to_tensors(torch: Any, arrays: Mapping[str, Array], device: Any, dtypes: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors on `device`; those of floats in the torch dtype that stands under their name in `dtypes`, if any.

    Always copies: a module may write into its inputs, which belong to the caller and may have to be run again.
    """
    tensors = {}
    for name, array in arrays.items():
        tensor = _tensor(torch, np.array(array, order="C")).to(device)
        tensors[name] = tensor.to(dtypes[name]) if name in dtypes and tensor.is_floating_point() else tensor
    return tensors


def _tensor(torch: Any, array: Array) -> Any:
    """The array's own memory as a tensor. torch knows no array of bfloat16, but every tensor's bits."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def named_outputs(given: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """What a module gave, by name, whatever it is.

    A mapping brings its own names, of which `names` chooses; a tensor or a sequence of them gets `names`, or `output_0`,
    `output_1`, ...

    Raises:
        BadOutput: A name that a mapping has not, or there are not as many outputs as names.
    """
    if isinstance(given, Mapping):
        found = {str(name): part for name, part in given.items()}
        absent = [name for name in names or () if name not in found]
        if absent:
            raise BadOutput(f"the model gave no output {absent[0][:64]!r}")
        return found if names is None else {name: found[name] for name in names}
    parts = list(given) if isinstance(given, (tuple, list)) else [given]
    chosen = list(names) if names is not None else [f"output_{place}" for place in range(len(parts))]
    if len(chosen) != len(parts):
        raise BadOutput(f"the model gave {len(parts)} outputs, and {len(chosen)} are named")
    return dict(zip(chosen, parts, strict=True))


def to_arrays(torch: Any, outputs: Mapping[str, Any], wanted: Sequence[str] | None) -> dict[str, Array]:
    """A module's answer as arrays, its own memory; floats of 8 bits, which numpy has not, as float32.

    Args:
        wanted: The names to give, in this order; None gives all.

    Raises:
        InvalidInput: A wanted name is not there.
        BadOutput: Something wanted is no tensor or number.
    """
    for name in wanted or ():
        if name not in outputs:
            raise InvalidInput(f"output {name[:64]!r} is unknown", param="outputs")
    return {name: _array(torch, outputs[name]) for name in (outputs if wanted is None else wanted)}


def _array(torch: Any, part: Any) -> Array:
    if isinstance(part, (bool, int, float)):
        return np.asarray(part)
    if not isinstance(part, torch.Tensor) or part.is_complex() or part.is_sparse:
        raise BadOutput("the model gave an output that is no tensor of numbers")
    # A copy, because a module may give out its own weights or a buffer that the next call overwrites.
    if part.dtype == torch.bfloat16:
        return np.array(part.detach().view(torch.int16).numpy(force=True)).view(BFLOAT16)
    if part.is_floating_point() and part.dtype not in (torch.float16, torch.float32, torch.float64):
        part = part.float()
    array: Array = np.array(part.numpy(force=True))
    return array
