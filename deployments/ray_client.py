"""A workflow behind a Ray handle: the client that works everywhere. Ray's exceptions end here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
from ray import exceptions as ray_errors
from ray import serve
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle

from deployments.client import Item, Outcome
from deployments.lanes.address import LaneAddress
from deployments.wire import decode_error, decode_outcome, encode_item
from workflows.card import Card
from workflows.errors import InvalidInput, ModelNotFound, NotReady, Overloaded, ReplicaLost, WorkflowError

__all__ = ["DEPLOYMENT", "RayClient", "ask_controller", "translate"]

T = TypeVar("T")

DEPLOYMENT: Final = "WorkflowDeployment"
TELL_TIMEOUT_S: Final = 5.0

log = logging.getLogger(__name__)


# Questions to the Serve controller block, for ever if it hangs: then these threads do, and nothing else.
_ASKING: Final = ThreadPoolExecutor(max_workers=4, thread_name_prefix="serve-controller")


async def ask_controller(question: Callable[..., T], *about: Any) -> T:
    """What a blocking function of Serve's returns or raises. Give it a timeout: the controller may be hanging."""
    return await asyncio.get_running_loop().run_in_executor(_ASKING, question, *about)


class RayClient:
    """`WorkflowClient` over the handle of a workflow application. Belongs to one event loop."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._envelope = handle.options(method_name="envelope", stream=True)
        self._chunks = handle.options(method_name="chunks", stream=True)
        self._card = handle.options(method_name="card")

    @classmethod
    async def of_application(cls, name: str, *, must_exist: bool = True) -> RayClient:
        """The client of a workflow application. Raises ModelNotFound if it was never deployed and must have been.

        Raises NotReady where no Serve runs.
        """
        try:
            # Asks the Serve controller, and blocks; but what is made of the answer belongs to this loop.
            return cls(await ask_controller(serve.get_deployment_handle, DEPLOYMENT, name, must_exist))
        except serve_errors.RayServeException as cause:
            raise NotReady("Serve does not run here") from cause
        except KeyError as cause:
            raise ModelNotFound() from cause

    async def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        if not items:
            return  # an answer with nothing in it may lose its head on the way, and Serve makes an error of that
        async with _answers(self._envelope, [encode_item(item) for item in items]) as groups:
            async for group in groups:
                yield [(index, decode_outcome(outcome)) for index, outcome in group]

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        async with _answers(self._chunks, encode_item(item)) as groups:
            whole = False
            async for chunks, error in groups:
                if chunks is not None:
                    yield chunks
                elif error is not None:
                    raise decode_error(error)
                else:
                    whole = True
            if not whole:
                raise ReplicaLost(may_have_run=True)

    async def cancel(self, request_ids: Sequence[str]) -> None:
        await self._tell("cancel", list(request_ids))

    async def tell_waiting(self, caller: str, items: float) -> None:
        await self._tell("expect", caller, items)

    async def lanes(self) -> list[LaneAddress]:
        """The local lanes of all replicas that the handle knows of and that answer."""
        try:
            told = await self._handle.broadcast("lane").results_async(timeout_s=TELL_TIMEOUT_S, return_exceptions=True)
        except Exception as error:
            raise translate(error) from error
        return [LaneAddress(*fields) for fields in told if isinstance(fields, tuple | list)]

    async def _tell(self, method: str, *arguments: Any) -> None:
        """Every replica, and never mind the answers."""
        try:
            told = self._handle.broadcast(method, *arguments)
            await told.results_async(timeout_s=TELL_TIMEOUT_S, return_exceptions=True)
        except Exception as error:
            raise translate(error) from error

    async def card(self) -> Card:
        try:
            return Card.model_validate(await self._card.remote())
        except Exception as error:
            raise translate(error) from error


@asynccontextmanager
async def _answers(handle: DeploymentHandle[Any], argument: Any) -> AsyncGenerator[Any]:
    """A streaming handle call: its exceptions become the error tree's, and leaving early cancels it in the replica."""
    try:
        response = handle.remote(argument)
    except Exception as error:
        raise translate(error) from error
    finished = False
    try:
        yield response
        finished = True
    except WorkflowError:
        raise
    except Exception as error:
        finished = True
        raise translate(error) from error
    finally:
        if not finished:
            response.cancel()  # type: ignore[no-untyped-call]


def translate(error: Exception) -> WorkflowError:
    """What a failed handle call means to a caller; the original goes to the log with its paths and pids."""
    if isinstance(error, WorkflowError):
        return error
    if isinstance(error, ray_errors.RayTaskError) and isinstance(error.cause, WorkflowError):
        return error.cause
    log.warning("a call to a replica failed: %s", type(error).__name__, exc_info=error)
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    meaning = WorkflowError()
    if isinstance(error, serve_errors.BackPressureError):
        meaning = Overloaded()
    elif isinstance(error, serve_errors.DeploymentUnavailableError):
        meaning = NotReady("this workflow has no running replica")
    elif isinstance(error, _LOST) or code in _LOST_GRPC:
        meaning = ReplicaLost(may_have_run=True)
    elif code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        meaning = InvalidInput("the request or its answer is too large to be passed on")
    return meaning


# The process, its node or the way to it is gone, or Serve gave the call up while it stopped the replica.
_LOST: Final = (
    ray_errors.RayActorError,
    ray_errors.RaySystemError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.TaskCancelledError,
    serve_errors.RequestCancelledError,
    serve_errors.ReplicaUnavailableError,
    ConnectionError,
)
_LOST_GRPC: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
