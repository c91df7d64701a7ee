"""The router's gRPC front for tests: the real listener on a free port, and callers that speak its messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from deployments.config import GrpcArgs, Limits, RouterArgs
from deployments.router.asking import Workflows
from deployments.router.grpc_app import build_grpc
from deployments.router.grpc_edge import GrpcEdge
from deployments.router.grpc_listener import GrpcListener
from deployments.router.keys import Keys
from deployments.router.protocols.open_inference.grpc_proto import message_class, rpcs
from tests.router.router_front import Front
from workflows.tensors import Array

__all__ = [
    "REQUEST",
    "RPCS",
    "Caller",
    "GrpcFront",
    "failure",
    "infer_edge",
    "infer_request",
    "listening",
    "text_request",
    "until",
]

REQUEST = message_class("ModelInferRequest")
RPCS = {rpc.name: rpc for rpc in rpcs()}
Metadata = Sequence[tuple[str, str | bytes]]


class Caller:
    """One channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    async def ask(self, method: str, /, metadata: Metadata = (), **fields: Any) -> Any:
        """Call a method of one message; its fields are those of the request."""
        return await self.call(method, RPCS[method].request(**fields), metadata)

    def call(self, name: str, request: Any, metadata: Metadata = (), timeout: float | None = 10) -> Any:
        """gRPC's own call, which may be awaited and cancelled."""
        rpc = RPCS[name]
        method = self.channel.unary_unary(rpc.path, _bytes_of, rpc.answer.FromString)
        return method(request, metadata=metadata, timeout=timeout)

    def conversation(self, metadata: Metadata = (), timeout: float | None = 10) -> Any:
        """gRPC's own call of many messages."""
        rpc = RPCS["ModelStreamInfer"]
        method = self.channel.stream_stream(rpc.path, _bytes_of, rpc.answer.FromString)
        return method(metadata=metadata, timeout=timeout)


def _bytes_of(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


@dataclass
class GrpcFront:
    """What is listening, and what is behind it."""

    front: Front
    edge: GrpcEdge
    listener: GrpcListener

    @property
    def target(self) -> str:
        host, port = self.listener.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @asynccontextmanager
    async def caller(self, credentials: Any = None, options: Mapping[str, Any] | None = None) -> AsyncGenerator[Caller]:
        chosen = [("grpc.use_local_subchannel_pool", 1), *(options or {}).items()]
        if credentials is None:
            channel = grpc.aio.insecure_channel(self.target, options=chosen)
        else:
            channel = grpc.aio.secure_channel(self.target, credentials, options=chosen)
        async with channel:
            yield Caller(channel)


def infer_edge(
    front: Front,
    args: GrpcArgs,
    limits: Limits | None = None,
    keys: Keys | None = None,
) -> tuple[GrpcEdge, Limits]:
    """The services over a front's workflows."""
    limits = limits or Limits()
    workflows = Workflows(front.directory, front.metrics)
    return build_grpc(workflows, args, limits, lambda: keys or Keys(), front.lines), limits


@asynccontextmanager
async def listening(
    front: Front | None = None, keys: Keys | None = None, *, drain_s: float = 5.0, **args: Any
) -> AsyncGenerator[GrpcFront]:
    """Listens on a free port of loopback until the block ends. `args` are `RouterArgs`."""
    grpc_args = GrpcArgs.model_validate({"port": 0, **args.pop("grpc", {})})
    router_args = RouterArgs.model_validate(args)
    front = front or Front()
    edge, _ = infer_edge(front, grpc_args, router_args.limits, keys)
    listener = GrpcListener(edge, router_args.host, grpc_args, limits=router_args.limits, owner="test", quiet_s=0.05)
    await listener.start(drain_s)
    try:
        yield GrpcFront(front, edge, listener)
    finally:
        await listener.stop()


def infer_request(name: str = "m", array: Array | None = None, **fields: Any) -> Any:
    """One raw FP32 tensor `x`, for the tensor workflows of `Front`."""
    array = np.array([[1.5, 2.5]], np.float32) if array is None else array
    request = REQUEST(model_name=name, raw_input_contents=[array.tobytes()], **fields)
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    return request


def text_request(name: str, *texts: str, field: str = "text_input", **fields: Any) -> Any:
    """A tensor of texts, as contents."""
    request = REQUEST(model_name=name, **fields)
    contents = {"bytes_contents": [text.encode() for text in texts]}
    request.inputs.add(name=field, datatype="BYTES", shape=[len(texts)], contents=contents)
    return request


async def failure(call: Any) -> Any:
    """The error that a call ends with."""
    try:
        async with asyncio.timeout(10):
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")


async def until(true: Callable[[], bool]) -> None:
    """Returns once it is so, which gRPC's own threads may take a moment to bring about."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)
