"""The Open Inference Protocol over gRPC: its service's methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from deployments.router.admission import Access
from deployments.router.asking import Workflows
from deployments.router.grpc_call import Call, Method
from deployments.router.protocols.open_inference import repository
from deployments.router.protocols.open_inference.grpc_messages import given_parameters, infer_answer, read_infer
from deployments.router.protocols.open_inference.grpc_proto import Rpc, parsed, rpcs
from deployments.router.protocols.open_inference.grpc_stream import stream_infer
from deployments.router.protocols.open_inference.inference import find, in_time, infer
from deployments.router.protocols.open_inference.metadata import model_metadata, server_metadata
from deployments.router.protocols.open_inference.statistics import all_statistics, model_statistics
from deployments.router.refusals import TooLarge
from workflows.errors import Unsupported

__all__ = ["PROTOCOL", "open_inference_methods"]

PROTOCOL: Final = "open_inference_grpc"
MAX_QUESTION_BYTES: Final = 64 << 10
"""Of a request without tensors. A million parameters in a few megabytes would hold everybody up for seconds."""
_ACCESS: Final[Mapping[str, Access]] = {
    "ServerLive": "public",
    "ServerReady": "public",
    "RepositoryModelLoad": "operator",
    "RepositoryModelUnload": "operator",
}

Answering = Callable[[Call, Any], Awaitable[dict[str, Any]]]


def open_inference_methods(workflows: Workflows, draining: Callable[[], bool]) -> list[Method]:
    """What this protocol adds to the router."""

    async def model_infer(call: Call, message: bytes) -> bytes:
        asked = await read_infer(message, call.limits)
        entry = find(workflows, call, asked.name, asked.version)
        inferred = await infer(workflows, call, entry, in_time(asked.infer, call.seconds_left()))
        return await infer_answer(entry.known_as, asked, inferred, entry.version)

    answering = {**_about_models(workflows, draining), **_repository(workflows)}
    methods: list[Method] = []
    for rpc in rpcs():
        access = _ACCESS.get(rpc.name, "key")
        if rpc.name == "ModelInfer":
            methods.append(Method(rpc.path, PROTOCOL, unary=model_infer, access=access))
        elif rpc.name == "ModelStreamInfer":
            methods.append(Method(rpc.path, PROTOCOL, conversing=stream_infer(workflows), access=access))
        else:
            methods.append(Method(rpc.path, PROTOCOL, unary=_unary(rpc, answering[rpc.name]), access=access))
    return methods


def _about_models(workflows: Workflows, draining: Callable[[], bool]) -> dict[str, Answering]:
    async def server_live(call: Call, request: Any) -> dict[str, Any]:
        return {"live": True}

    async def server_ready(call: Call, request: Any) -> dict[str, Any]:
        return {"ready": not draining()}

    async def model_ready(call: Call, request: Any) -> dict[str, Any]:
        return {"ready": find(workflows, call, request.name, request.version).state == "ready"}

    async def server(call: Call, request: Any) -> dict[str, Any]:
        return server_metadata()

    async def metadata(call: Call, request: Any) -> dict[str, Any]:
        return model_metadata(workflows, call, find(workflows, call, request.name, request.version))

    async def statistics(call: Call, request: Any) -> dict[str, Any]:
        if not request.name:
            return {"model_stats": await all_statistics(workflows, call)}
        return {"model_stats": await model_statistics(workflows, call, request.name, request.version)}

    return {
        "ServerLive": server_live,
        "ServerReady": server_ready,
        "ModelReady": model_ready,
        "ServerMetadata": server,
        "ModelMetadata": metadata,
        "ModelStatistics": statistics,
    }


def _repository(workflows: Workflows) -> dict[str, Answering]:
    async def index(call: Call, request: Any) -> dict[str, Any]:
        _check_repository(request)
        return {"models": repository.index(workflows, call, only_ready=request.ready)}

    async def load(call: Call, request: Any) -> dict[str, Any]:
        name = _named(request)
        await repository.load(workflows, call, name, given_parameters(request.parameters))
        return {"model_name": name, "isLoaded": True}

    async def unload(call: Call, request: Any) -> dict[str, Any]:
        name = _named(request)
        await repository.unload(workflows, call, name, given_parameters(request.parameters))
        return {"model_name": name, "isUnloaded": True}

    return {"RepositoryIndex": index, "RepositoryModelLoad": load, "RepositoryModelUnload": unload}


def _unary(rpc: Rpc, answering: Answering) -> Callable[[Call, bytes], Awaitable[bytes]]:
    """Between messages and what they are about."""

    async def unary(call: Call, message: bytes) -> bytes:
        if len(message) > MAX_QUESTION_BYTES:
            raise TooLarge(f"a request of this method may take {MAX_QUESTION_BYTES} bytes")
        answer = await answering(call, parsed(rpc.request, message))
        return bytes(rpc.answer(**answer).SerializeToString())

    return unary


def _named(request: Any) -> str:
    """The model to load or unload. KServe's text has only one field, where Triton's has the repository's name."""
    name = str(request.model_name or request.repository_name)
    if request.model_name:
        _check_repository(request)
    return name


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise Unsupported("there is one repository, and it has no name", param="repository_name")
