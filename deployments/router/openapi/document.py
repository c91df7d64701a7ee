"""The OpenAPI 3.1 document of the router, built from cards.

The general paths (`/v1/workflows/{name}/inference`) are always there; every workflow that was ready once adds concrete
ones with its own schemas.
"""

from __future__ import annotations

from collections.abc import Iterable

from deployments.router.directory import Entry
from deployments.router.openapi.native import native_paths, native_schemas, workflow_paths
from deployments.router.openapi.open_inference import open_inference_paths, open_inference_schemas
from deployments.router.openapi.operations import operation_paths
from deployments.router.openapi.parts import Json
from deployments.router.protocols.open_inference.metadata import own_version

__all__ = ["document"]


def document(entries: Iterable[Entry]) -> Json:
    """The API as these workflows make it."""
    schemas = {**native_schemas(), **open_inference_schemas()}
    paths = {**native_paths(), **open_inference_paths(), **operation_paths()}
    for entry in entries:
        if entry.card is not None:
            paths.update(workflow_paths(entry.card, schemas))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "infernet-serve",
            "version": own_version(),
            "description": "Inference workflows behind one router. Every answer has an x-request-id.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
