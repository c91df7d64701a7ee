"""What this protocol asks of a workflow, whichever way it came: JSON, binary tensors, gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from deployments.router.protocols.open_inference.as_tensors import output_names, outputs_of, plain_inputs
from workflows.errors import BadOutput, InvalidInput, Unsupported, WorkflowError
from workflows.tensors import Array

__all__ = [
    "MAX_ID_CHARS",
    "MAX_TENSORS",
    "RESERVED",
    "Infer",
    "Inferred",
    "check_content_type",
    "find",
    "in_time",
    "infer",
    "inferred_from",
    "own_parameters",
    "tensor_input",
]

MAX_TENSORS: Final = 1024
MAX_ID_CHARS: Final = 256
RESERVED: Final = frozenset(
    {
        "binary_data_size",
        "classification",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "shared_memory_byte_size",
        "shared_memory_offset",
        "shared_memory_region",
    }
)


@dataclass(frozen=True, slots=True)
class Infer:
    """A checked request.

    Attributes:
        outputs: Those asked for, in order; None for all.
        parameters: What is left of them for the workflow, which knows its own.
        id: What the answer repeats.
        timeout_s: The caller's own limit.
    """

    inputs: dict[str, Array]
    outputs: list[str] | None
    parameters: dict[str, Any]
    id: str | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Inferred:
    """The answer: tensors in the order asked for."""

    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any]


def find(workflows: Workflows, caller: Caller, name: str, version: str = "") -> Entry:
    """The model of this name, and of this version if one is given. Raises ModelNotFound."""
    return workflows.find(caller, name, version)


async def infer(workflows: Workflows, caller: Caller, entry: Entry, asked: Infer) -> Inferred:
    """Ask one workflow. Raises the error tree."""
    card = workflows.card(entry)
    if card.kind == "tensors":
        return inferred_from(await workflows.ask(caller, entry, tensor_input(asked), at_most_s=asked.timeout_s))
    inputs = plain_inputs(card, asked.inputs, asked.parameters, caller.limits)
    names = output_names(card, asked.outputs)
    (given,) = asked.inputs.values()
    answers = await _ask_each(workflows, caller, entry, inputs, asked.timeout_s)
    return Inferred(outputs_of(card, answers, given.shape, names), {})


def check_content_type(value: Any, *, is_text: bool | None = None) -> None:
    """What MLServer's clients say of a tensor, or of all: how to read it beyond its datatype.

    Raises Unsupported for all but what a tensor is anyway: an array (`np`) or, if its datatype is BYTES, text (`str`).
    """
    if value != "np" and (value != "str" or is_text is False):
        raise Unsupported("content_type must be np, or str for BYTES", param="content_type")


def in_time(asked: Infer, seconds_left: float | None) -> Infer:
    """The same, which has no more time than is left."""
    if seconds_left is None or (asked.timeout_s is not None and asked.timeout_s <= seconds_left):
        return asked
    return replace(asked, timeout_s=seconds_left)


def tensor_input(asked: Infer) -> dict[str, Any]:
    """The plain input of a workflow that takes tensors."""
    return {"inputs": asked.inputs, "outputs": asked.outputs, "parameters": asked.parameters}


def inferred_from(output: Any) -> Inferred:
    """What a workflow that takes tensors has answered. Raises BadOutput if that is none."""
    if not isinstance(output, dict) or not isinstance(output.get("outputs"), dict):
        raise BadOutput("the workflow gave no tensors")
    return Inferred(output["outputs"], output.get("parameters") or {})


def own_parameters(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """What is left for the workflow, and the caller's time limit in seconds.

    `timeout` (microseconds, as Triton has it) may only shorten the deadline. Raises Unsupported for parameters that
    would need what is not here: shared memory, sequences, priorities.
    """
    left = dict(parameters)
    timeout_s: float | None = None
    if "timeout" in left:
        timeout = left.pop("timeout")
        if type(timeout) is not int or timeout <= 0:
            raise InvalidInput("timeout must be a positive number of microseconds", param="timeout")
        timeout_s = timeout / 1e6
    if "content_type" in left:
        check_content_type(left.pop("content_type"))
    for parameter in left:
        if parameter in RESERVED:
            raise Unsupported(f"the parameter {parameter!r} is not supported", param=parameter)
    return left, timeout_s


async def _ask_each(
    workflows: Workflows, caller: Caller, entry: Entry, inputs: list[Any], at_most_s: float | None
) -> list[Any]:
    """All answers, asked for at once like the members of a batch; the first error is the answer for all."""
    if len(inputs) == 1:
        return [await workflows.ask(caller, entry, inputs[0], at_most_s=at_most_s)]
    outcomes = await workflows.ask_all(caller, entry, inputs, at_most_s=at_most_s)
    for outcome in outcomes:
        if isinstance(outcome, WorkflowError):
            raise outcome
    return outcomes
