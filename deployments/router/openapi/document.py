"""The OpenAPI 3.1 documents of the router, built from cards: one of everything, and one of each model.

In that of everything, the general paths (`/v1/workflows/{name}/inference`) are always there; every workflow that was ready
once adds concrete ones with its own schemas. That of a model has nothing but concrete paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from deployments.router.directory import Entry
from deployments.router.openapi.parts import Json
from deployments.router.protocols.huggingface.description import hugging_face_paths, hugging_face_schemas
from deployments.router.protocols.native_description import native_paths, native_schemas, workflow_paths
from deployments.router.protocols.open_inference.description import open_inference_paths, open_inference_schemas
from deployments.router.protocols.open_inference.examples import Example
from deployments.router.protocols.open_inference.metadata import own_version
from deployments.router.protocols.open_inference.model_description import one_model_paths
from deployments.router.protocols.open_inference.repository_description import repository_paths, repository_schemas
from deployments.router.protocols.open_inference.statistics_description import statistics_paths, statistics_schemas
from deployments.router.protocols.openai.description import openai_paths, openai_schemas
from deployments.router.protocols.openai.speech_description import speech_paths, speech_schemas
from deployments.router.protocols.operations_description import operation_paths
from deployments.router.protocols.tgi.description import tgi_paths, tgi_root_paths, tgi_schemas
from workflows.card import Card

__all__ = ["document", "model_document"]

_SCHEMAS: Final = "#/components/schemas/"
_GENERAL: Final = {
    "native": "A workflow's own input and output types as JSON.",
    "open inference": "The Open Inference Protocol (KServe v2): tensors, for clients that there are.",
    "text generation inference": "TGI's protocol, for workflows that generate text.",
    "openai": "OpenAI's protocol, for clients that there are: chat, text completions, embeddings, speech.",
    "hugging face": "Hugging Face's inference API, for `InferenceClient(model=URL)`.",
    "operations": "For operators, probes and newcomers.",
}


def document(entries: Iterable[Entry], *, keyed: bool, tgi_at_root: bool) -> Json:
    """The API as these workflows make it. `keyed`: whether callers need a key; `tgi_at_root`: whether a workflow is."""
    listed = list(entries)
    names = [entry.name for entry in listed]
    writing = [entry.name for entry in listed if entry.card is not None and entry.card.kind == "generate"]
    openai = openai_schemas(listed)
    schemas = {
        **native_schemas(),
        **open_inference_schemas(),
        **repository_schemas(),
        **statistics_schemas(),
        **openai,
        **speech_schemas(listed),
        **tgi_schemas(openai),
        **hugging_face_schemas(),
    }
    paths = {
        **native_paths(names),
        **open_inference_paths(names, sorted({entry.version for entry in listed})),
        **repository_paths(names),
        **statistics_paths(),
        **tgi_paths(writing),
        **openai_paths(names),
        **speech_paths(),
        **hugging_face_paths(names),
        **operation_paths(),
        **(tgi_root_paths() if tgi_at_root else {}),
    }
    tags: list[Json] = [{"name": name, "description": about} for name, about in _GENERAL.items()]
    for entry in listed:
        if entry.card is not None:
            paths.update(workflow_paths(entry.card, schemas))
        if entry.card is not None and entry.name not in _GENERAL:
            more = {"url": f"v2/models/{entry.name}/openapi.json", "description": "All of its routes, with examples"}
            tags.append({"name": entry.name, "description": entry.card.summary, "externalDocs": more})
    info = {
        "title": "infernet-serve",
        "version": own_version(),
        "description": "Inference workflows behind one router. Every answer has an x-request-id.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }
    return _whole(info, paths, schemas, tags, keyed=keyed)


def model_document(card: Card, version: str, examples: Sequence[Example], *, keyed: bool) -> Json:
    """One model's part of the API, with these examples. `version`: as in its paths; empty for paths without one."""
    schemas = {**native_schemas(), **open_inference_schemas(), **statistics_schemas()}
    paths = {**one_model_paths(card, version, schemas), **workflow_paths(card, schemas)}
    for example in examples:
        operation = paths[example.path]["post"]
        samples = operation.setdefault("x-codeSamples", [])
        samples.append({"lang": example.lang, "label": example.label, "source": example.source})
        if example.body is not None:
            operation["requestBody"]["content"]["application/json"]["example"] = example.body
    info = {"title": card.name, "version": own_version(), "description": card.summary}
    tags = [{"name": card.name, "description": card.summary}]
    return _whole(info, paths, _referred(paths, schemas), tags, keyed=keyed)


def _whole(info: Json, paths: Json, schemas: Json, tags: list[Json], *, keyed: bool) -> Json:
    bearer, header = {"type": "http", "scheme": "bearer"}, {"type": "apiKey", "in": "header", "name": "x-api-key"}
    return {
        "openapi": "3.1.0",
        "info": info,
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}] if keyed else [],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": bearer, "apiKey": header},
        },
    }


def _referred(paths: Json, schemas: Json) -> Json:
    """The schemas that these paths refer to, and those that they refer to."""
    found: Json = {}
    ahead: list[Any] = [paths]
    while ahead:
        value = ahead.pop()
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix(_SCHEMAS)
            if name in schemas and name not in found:
                found[name] = schemas[name]
                ahead.append(schemas[name])
            ahead += value.values()
        elif isinstance(value, list):
            ahead += value
    return {name: found[name] for name in schemas if name in found}
