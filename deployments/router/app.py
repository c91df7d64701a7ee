"""The router's ASGI application: every protocol behind one edge. No Ray, no sockets: whoever listens calls it.

app = build_app(directory, RouterArgs(), Keys(), Metrics())
"""

from __future__ import annotations

from collections.abc import Callable

from deployments.config import RouterArgs
from deployments.router.asking import Workflows
from deployments.router.directory import Directory
from deployments.router.edge import Edge
from deployments.router.keys import Keys
from deployments.router.metrics import Metrics
from deployments.router.protocols import native, operations
from deployments.router.protocols.huggingface import http as hugging_face
from deployments.router.protocols.open_inference import http as open_inference
from deployments.router.protocols.openai import http as openai
from deployments.router.protocols.tgi import http as tgi

__all__ = ["build_app"]


def build_app(
    directory: Directory,
    args: RouterArgs,
    keys: Keys,
    metrics: Metrics,
    access_log: Callable[[str], None] | None = None,
) -> Edge:
    """Everything the router answers.

    Args:
        keys: From `load_keys(args)`; empty means that nobody needs a key.
        metrics: Shown under `/metrics`; the dispatchers count in it as well.
        access_log: Gets one line per request.
    """
    workflows = Workflows(directory, metrics)
    routes = [*native.routes(workflows), *open_inference.routes(workflows), *openai.routes(workflows)]
    routes += [*tgi.routes(workflows), *hugging_face.routes(workflows)]
    protocols = [native.PROTOCOL, native.BESIDE_OPENAI, open_inference.PROTOCOL, openai.PROTOCOL, tgi.PROTOCOL]
    protocols.append(hugging_face.PROTOCOL)
    edge: Edge

    def draining() -> bool:
        return edge.draining

    if args.tgi_root is not None:
        routes += tgi.root_routes(workflows, args.tgi_root, draining)
    routes += operations.routes(workflows, draining, args.grpc, tgi_at_root=args.tgi_root is not None)
    edge = Edge(routes, protocols, args, keys, metrics, access_log)
    return edge
