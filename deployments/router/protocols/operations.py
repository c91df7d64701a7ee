"""What operators, probes and newcomers ask of the router itself: health, metrics, routes, the API's description.

Public: whether it lives, and the page for the description. With any key: the description, which shows the workflows
that this key may use, and each model's own with examples. With an operator's key: metrics and routes. A draining router
says that it is not ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from deployments.config import GrpcArgs
from deployments.router.asking import Workflows
from deployments.router.json_body import render_json
from deployments.router.keys import ANYONE
from deployments.router.metrics import CONTENT_TYPE
from deployments.router.openapi.document import document, model_document
from deployments.router.openapi.page import page
from deployments.router.protocols.open_inference.examples import Example, as_markdown, examples_of, place_of
from deployments.router.protocols.open_inference.http import PROTOCOL as OPEN_INFERENCE
from deployments.router.protocols.open_inference.inference import find
from deployments.router.protocols.open_inference.model_description import model_base
from deployments.router.protocols.tables import NATIVE
from deployments.router.request import JSON, Protocol, Reply, Request, Route, json_reply, text_reply
from workflows.card import Card
from workflows.errors import Unsupported

__all__ = ["PROTOCOL", "routes"]

_AS_IT_IS: Final = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
"""For what names the host that was asked."""
PROTOCOL: Final = Protocol("operations", "/-/", NATIVE)


def routes(
    workflows: Workflows, draining: Callable[[], bool], grpc: GrpcArgs | None, *, tgi_at_root: bool
) -> list[Route]:
    """What this adds to the router.

    Args:
        grpc: Where that is, for examples.
        tgi_at_root: Whether TGI's protocol is spoken at the root, where `/health` is its own then.
    """

    async def serve_routes(request: Request) -> Reply:
        return json_reply({"/": "router"})

    async def metrics(request: Request) -> Reply:
        return Reply(200, workflows.metrics.exposition(), [(b"content-type", CONTENT_TYPE.encode())])

    async def description(request: Request) -> Reply:
        keyed = request.key is not ANYONE
        return json_reply(document(workflows.listed(request), keyed=keyed, tgi_at_root=tgi_at_root))

    async def model_description(request: Request) -> Reply:
        card, version, examples = _examples(workflows, request, grpc)
        content = render_json(model_document(card, version, examples, keyed=request.key is not ANYONE))
        return Reply(200, content, [JSON, *_AS_IT_IS])

    async def model_examples(request: Request) -> Reply:
        card, _, examples = _examples(workflows, request, grpc)
        if not examples:
            raise Unsupported("this model does not say what it takes, so there are no examples")
        text = as_markdown(card, examples, place_of(request, grpc))
        return Reply(200, text.encode(), [(b"content-type", b"text/markdown; charset=utf-8"), *_AS_IT_IS])

    shown = page()

    async def docs(request: Request) -> Reply:
        return shown

    found = [
        *_health_routes(draining, tgi_at_root=tgi_at_root),
        Route("GET", "/-/routes", serve_routes, PROTOCOL, access="operator"),
        Route("GET", "/metrics", metrics, PROTOCOL, access="operator"),
        Route("GET", "/openapi.json", description, PROTOCOL),
        Route("GET", "/docs", docs, PROTOCOL, access="public"),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route("GET", f"{model}/openapi.json", model_description, OPEN_INFERENCE),
            Route("GET", f"{model}/examples", model_examples, OPEN_INFERENCE),
        ]
    return found


def _health_routes(draining: Callable[[], bool], *, tgi_at_root: bool) -> list[Route]:
    async def live(request: Request) -> Reply:
        return json_reply({"live": True})

    async def ready(request: Request) -> Reply:
        return json_reply({"ready": not draining()}, 503 if draining() else 200)

    async def health(request: Request) -> Reply:
        return json_reply({"status": "draining" if draining() else "ok"}, 503 if draining() else 200)

    async def healthz(request: Request) -> Reply:
        return text_reply("draining", 503) if draining() else text_reply("success")

    found = [
        Route("GET", "/v2/health/live", live, OPEN_INFERENCE, access="public"),
        Route("GET", "/v2/health/ready", ready, OPEN_INFERENCE, access="public"),
        Route("GET", "/-/healthz", healthz, PROTOCOL, access="public"),
    ]
    return found if tgi_at_root else [*found, Route("GET", "/health", health, PROTOCOL, access="public")]


def _examples(workflows: Workflows, request: Request, grpc: GrpcArgs | None) -> tuple[Card, str, list[Example]]:
    """The card of the model that the path names, the version if it names one, and examples."""
    card = workflows.card(find(workflows, request, *request.params))
    version = "".join(request.params[1:])
    base = model_base(card, version)
    return card, version, examples_of(card, base, version, place_of(request, grpc), request.limits.max_json_elements)
