"""`POST /v1/embeddings`: where texts lie in a vector space."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.openai.generation import ask_for_all, chosen
from deployments.router.protocols.openai.requests import EMBEDDINGS_REFUSED, EmbeddingsRequest, Source, read
from deployments.router.request import Reply, Request, json_reply
from workflows.errors import BadOutput
from workflows.tensors import Array

__all__ = ["embedding_inputs", "embeddings"]


async def embeddings(workflows: Workflows, request: Request, body: Any, entry: Entry | None = None) -> Reply:
    """Answer a request for embeddings, all or none of them. Raises the error tree; see `chat_completions`."""
    asked, inputs = embedding_inputs(body, request.limits.max_batch_items)
    entry = chosen(workflows, request, asked.model, entry, "embed")
    outputs = await ask_for_all(workflows, request, entry, inputs)
    model = entry.known_as if asked.model is None else asked.model
    return json_reply(_told(outputs, model, as_base64=asked.encoding_format == "base64"))


def embedding_inputs(body: Any, most: int) -> tuple[EmbeddingsRequest, list[dict[str, Any]]]:
    """The request in a body, and what the workflow is asked for each text. Raises InvalidInput."""
    asked = read(EmbeddingsRequest, body, EMBEDDINGS_REFUSED, most)
    more: dict[str, Any] = {} if asked.dimensions is None else {"dimensions": asked.dimensions}
    return asked, [{**_text(source), **more} for source in asked.input]


def _text(source: Source) -> dict[str, Any]:
    return {"text": source} if isinstance(source, str) else {"tokens": source}


def _told(outputs: Sequence[Any], model: str, *, as_base64: bool) -> dict[str, Any]:
    data, tokens = [], 0
    for index, output in enumerate(outputs):
        vector = output.get("embedding") if isinstance(output, dict) else None
        if not isinstance(vector, np.ndarray) or vector.ndim != 1:
            raise BadOutput("the workflow gave no vector")
        data.append({"object": "embedding", "index": index, "embedding": _as_base64(vector) if as_base64 else vector})
        tokens += output["tokens"]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _as_base64(vector: Array) -> str:
    """Its bytes as little-endian float32. What JSON could not say is not said this way either."""
    if not np.isfinite(vector).all():
        raise BadOutput("the model gave an output that is not finite (NaN or infinity)")
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").data).decode()
