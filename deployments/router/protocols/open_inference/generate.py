"""The generate extension: text in, text out, without tensors around it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml

A stream's last event says `"done": true`, and why it ended; a stream without it is not whole.
"""

from __future__ import annotations

from typing import Any

from deployments.router.directory import Entry
from deployments.router.protocols.open_inference.as_tensors import generate_input
from deployments.router.protocols.open_inference.infer_body import checked_id, checked_object, given_parameters
from deployments.router.protocols.open_inference.inference import own_parameters
from deployments.router.sse import json_event
from workflows.card import Card
from workflows.errors import BadOutput, InvalidInput, Unsupported

__all__ = ["Generating", "read_generate"]


class Generating:
    """One request of this extension: what the workflow is asked, and how its answers are told.

    Attributes:
        input_data: Plain, for the workflow.
        timeout_s: The caller's own limit.
    """

    def __init__(self, entry: Entry, input_data: Any, timeout_s: float | None, request_id: str | None) -> None:
        self.input_data = input_data
        self.timeout_s = timeout_s
        self._said: dict[str, Any] = {"model_name": entry.known_as, "model_version": entry.version}
        if request_id is not None:
            self._said["id"] = request_id

    def answer(self, output: Any) -> dict[str, Any]:
        """The whole text."""
        return {**self._said, "text_output": _field(output, "text"), "finish_reason": _field(output, "finish_reason")}

    def event(self, chunk: Any) -> bytes:
        """One chunk of a stream, as an event."""
        reason = chunk.get("finish_reason") if isinstance(chunk, dict) else None
        said = {**self._said, "text_output": _field(chunk, "text"), "done": reason is not None}
        return json_event(said if reason is None else {**said, "finish_reason": reason})


def read_generate(entry: Entry, card: Card, body: Any, *, streaming: bool) -> Generating:
    """The request in a body. Raises InvalidInput; what the parameters mean is checked by the workflow."""
    if card.kind != "generate":
        raise Unsupported(f"this workflow takes {card.kind} inputs, and generates no text")
    fields = checked_object(body, "the body", {"id", "text_input", "parameters"})
    text = fields.get("text_input")
    if not isinstance(text, str):
        raise InvalidInput("text_input must be a string", param="text_input")
    parameters, timeout_s = own_parameters(given_parameters(fields.get("parameters")))
    stream = parameters.pop("stream", streaming)
    if type(stream) is not bool:
        raise InvalidInput("stream must be true or false", param="stream")
    if stream and not streaming:
        raise Unsupported("a stream comes from generate_stream", param="stream")
    return Generating(entry, generate_input(text, parameters), timeout_s, checked_id(fields.get("id")))


def _field(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise BadOutput("the workflow gave no text")
    return found
