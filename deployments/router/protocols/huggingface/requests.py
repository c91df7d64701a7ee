"""A request's body as this protocol has it: `inputs`, `parameters`, `options`. Knows no task.

`null` is as if a field were not there. What has no counterpart here is refused by its name, and so is what nobody knows:
nothing that is asked for is ignored, but for the options, which are about servers of another kind.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

from workflows.errors import InvalidInput, Unsupported

__all__ = ["Asked", "object_of", "read_body"]

# Ours are loaded, answers are never kept, and where they are made is not the caller's choice.
OPTIONS: Final = frozenset({"use_cache", "use_gpu", "wait_for_model"})
_FIELDS: Final = frozenset({"inputs", "parameters", "options", "stream"})


@dataclass(frozen=True, slots=True)
class Asked:
    """A body's parts.

    Attributes:
        inputs: Whatever they are, but not missing.
        parameters: Those that are not `null`.
        stream: Whether the answer shall come in pieces; None where nothing is said.
    """

    inputs: Any
    parameters: dict[str, Any]
    stream: bool | None

    def refuse_stream(self) -> None:
        if self.stream:
            raise Unsupported("only generated text comes as a stream", param="stream")


def read_body(body: Any, parameters: Container[str] = ()) -> Asked:
    """Raises InvalidInput.

    Args:
        parameters: Those that may stand beside `inputs`, as some clients have it.
    """
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object")
    for field in body:
        if field not in _FIELDS and field not in parameters:
            raise Unsupported(f"the body has an unknown field {field[:64]!r}", param=field[:64])
    if body.get("inputs") is None:
        raise InvalidInput("inputs: Field required", param="inputs")
    for name, value in object_of(body.get("options"), "options").items():
        if name not in OPTIONS:
            raise Unsupported(f"the option {name[:64]!r} is not supported", param=name[:64])
        if type(value) is not bool:
            raise InvalidInput(f"{name} must be true or false", param=name)
    stream = body.get("stream")
    if stream is not None and type(stream) is not bool:
        raise InvalidInput("stream must be true or false", param="stream")
    beside = {name: value for name, value in body.items() if name not in _FIELDS and value is not None}
    return Asked(body["inputs"], {**beside, **object_of(body.get("parameters"), "parameters")}, stream)


def object_of(value: Any, what: str) -> Mapping[str, Any]:
    """What an object that may be missing says. Raises InvalidInput for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object", param=what)
    return {name: said for name, said in value.items() if said is not None}
