"""The router's gRPC services behind one edge. No Ray, no sockets: whoever listens calls it."""

from __future__ import annotations

from collections.abc import Callable

from deployments.config import GrpcArgs, Limits
from deployments.router.asking import Workflows
from deployments.router.grpc_edge import GrpcEdge
from deployments.router.grpc_health import health_methods
from deployments.router.keys import Keys
from deployments.router.protocols.open_inference.grpc_proto import SERVICE
from deployments.router.protocols.open_inference.grpc_service import open_inference_methods

__all__ = ["build_grpc"]


def build_grpc(
    workflows: Workflows,
    args: GrpcArgs,
    limits: Limits,
    keys: Callable[[], Keys],
    access_log: Callable[[str], None] | None = None,
) -> GrpcEdge:
    """Everything the router answers over gRPC.

    Args:
        keys: The keys that are valid now; none means that nobody needs one.
        access_log: Gets one line per call.
    """
    edge: GrpcEdge

    def draining() -> bool:
        return edge.draining

    methods = [*open_inference_methods(workflows, draining), *health_methods([SERVICE], draining)]
    edge = GrpcEdge(
        methods,
        limits=limits,
        max_calls=args.max_calls,
        max_stream_s=args.max_stream_s,
        keys=keys,
        metrics=workflows.metrics,
        access_log=access_log,
    )
    return edge
