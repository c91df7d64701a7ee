"""What a workflow says of itself, takes and gives, as a deployment needs it: JSON, and the same after any journey."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pydantic import TypeAdapter

from workflows.base import BaseInferenceWorkflow
from workflows.card import Card
from workflows.conformance.claims import must, works
from workflows.conformance.likeness import alike
from workflows.declared import reads_what_it_writes
from workflows.plain import plain
from workflows.tensors import Array

__all__ = ["check_answer", "check_card", "check_chunk", "check_input"]

Workflow = BaseInferenceWorkflow[Any, Any, Any]

_JSON_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


def check_card(workflow: Workflow) -> None:
    card = works(lambda: workflow.card("example"), "card()")
    must(isinstance(card, Card), "card() must return a Card")
    must(bool(card.summary), f"{type(workflow).__name__} needs a docstring: its first line is the card's summary")
    works(lambda: Card.model_validate_json(card.model_dump_json()), "the card's way through JSON")
    for place in ("input_schema", "output_schema", "chunk_schema"):
        schema = getattr(card, place)
        if schema is not None:
            _schema(schema, place)
    must(card.streams == (card.chunk_schema is not None), "a card has a chunk_schema exactly where it streams")


def _schema(node: Any, place: str) -> None:
    """The mistakes that a hand-written `__get_pydantic_json_schema__` makes: what is not JSON, or no type of JSON Schema."""
    if isinstance(node, Mapping):
        must(all(isinstance(key, str) for key in node), f"{place} of the card has a key that is no string")
        named = node.get("type")
        if isinstance(named, str):
            must(named in _JSON_TYPES, f"{place} of the card has the unknown type {named!r}")
        for key, part in node.items():
            if key not in ("const", "default", "enum", "examples"):  # those hold data
                _schema(part, place)
    elif isinstance(node, list | tuple):
        for part in node:
            _schema(part, place)
    else:
        must(node is None or isinstance(node, str | int | float | bool), f"{place} of the card is not plain JSON")


def check_input(workflow: Workflow, example: Any) -> None:
    parsed = works(lambda: workflow.parse_input(example), "validating the example as the workflow's input type")
    _survives(parsed, "the example", workflow._adapters[0], workflow.parse_input)
    load = works(lambda: workflow.load_of(parsed), "cost() and bucket() of the example")
    works(lambda: hash(load.bucket), "hashing what bucket() returned")
    must(math.isfinite(load.cost) and load.cost >= 0, f"cost() must be a finite number, not {load.cost!r}")
    must(load == workflow.load_of(parsed), "cost() and bucket() must give the same for the same input every time")


def check_answer(workflow: Workflow, answer: Any) -> None:
    adapter = workflow._adapters[1]
    works(
        lambda: adapter.validate_python(answer),
        "validating what inference() returned as the declared output type (the workflow's second type argument)",
    )
    _survives(answer, "the answer", adapter, workflow.parse_output)
    _is_plain(answer, "the answer's plain form", workflow.parse_output)


def check_chunk(workflow: Workflow, part: Any) -> None:
    adapter = workflow._adapters[2]
    works(
        partial(adapter.validate_python, part),
        "validating a chunk as the declared chunk type (the workflow's third type argument)",
    )
    _survives(part, "a chunk", adapter, workflow.parse_chunk)
    _is_plain(part, "a chunk's plain form", workflow.parse_chunk)


def _survives(value: Any, what: str, adapter: TypeAdapter[Any], parse: Callable[[Any], Any]) -> None:
    """`value` is the same after it was written as JSON and read again, if its type takes the names that it gives."""
    sent = works(lambda: adapter.dump_python(value, mode="json", by_alias=True), f"turning {what} into JSON")
    sent = works(lambda: json.loads(json.dumps(sent, allow_nan=False)), f"writing {what} as JSON")
    had = works(lambda: plain(value), f"making {what}'s plain form")
    if reads_what_it_writes(adapter):
        back = works(lambda: parse(sent), f"reading {what} again from JSON")
        must(alike(had, plain(back)), f"{what} is not the same after its way through JSON")


def _is_plain(value: Any, what: str, parse: Callable[[Any], Any]) -> None:
    """`value` is the same after a deployment has carried it, and can be written as JSON after that."""
    sent = works(lambda: plain(value), f"making {what}")
    back = works(lambda: parse(sent), f"reading {what}")
    must(alike(sent, plain(back)), f"{what} is not the same when it is read again")
    arrays: list[Array] = []

    def unusual(part: Any) -> Any:
        if isinstance(part, bytes):
            return part.decode()
        arrays.append(part)
        return [str(item) for item in part.ravel()] if part.dtype.kind in "OS" else part.tolist()

    written = works(lambda: json.dumps(sent, allow_nan=False, default=unusual), f"writing {what} as JSON")
    if not arrays:  # those have a JSON form of their own
        back = works(lambda: parse(json.loads(written)), f"reading {what} from JSON")
        must(alike(sent, plain(back)), f"{what} is not the same after its way through JSON")
