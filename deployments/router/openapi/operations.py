"""What operators, probes and newcomers ask of the router itself."""

from __future__ import annotations

from typing import Final

from deployments.router.openapi.parts import Json, get_operation

__all__ = ["operation_paths"]

_PUBLIC: Final[list[Json]] = [{}]


def operation_paths() -> Json:
    text: Json = {"type": "string"}
    paths: Json = {}
    for path, operation, summary, schema in (
        ("/v2/health/live", "serverLive", "Whether the router lives", {"type": "object"}),
        ("/v2/health/ready", "serverReady", "Whether the router can answer", {"type": "object"}),
        ("/health", "health", "Whether the router can answer", {"type": "object"}),
        ("/-/healthz", "healthz", "The same in one word", text),
        ("/-/routes", "routes", "What is mounted where (operators)", {"type": "object"}),
        ("/metrics", "metrics", "Prometheus metrics (operators)", text),
        ("/openapi.json", "openapi", "This document", {"type": "object"}),
        ("/docs", "docs", "A page that shows this document", text),
    ):
        get = get_operation(operation, "operations", summary, schema)
        if path in ("/v2/health/live", "/v2/health/ready", "/health", "/-/healthz"):
            get["security"] = _PUBLIC
            get["responses"] = {status: get["responses"][status] for status in ("200", "503")}
            get["responses"]["503"] = {"description": "Not ready, or draining."}
        elif path == "/docs":
            get["security"] = _PUBLIC
            get["responses"] = {"200": get["responses"]["200"]}
        if schema is text:
            media = "text/html" if path == "/docs" else "text/plain"
            get["responses"]["200"] = {"description": "OK", "content": {media: {"schema": text}}}
        paths[path] = {"get": get}
    return paths
