"""Described: what operators, probes and newcomers ask of the router itself."""

from __future__ import annotations

from typing import Final

from deployments.router.openapi.parts import Json, closed, errors, get_operation

__all__ = ["operation_paths"]

_TAG: Final = "operations"
_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}
_AT_THE_DOOR: Final = ("400", "408", "414", "431", "500")
"""What is answered to any request that cannot be read."""
_OPEN_INFERENCE: Final = "OpenInferenceError"


def operation_paths() -> Json:
    status = {"enum": ["ok", "draining"]}
    routes = {"type": "object", "additionalProperties": _TEXT}
    live = _public("serverLive", "Whether the router lives", closed({"live": _FLAG}), error=_OPEN_INFERENCE)
    return {
        "/v2/health/live": {"get": live},
        "/v2/health/ready": {"get": _ready("serverReady", closed({"ready": _FLAG}), error=_OPEN_INFERENCE)},
        "/health": {"get": _ready("health", closed({"status": status}))},
        "/-/healthz": {"get": _ready("healthz", {"enum": ["success", "draining"]}, media="text/plain")},
        "/-/routes": {"get": _get("routes", "What is mounted where (operators)", routes)},
        "/metrics": {"get": _get("metrics", "Prometheus metrics (operators)", _TEXT, media="text/plain")},
        "/openapi.json": {"get": _get("openapi", "This document", {"type": "object"})},
        "/docs": {"get": _public("docs", "A page that shows this document", _TEXT, media="text/html")},
    }


def _get(operation: str, summary: str, answer: Json, *, media: str = "application/json") -> Json:
    found = get_operation(operation, _TAG, summary, answer)
    found["responses"]["200"]["content"] = {media: {"schema": answer}}
    return found


def _public(
    operation: str, summary: str, answer: Json, *, media: str = "application/json", error: str = "NativeError"
) -> Json:
    found = _get(operation, summary, answer, media=media)
    responses = {"200": found["responses"]["200"], **errors(_AT_THE_DOOR, error)}
    return {**found, "security": [{}], "responses": responses}


def _ready(operation: str, answer: Json, *, media: str = "application/json", error: str = "NativeError") -> Json:
    """Not ready is said in the same form as ready."""
    found = _public(operation, "Whether the router can answer", answer, media=media, error=error)
    found["responses"]["503"] = {**found["responses"]["200"], "description": "Draining."}
    return found
