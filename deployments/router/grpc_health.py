"""gRPC's standard health service, which load balancers and Kubernetes ask: SERVING until the router drains.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md

Knows the server as a whole (the empty name) and the services on it. Models have their own readiness in their protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from deployments.router.grpc_call import Call, Conversation, Method
from deployments.router.refusals import BadMessage
from workflows.errors import ModelNotFound, NotReady

__all__ = ["health_methods"]

PATH = "/grpc.health.v1.Health"
PROTOCOL = "grpc_health"
_STATUS = health_pb2.HealthCheckResponse


def health_methods(services: Iterable[str], draining: Callable[[], bool]) -> list[Method]:
    """Asking once needs no key; watching, which holds a call for as long as one likes, needs one."""
    known = {"", *services}

    def status(service: str) -> bytes:
        if service not in known:
            return _said(_STATUS.SERVICE_UNKNOWN)
        return _said(_STATUS.NOT_SERVING if draining() else _STATUS.SERVING)

    async def check(call: Call, message: bytes) -> bytes:
        service = _service(message)
        if service not in known:
            raise ModelNotFound("there is no such service")
        return status(service)

    async def watch(conversation: Conversation) -> None:
        service = _service(await conversation.call.only_message())
        await conversation.write(status(service))
        await conversation.leaving.wait()
        if draining():
            await conversation.write(status(service))
        raise NotReady("the server ends this call; watch again")

    return [
        Method(f"{PATH}/Check", PROTOCOL, unary=check, access="public"),
        Method(f"{PATH}/Watch", PROTOCOL, conversing=watch),
    ]


def _service(message: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError as cause:
        raise BadMessage() from cause


def _said(status: int) -> bytes:
    return bytes(_STATUS(status=status).SerializeToString())
