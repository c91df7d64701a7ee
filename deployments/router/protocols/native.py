"""The native protocol: a workflow's own input and output types as JSON, under `/v1/workflows`.

A JSON array as body is a batch, always: a workflow whose own input is an array takes it as a batch's member, `[[1, 2]]`.
Tensors are made and checked here; inputs of every other kind are checked by the workflow.
"""

from __future__ import annotations

from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.json_body import render_json
from deployments.router.protocols.tables import NATIVE, native_error
from deployments.router.request import JSON, Protocol, Reply, Request, Route, json_reply
from workflows.errors import BadOutput, InvalidInput, WorkflowError
from workflows.tensors import tensor_from_json, tensor_to_json

__all__ = ["BESIDE_OPENAI", "PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("native", "/", NATIVE)
BESIDE_OPENAI: Final = Protocol("native", "/v1/workflows", NATIVE)
"""The same below a path that otherwise is another protocol's."""
MAX_TENSORS: Final = 1024
_TENSOR: Final = frozenset({"dtype", "shape", "data"})


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router."""

    async def index(request: Request) -> Reply:
        return json_reply({"workflows": [_entry(entry, request) for entry in workflows.listed(request)]})

    async def card(request: Request) -> Reply:
        return json_reply(_entry(workflows.find(request, request.params[0]), request))

    async def inference(request: Request) -> Reply:
        body = await request.json()
        entry = workflows.find(request, request.params[0])
        kind = workflows.card(entry).kind
        if isinstance(body, list):
            inputs = _members(body, kind, request.limits.max_batch_items)
            outcomes = await workflows.ask_all(request, entry, inputs)
            return Reply(200, b"[%b]" % b",".join(_member(kind, outcome, request) for outcome in outcomes), [JSON])
        output = await workflows.ask(request, entry, _input(kind, body))
        return json_reply(_output(kind, output))

    async def stream(request: Request) -> None:
        body = await request.json()
        entry = workflows.find(request, request.params[0])
        if isinstance(body, list):
            raise InvalidInput("a stream answers one input, not a batch")
        await workflows.stream(request, entry, _input(workflows.card(entry).kind, body))

    path = "/v1/workflows/{name}"
    return [
        Route("GET", "/v1/workflows", index, PROTOCOL),
        Route("GET", path, card, PROTOCOL),
        Route("POST", f"{path}/inference", inference, PROTOCOL, body="json"),
        Route("POST", f"{path}/stream", stream, PROTOCOL, body="json"),
    ]


def _entry(entry: Entry, request: Request) -> dict[str, Any]:
    card = None if entry.card is None else entry.card.model_dump()
    reason = entry.detail if request.key.role == "operator" else entry.reason
    return {"name": entry.name, "state": entry.state, "reason": reason or entry.reason, "card": card}


def _input(kind: str, body: Any) -> Any:
    """The body as plain data; for tensors with numpy arrays in it. Raises InvalidInput."""
    if kind != "tensors":
        return body
    if not isinstance(body, dict):
        raise InvalidInput("the body must be a JSON object")
    inputs = body.get("inputs")
    if not isinstance(inputs, dict) or not 0 < len(inputs) <= MAX_TENSORS:
        raise InvalidInput("inputs must be an object of named tensors", param="inputs")
    return {**body, "inputs": {name: _tensor(name, tensor) for name, tensor in inputs.items()}}


def _tensor(name: str, tensor: Any) -> Any:
    if not isinstance(tensor, dict) or tensor.keys() != _TENSOR:
        raise InvalidInput(
            f"tensor {name[:64]!r}: exactly dtype, shape and data are needed", param=f"inputs.{name[:64]}"
        )
    return tensor_from_json(name, tensor["dtype"], tensor["shape"], tensor["data"])


def _output(kind: str, output: Any) -> Any:
    """What the workflow gave, ready to be rendered: tensors flat, with their dtype and shape."""
    if kind != "tensors":
        return output
    if not isinstance(output, dict) or not isinstance(output.get("outputs"), dict):
        raise BadOutput("the workflow gave no tensors")
    return {**output, "outputs": {name: tensor_to_json(array) for name, array in output["outputs"].items()}}


def _members(body: list[Any], kind: str, most: int) -> list[Any | WorkflowError]:
    """A batch's inputs; one that cannot be an input is its own error and hurts no other."""
    if not 0 < len(body) <= most:
        raise InvalidInput(f"a batch has 1 to {most} members")
    inputs: list[Any | WorkflowError] = []
    for member in body:
        try:
            inputs.append(_input(kind, member))
        except InvalidInput as error:
            inputs.append(error)
    return inputs


def _member(kind: str, outcome: Any | WorkflowError, request: Request) -> bytes:
    """One member of a batch's answer. Each is rendered by itself: one that JSON cannot say hurts no other."""
    try:
        if isinstance(outcome, WorkflowError):
            raise outcome
        return render_json(_output(kind, outcome))
    except WorkflowError as error:
        return render_json({"error": native_error(request.errors.shown(error), request.id)})
