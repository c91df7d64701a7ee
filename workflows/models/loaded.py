"""What a loaded model is to the memory of models: a value, the bytes that it takes, and a way to free it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

__all__ = ["Loaded", "MakeRoom", "Size", "Statistics"]

T = TypeVar("T", default=Any)


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes in the machine's memory and in its GPUs'."""

    host: int = 0
    gpu: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.host + other.host, self.gpu + other.gpu)

    def __sub__(self, other: Size) -> Size:
        return Size(self.host - other.host, self.gpu - other.gpu)


MakeRoom = Callable[[Size], None]


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """What a load gives: the model, what it takes as measured, and how to free it."""

    value: T
    size: Size
    free: Callable[[], None]


@dataclass(slots=True)
class Statistics:
    """Since the beginning. `peak` counts models that are being loaded with what they are expected to take."""

    loads: int = 0
    hits: int = 0
    evictions: int = 0
    refusals: int = 0
    peak: Size = field(default_factory=Size)
