"""How workflows of every kind look to a protocol that knows nothing but tensors.

| kind       | input              | outputs, in the shape of the input                                                     |
|------------|--------------------|----------------------------------------------------------------------------------------|
| `tensors`  | the model's own    | the model's own                                                                        |
| `generate` | `text_input` BYTES | `text_output`, `finish_reason` BYTES; `prompt_tokens`, `completion_tokens` INT64 |
| `embed`    | `text` BYTES       | `embedding` FP32 with the dimensions as one more axis, `tokens` INT64                   |
| others     | `input` BYTES      | `output` BYTES; each element is a JSON document                                         |

Every element is an input of its own. For `generate`, the request's parameters are the sampling of all of them.

A chunk of a stream has the same outputs; one of a text only `text_output`, and the others where it is the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from deployments.config import Limits
from deployments.router.json_body import parse_json, render_json
from deployments.router.refusals import BadJson
from workflows.card import Card, Signature, TensorSpec
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.tensors import Array, bad_tensor

__all__ = ["chunk_outputs", "generate_input", "output_names", "outputs_of", "plain_inputs", "signature_of"]


def _texts(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="string", shape=[-1])


def _counts(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=[-1])


_FORMS: Final[Mapping[str, Signature]] = {
    "tensors": Signature(inputs=[], outputs=[]),  # of a model that cannot tell
    "generate": Signature(
        inputs=[_texts("text_input")],
        outputs=[
            _texts("text_output"),
            _texts("finish_reason"),
            _counts("prompt_tokens"),
            _counts("completion_tokens"),
        ],
    ),
    "embed": Signature(
        inputs=[_texts("text")],
        outputs=[TensorSpec(name="embedding", dtype="float32", shape=[-1, -1]), _counts("tokens")],
    ),
}
_DOCUMENTS: Final = Signature(inputs=[_texts("input")], outputs=[_texts("output")])


def signature_of(card: Card) -> Signature:
    """A workflow's inputs and outputs as tensors."""
    return card.signature or _FORMS.get(card.kind, _DOCUMENTS)


def generate_input(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The plain input of a `generate` workflow; it checks the parameters itself."""
    sampling = dict(parameters)
    if isinstance(sampling.get("stop"), str):  # where parameters cannot be lists
        sampling["stop"] = [sampling["stop"]]
    return {"prompt": text, "sampling": sampling}


def plain_inputs(card: Card, inputs: Mapping[str, Array], parameters: Mapping[str, Any], limits: Limits) -> list[Any]:
    """The plain inputs of a workflow that takes no tensors, one for each element of its only one.

    Raises InvalidInput for other tensors, and for parameters where the kind has none.
    """
    (spec,) = signature_of(card).inputs
    for name in inputs:
        if name != spec.name:
            raise InvalidInput(f"unknown input {name[:64]!r}: this workflow takes {spec.name!r}", param=name[:64])
    texts = inputs[spec.name]
    if texts.dtype.kind not in "OUS":
        raise bad_tensor(spec.name, "datatype must be BYTES")
    if not 0 < texts.size <= limits.max_batch_items:
        raise bad_tensor(spec.name, f"must have 1 to {limits.max_batch_items} elements")
    elements: list[str] = texts.ravel().tolist()
    for index, element in enumerate(elements):
        if not isinstance(element, str):
            raise bad_tensor(spec.name, f"element {index} is not UTF-8")
    if card.kind == "generate":
        return [generate_input(text, parameters) for text in elements]
    for parameter in parameters:
        raise Unsupported(f"unknown parameter {parameter[:64]!r}", param=parameter[:64])
    if card.kind == "embed":
        return [{"text": text} for text in elements]
    return [_document(spec.name, index, text, limits) for index, text in enumerate(elements)]


def output_names(card: Card, wanted: Sequence[str] | None) -> list[str]:
    """The outputs to give, of a workflow that takes no tensors. Raises InvalidInput for what it does not have."""
    known = [spec.name for spec in signature_of(card).outputs]
    for name in wanted or ():
        if name not in known:
            raise InvalidInput(f"unknown output {name[:64]!r}; there are {', '.join(known)}", param=name[:64])
    return list(wanted or known)


def outputs_of(card: Card, answers: Sequence[Any], shape: tuple[int, ...], names: Sequence[str]) -> dict[str, Array]:
    """The tensors of as many answers as a tensor of this shape has elements. Raises BadOutput if they are none."""
    made = _answers(card.kind, answers)
    return {name: made[name].reshape((*shape, *made[name].shape[1:])) for name in names}


def chunk_outputs(
    card: Card, chunk: Any, shape: tuple[int, ...], names: Sequence[str]
) -> tuple[dict[str, Array], bool]:
    """The tensors of one chunk, and whether it says that it is the last. Raises BadOutput if it is none.

    Args:
        shape: Of the input, which has one element.
    """
    if card.kind != "generate":
        made, is_last = _answers(card.kind, [chunk]), False
    elif isinstance(chunk, dict) and isinstance(chunk.get("text"), str):
        made, is_last = _text_chunk(chunk), chunk.get("finish_reason") is not None
    else:
        raise BadOutput("the workflow gave no text")
    return {name: made[name].reshape((*shape, *made[name].shape[1:])) for name in names if name in made}, is_last


def _document(name: str, index: int, text: str, limits: Limits) -> Any:
    try:
        return parse_json(text.encode(), limits)
    except BadJson as cause:
        raise bad_tensor(name, f"element {index} is no JSON document") from cause


def _answers(kind: str, answers: Sequence[Any]) -> dict[str, Array]:
    """Arrays whose first axis counts the answers."""
    if kind not in _FORMS:
        return {"output": _objects(render_json(answer).decode() for answer in answers)}
    try:
        if kind == "embed":
            return {
                "embedding": np.stack([np.asarray(answer["embedding"], np.float32) for answer in answers]),
                "tokens": np.array([answer["tokens"] for answer in answers], np.int64),
            }
        return {
            "text_output": _objects(answer["text"] for answer in answers),
            "finish_reason": _objects(answer["finish_reason"] for answer in answers),
            "prompt_tokens": np.array([answer["usage"]["prompt_tokens"] for answer in answers], np.int64),
            "completion_tokens": np.array([answer["usage"]["completion_tokens"] for answer in answers], np.int64),
        }
    except (KeyError, TypeError, ValueError) as cause:
        raise BadOutput(f"the workflow gave no answer of its kind, {kind}") from cause


def _text_chunk(chunk: Mapping[str, Any]) -> dict[str, Array]:
    made = {"text_output": _objects([chunk["text"]])}
    if chunk.get("finish_reason") is not None:
        made["finish_reason"] = _objects([str(chunk["finish_reason"])])
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        made |= {name: np.array([count], np.int64) for name, count in counts.items() if type(count) is int}
    return made


def _objects(texts: Iterable[str]) -> Array:
    found = list(texts)
    array = np.empty(len(found), object)
    array[:] = found
    return array
