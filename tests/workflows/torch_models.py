"""Torch models small enough to make on the spot, and the workflows that run them. For the tests beside this file."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from workflows.card import TensorSpec
from workflows.errors import WorkflowError
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.resources import Resources
from workflows.tensors import Array
from workflows.types import TensorsResult

X = [TensorSpec(name="x", dtype="float32", shape=[-1, 4])]
CPU = Resources()


class Affine(nn.Module):
    """4 numbers to 3."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.dropout(self.layer(x))
        return result


class Watched(Affine):
    """Notes how many rows each call has, refuses rows that start with 666, and has no memory for more than `room` rows."""

    calls: list[int]

    def __init__(self, room: int = 1000) -> None:
        super().__init__()
        self.calls = []
        self.room = room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        if (x[:, 0] == 666).any():
            raise IndexError("secret detail at /usr/lib/python")
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory at 0x7f")
        return super().forward(x)


class TwoInputs(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
        if scale is not None:
            left = left * scale
        return {"sum": left + right, "difference": left - right}


class Mean(nn.Module):
    """Every row of the answer depends on every row of the input, and the shapes do not show it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0)


class Quantised(nn.Module):
    """8 bits with one scale for the whole batch, as torch's dynamic quantisation does it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().max() / 127
        result: torch.Tensor = self.layer((x / scale).round() * scale)
        return result


class Named(nn.Module):
    """A mapping of two outputs; `extra` adds one that is no tensor."""

    def __init__(self, kind: str = "dict", extra: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.extra = extra

    def forward(self, x: torch.Tensor) -> Any:
        parts: dict[str, Any] = {"a": x * 2, "b": -x}
        if self.extra:
            parts["past"] = (x, x)
        return OrderedDict(parts) if self.kind == "ordered" else parts


class Fragile(nn.Module):
    """Takes its numbers for indices, which on a GPU no large one survives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.abs().max() > 100:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return x


class Odd(nn.Module):
    """Outputs of all kinds, chosen by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> Any:
        outputs: dict[str, Callable[[], Any]] = {
            "tuple": lambda: (x, x.argmax(-1)),
            "text": lambda: "no tensor",
            "eight bits": lambda: x.to(torch.float8_e4m3fn),
            "nan": lambda: x * float("nan"),
            "number": lambda: (x, 3),
            "own_weights": lambda: self.scale,
            "writes": lambda: x.add_(1),
        }
        return outputs[self.kind]()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x))
        return result


def save(module: nn.Module, path: Path) -> None:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)


def of_class(
    root: Path, cls: type[nn.Module], options: dict[str, Any] | None = None, **more: Any
) -> TorchInferenceWorkflow:
    """A workflow for a class of this module, with random weights that are the same every time."""
    torch.manual_seed(0)
    save(cls(**(options or {})), root / "weights.safetensors")
    made = TorchInferenceWorkflow(
        module=f"{cls.__module__}:{cls.__name__}",
        module_options=options,
        weights="weights.safetensors",
        root=str(root),
        **more,
    )
    made.resources = CPU
    return made


def of_file(path: Path, **more: Any) -> TorchInferenceWorkflow:
    made = TorchInferenceWorkflow(model=path.name, root=str(path.parent), **more)
    made.resources = CPU
    return made


def pin(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scripted(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module.eval()), str(path))
    return path


def exported(module: nn.Module, path: Path, *inputs: torch.Tensor, dims: Any = None, **named: torch.Tensor) -> Path:
    torch.export.save(torch.export.export(module.eval(), inputs, named, dynamic_shapes=dims), path)
    return path


def rows(count: int, width: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((count, width), dtype=np.float32)


def affine(x: Array) -> Array:
    torch.manual_seed(0)
    with torch.inference_mode():
        answer: Array = Affine().eval()(torch.from_numpy(x.copy())).numpy()
    return answer


def result(outcome: TensorsResult | WorkflowError, name: str = "output_0") -> Array:
    assert isinstance(outcome, TensorsResult)
    array: Array = outcome.outputs[name]
    return array
