"""What operators, probes and newcomers ask of the router itself: health, metrics, routes, the API's description.

Public: whether it lives, and the page for the description. With any key: the description, which shows the workflows
that this key may use. With an operator's key: metrics and routes. A draining router says that it is not ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from deployments.router.asking import Workflows
from deployments.router.metrics import CONTENT_TYPE
from deployments.router.openapi.document import document
from deployments.router.openapi.page import page
from deployments.router.protocols.open_inference.http import PROTOCOL as OPEN_INFERENCE
from deployments.router.protocols.tables import NATIVE
from deployments.router.request import Protocol, Reply, Request, Route, json_reply, text_reply

__all__ = ["PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("operations", "/-/", NATIVE)


def routes(workflows: Workflows, draining: Callable[[], bool]) -> list[Route]:
    """What this adds to the router."""

    async def live(request: Request) -> Reply:
        return json_reply({"live": True})

    async def ready(request: Request) -> Reply:
        return json_reply({"ready": not draining()}, 503 if draining() else 200)

    async def health(request: Request) -> Reply:
        return json_reply({"status": "draining" if draining() else "ok"}, 503 if draining() else 200)

    async def healthz(request: Request) -> Reply:
        return text_reply("draining", 503) if draining() else text_reply("success")

    async def serve_routes(request: Request) -> Reply:
        return json_reply({"/": "router"})

    async def metrics(request: Request) -> Reply:
        return Reply(200, workflows.metrics.exposition(), [(b"content-type", CONTENT_TYPE.encode())])

    async def description(request: Request) -> Reply:
        return json_reply(document(workflows.listed(request)))

    shown = page()

    async def docs(request: Request) -> Reply:
        return shown

    return [
        Route("GET", "/v2/health/live", live, OPEN_INFERENCE, access="public"),
        Route("GET", "/v2/health/ready", ready, OPEN_INFERENCE, access="public"),
        Route("GET", "/health", health, PROTOCOL, access="public"),
        Route("GET", "/-/healthz", healthz, PROTOCOL, access="public"),
        Route("GET", "/-/routes", serve_routes, PROTOCOL, access="operator"),
        Route("GET", "/metrics", metrics, PROTOCOL, access="operator"),
        Route("GET", "/openapi.json", description, PROTOCOL),
        Route("GET", "/docs", docs, PROTOCOL, access="public"),
    ]
