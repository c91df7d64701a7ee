"""What a run of the model has taken: preprocessing, the model itself, postprocessing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Execution"]


@dataclass(slots=True)
class Execution:
    """One run of the model that has succeeded. Times are in seconds, and of all its inputs together.

    Attributes:
        members: Which inputs of the call it was for, by their places.
        input_s: Their preprocessing.
        model_s: The run itself.
        output_s: Their postprocessing.
    """

    members: list[int]
    input_s: float = 0.0
    model_s: float = 0.0
    output_s: float = 0.0
