"""Places of texts in a vector space: their vectors (feature-extraction), or how near they are (sentence-similarity)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deployments.router.protocols.huggingface.requests import Asked
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.tensors import Array
from workflows.types.embed import Embed

__all__ = ["PARAMETERS", "similarities", "text_inputs", "vectors"]

PARAMETERS: Final = (*sorted(Embed.model_fields.keys() - {"text", "tokens"}), "encoding_format")
"""What may stand beside `inputs`, and in `parameters` as well."""


def text_inputs(asked: Asked, most: int) -> list[dict[str, Any]]:
    """The plain inputs of an `embed` workflow: of a text, of each in a list, or of the sentences to compare.

    Raises InvalidInput; values of parameters are checked by the workflow.
    """
    asked.refuse_stream()
    parameters = dict(asked.parameters)
    for name in parameters:
        if name not in PARAMETERS:
            raise Unsupported(f"the parameter {name[:64]!r} is not supported for this task", param=name[:64])
    if parameters.pop("encoding_format", "float") != "float":
        raise Unsupported("vectors are given as numbers only", param="encoding_format")
    texts = _texts(asked.inputs)
    if not 0 < len(texts) <= most:
        raise InvalidInput(f"inputs: 1 to {most} texts are taken at once", param="inputs")
    return [{"text": text, **parameters} for text in texts]


def vectors(asked: Asked, outputs: Sequence[Any]) -> Any:
    """One vector for a text, a list of them for a list, similarities where sentences were to be compared."""
    found = [_vector(output) for output in outputs]
    if isinstance(asked.inputs, dict):
        return similarities(found)
    return found if isinstance(asked.inputs, list) else found[0]


def similarities(found: Sequence[Array]) -> list[float]:
    """The cosine between the first vector and each of the others; 0 where one of them has no direction."""
    places = np.stack(found).astype(np.float64)
    lengths = np.linalg.norm(places, axis=1)
    products = places[1:] @ places[0]
    scales = lengths[1:] * lengths[0]
    cosines: list[float] = np.divide(products, scales, out=np.zeros_like(products), where=scales > 0).tolist()
    return cosines


def _texts(inputs: Any) -> Sequence[str]:
    if isinstance(inputs, dict):
        return _sentences(inputs)
    texts = inputs if isinstance(inputs, list) else [inputs]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput("inputs must be a string, a list of strings, or sentences to compare", param="inputs")
    return texts


def _sentences(inputs: Mapping[str, Any]) -> Sequence[str]:
    source, others = inputs.get("source_sentence"), inputs.get("sentences")
    if len(inputs) != 2 or not isinstance(source, str) or not isinstance(others, list):
        raise InvalidInput("sentences to compare are a source_sentence and a list of sentences", param="inputs")
    if not others or not all(isinstance(other, str) for other in others):
        raise InvalidInput("sentences must be a list of strings", param="inputs")
    return [source, *others]


def _vector(output: Any) -> Array:
    vector = output.get("embedding") if isinstance(output, dict) else None
    if not isinstance(vector, np.ndarray) or vector.ndim != 1:
        raise BadOutput("the workflow gave no vector")
    return vector
