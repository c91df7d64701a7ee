"""A text said aloud (text-to-speech): from this protocol's request to a workflow's input. The answer is a whole file.

Parameters are the workflow's own, but for those that its clients offer and no workflow has: those are refused by name.
"""

from __future__ import annotations

from typing import Any, Final

from deployments.router.protocols.huggingface.requests import Asked
from workflows.errors import InvalidInput, Unsupported
from workflows.types.speech import Speak

__all__ = ["PARAMETERS", "speech_input"]

PARAMETERS: Final = tuple(sorted(Speak.model_fields.keys() - {"text"}))
FORMAT: Final = "flac"
"""What the hub itself answers with."""


def speech_input(asked: Asked) -> dict[str, Any]:
    """The plain input of a `speech` workflow. Raises InvalidInput; values of parameters are checked by the workflow."""
    asked.refuse_stream()
    for name in asked.parameters:
        if name not in PARAMETERS:
            raise Unsupported(f"the parameter {name[:64]!r} is not supported for this task", param=name[:64])
    if not isinstance(asked.inputs, str):
        raise InvalidInput("inputs must be a string", param="inputs")
    return {"text": asked.inputs, "format": FORMAT, **asked.parameters}
