"""Requests that a model takes, made from what its card says, as commands and programs that a newcomer can paste.

The values are placeholders; names, datatypes and shapes are the model's own, with 1 for every dimension that the caller
chooses. Whether the model can make sense of such values, its card does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Literal

from deployments.config import GrpcArgs
from deployments.router.json_body import render_json
from deployments.router.keys import ANYONE
from deployments.router.openapi.instances import instance_of
from deployments.router.openapi.parts import Json
from deployments.router.openapi.tensors import element_schema
from deployments.router.protocols.open_inference.as_tensors import signature_of
from deployments.router.protocols.open_inference.datatypes import DATATYPES, named
from deployments.router.protocols.open_inference.example_code import Filled, Place, Transport, curl, curl_filled, triton
from deployments.router.protocols.open_inference.model_description import has_json_form
from deployments.router.request import Request
from workflows.card import Card, TensorSpec

__all__ = ["Example", "as_markdown", "examples_of", "place_of"]

DEFAULT_HOST: Final = "localhost:8000"
MAX_INLINE: Final = 100
"""Elements that a command shows one by one."""
_TEXT: Final = "Once upon a time"
_SAMPLING: Final = {"max_tokens": 16}
# Narrower than what the edge lets through: nothing in it means anything to a shell, in Markdown or in Python.
_HOST: Final = re.compile(rb"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Example:
    """One way to ask.

    Attributes:
        path: Of the operation that it asks.
        body: The JSON body that it sends, where that is short; the same for all examples of one path.
    """

    label: str
    lang: Literal["Shell", "Python"]
    path: str
    source: str
    body: Any = None


def place_of(request: Request, grpc: GrpcArgs | None) -> Place:
    """How whoever asks this reaches us: by the host that the request names, if it is one that can be shown."""
    found = _HOST.fullmatch(request.headers.get(b"host", b""))
    host = found[0].decode() if found else DEFAULT_HOST
    name = found[1].decode() if found else DEFAULT_HOST.partition(":")[0]
    at = f"{name}:{grpc.port}" if grpc is not None and grpc.port else None
    return Place(host, at, grpc_tls=grpc is not None and grpc.tls is not None, keyed=request.key is not ANYONE)


def examples_of(card: Card, base: str, version: str, place: Place, most_in_json: int) -> list[Example]:
    """None for a tensor model that does not say what it takes.

    Args:
        base: The model's own path, with this version in it if there is one.
        most_in_json: Elements that a body of JSON may have.
    """
    tensors = [_filled(card, spec) for spec in signature_of(card).inputs]
    parameters = _SAMPLING if _samples(card) else {}
    found: list[Example] = []
    if card.kind == "generate":
        body: Json = {"text_input": _TEXT, **({"parameters": parameters} if parameters else {})}
        found.append(_command("Text", f"{base}/generate", body, place))
        if card.streams:
            found.append(_command("Text, streamed", f"{base}/generate_stream", body, place, streamed=True))
    found += _infer_examples(card, f"{base}/infer", version, tensors, parameters, place, most_in_json)
    return found + _native_examples(card, tensors, place)


def as_markdown(card: Card, examples: Iterable[Example], place: Place) -> str:
    """A page of examples that reads well in a terminal."""
    parts = [f"# {card.name}", " ".join(card.summary.split()), "Put your own values in place of these."]
    if place.keyed:
        parts.append("Your API key is read from the environment: `export INFERNET_API_KEY=...`")
    for example in examples:
        fence = "sh" if example.lang == "Shell" else "python"
        parts.append(f"## {example.label}\n\n```{fence}\n{example.source}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _filled(card: Card, spec: TensorSpec) -> Filled:
    datatype = named(spec.dtype) if spec.dtype else "FP32"
    shape = [max(size, 1) if size < 0 else size for size in spec.shape]
    if card.kind == "generate":
        value: Any = _TEXT
    elif card.kind in ("tensors", "embed"):
        kind = element_schema(DATATYPES.get(datatype, spec.dtype)).get("type")
        value = {"boolean": True, "integer": 1, "number": 0.5}.get(str(kind), "text")
    else:
        value = render_json(instance_of(card.input_schema)).decode()
    return Filled(spec.name, datatype, spec.dtype or "float32", shape, value)


def _infer_examples(
    card: Card,
    path: str,
    version: str,
    tensors: Sequence[Filled],
    parameters: Json,
    place: Place,
    most_in_json: int,
) -> list[Example]:
    if not tensors:
        return []
    body: Json = {"inputs": [tensor.as_json() for tensor in tensors]}
    if parameters:
        body["parameters"] = parameters
    found: list[Example] = []
    elements = sum(prod(tensor.shape) for tensor in tensors)
    in_json = has_json_form([*signature_of(card).inputs, *signature_of(card).outputs])
    if in_json and elements <= MAX_INLINE:
        whole = {**body, "inputs": [tensor.as_json(whole=True) for tensor in tensors]}
        found.append(_command("Tensors", path, whole, place))
    elif in_json and elements + len(tensors) * 16 < most_in_json:
        found.append(Example("Tensors", "Shell", path, curl_filled(place, path, body, tensors)))
    transports: list[tuple[Transport, str]] = [("http", "HTTP")]
    if place.grpc is not None:
        transports.append(("grpc", "gRPC"))
    for transport, shown in transports:
        source = triton(place, transport, card.name, version, tensors, parameters)
        found.append(Example(f"Tensors, with tritonclient over {shown}", "Python", path, source))
    return found


def _native_examples(card: Card, tensors: Sequence[Filled], place: Place) -> list[Example]:
    if card.kind == "tensors":
        if not tensors or sum(prod(tensor.shape) for tensor in tensors) > MAX_INLINE:
            return []
        body: Any = {"inputs": {tensor.name: tensor.as_native() for tensor in tensors}}
    elif card.kind == "generate":
        body = {"prompt": _TEXT, **({"sampling": _SAMPLING} if _samples(card) else {})}
    elif card.kind == "embed":
        body = {"text": "text"}
    else:
        body = instance_of(card.input_schema)
    base = f"/v1/workflows/{card.name}"
    found = [_command("Its own types", f"{base}/inference", [body] if isinstance(body, list) else body, place)]
    if card.streams:
        found.append(_command("Its own types, streamed", f"{base}/stream", body, place, streamed=True))
    return found


def _command(label: str, path: str, body: Any, place: Place, *, streamed: bool = False) -> Example:
    return Example(label, "Shell", path, curl(place, path, body, streamed=streamed), body)


def _samples(card: Card) -> bool:
    """Whether its input has the sampling parameters of the exchange types."""
    return card.kind == "generate" and '"max_tokens"' in render_json(card.input_schema).decode()
