"""A workflow behind a Ray handle: the client that works everywhere. Ray's exceptions end here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
from ray import exceptions as ray_errors
from ray import serve
from ray.serve import exceptions as serve_errors
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatusOverview, ServeStatus

from deployments.client import Item, Outcome
from deployments.lanes.address import LaneAddress
from deployments.serve_status import serve_status
from deployments.standing import Standing
from deployments.statistics import Statistics
from deployments.wire import PlainStanding, decode_outcome, encode_item
from workflows.card import Card
from workflows.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    NotReady,
    Overloaded,
    ReplicaLost,
    WorkflowError,
)
from workflows.plain_error import PlainError, decode_error

__all__ = ["DEPLOYMENT", "RayClient", "ask_controller", "running_replicas", "translate"]

T = TypeVar("T")

DEPLOYMENT: Final = "WorkflowDeployment"
TELL_TIMEOUT_S: Final = 5.0
ANSWER_S: Final = 5.0
"""A replica says itself that its time is up; what does not answer so much later is lost."""
AGAIN_S: Final = 0.2
MAX_HELD: Final = 16

log = logging.getLogger(__name__)


# Questions to the Serve controller block, for ever if it hangs: then these threads do, and nothing else.
_ASKING: Final = ThreadPoolExecutor(max_workers=4, thread_name_prefix="serve-controller")


async def ask_controller(question: Callable[..., T], *about: Any) -> T:
    """What a blocking function of Serve's returns or raises. Give it a timeout: the controller may be hanging."""
    return await asyncio.get_running_loop().run_in_executor(_ASKING, question, *about)


class RayClient:
    """`WorkflowClient` over the handle of a workflow application. Belongs to one event loop.

    Args:
        status: Serve's, which blocks.

    Attributes:
        avoid: Replicas that another one is to be preferred to.
    """

    def __init__(self, handle: DeploymentHandle[Any], status: Callable[[], ServeStatus] = serve_status) -> None:
        self.avoid: frozenset[str] = frozenset()
        self._handle = handle
        self._status = status
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
        async with self._answers(self._envelope, [encode_item(item) for item in items]) as groups:
            async for group in groups:
                yield [(index, decode_outcome(outcome)) for index, outcome in group]

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        async with self._answers(self._chunks, encode_item(item)) as groups:
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

    async def standings(self) -> list[Standing]:
        """What all replicas say of themselves that the handle knows of and that answer."""
        try:
            told = self._handle.broadcast("standing")
            answers = await told.results_async(timeout_s=TELL_TIMEOUT_S, return_exceptions=True)
        except Exception as error:
            raise translate(error) from error
        return [Standing(*fields) for fields in answers if not isinstance(fields, BaseException)]

    async def statistics(self) -> Statistics:
        """As `WorkflowClient.statistics`, of the replicas that the handle knows of."""
        whole = Statistics()
        try:
            told = self._handle.broadcast("statistics")
            for plain in await told.results_async(timeout_s=TELL_TIMEOUT_S):
                whole.merge(Statistics.of_plain(plain))
        except TimeoutError:
            raise DeadlineExceeded("a replica did not answer in time") from None
        except serve_errors.DeploymentUnavailableError:
            return whole  # none runs
        except Exception as error:
            raise translate(error) from error
        return whole

    async def unload(self, timeout_s: float) -> list[Standing]:
        return await self._change("unload", timeout_s)

    async def load(self, timeout_s: float) -> list[Standing]:
        return await self._change("load", timeout_s)

    async def _change(self, method: str, timeout_s: float) -> list[Standing]:
        """Have every running replica do it. Asked again where a replica died, or was not known to the handle yet."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            left = max(0.0, until - loop.time())
            answers, asked = await self._ask_all(method, left)
            refused = [decode_error(error) for _, error in answers if error is not None]
            if refused:
                raise _of_many(refused, len(answers))
            if len(answers) >= max(asked, await self._replicas()):
                return [Standing(*fields) for fields, _ in answers]
            if loop.time() >= until:
                raise ReplicaLost("a replica did not answer", may_have_run=True)
            await asyncio.sleep(AGAIN_S)

    async def _ask_all(
        self, method: str, timeout_s: float
    ) -> tuple[list[tuple[PlainStanding, PlainError | None]], int]:
        """The answers of those that gave one, and how many were asked."""
        try:
            told = self._handle.broadcast(method, timeout_s)
            answers = await told.results_async(timeout_s=timeout_s + ANSWER_S, return_exceptions=True)
        except TimeoutError:
            raise DeadlineExceeded("a replica did not answer in time", may_have_run=True) from None
        except Exception as error:
            raise translate(error) from error
        for answer in answers:
            if isinstance(answer, BaseException):
                log.warning("a replica did not answer to %s", method, exc_info=answer)
        return [answer for answer in answers if not isinstance(answer, BaseException)], len(answers)

    async def _replicas(self) -> int:
        """How many run, as Serve says; 0 where it does not."""
        try:
            async with asyncio.timeout(TELL_TIMEOUT_S):
                status = await ask_controller(self._status)
        except Exception:
            log.warning("Serve's status could not be read", exc_info=True)
            return 0
        app = status.applications.get(self._handle.app_name)
        return 0 if app is None else running_replicas(app)

    async def card(self) -> Card:
        try:
            return Card.model_validate(await self._card.remote())
        except Exception as error:
            raise translate(error) from error

    @asynccontextmanager
    async def _answers(self, handle: DeploymentHandle[Any], argument: Any) -> AsyncGenerator[Any]:
        """A streaming handle call: its exceptions become the error tree's, and leaving early cancels it in the replica."""
        async with AsyncExitStack() as place:
            response: Any
            try:
                if self.avoid:
                    response = handle.dispatch(await self._elsewhere(handle, argument, place), argument)
                else:
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
                    response.cancel()

    async def _elsewhere(self, handle: DeploymentHandle[Any], argument: Any, place: AsyncExitStack) -> Any:
        """A place in a replica that is not to be avoided, if Serve offers one.

        It offers the replica that has the least to do, which one that refuses everything always is: so the places that
        are not wanted are held until there is another one.
        """
        async with AsyncExitStack() as held:
            for _ in range(MAX_HELD):
                offered = AsyncExitStack()
                selection = await offered.enter_async_context(handle.choose_replica(argument))
                held.push_async_exit(offered)
                if selection.replica_id not in self.avoid:
                    break
            place.push_async_exit(offered.pop_all())
        return selection


def running_replicas(app: ApplicationStatusOverview) -> int:
    """How many replicas of a workflow application run."""
    deployment = app.deployments.get(DEPLOYMENT)
    states: dict[Any, int] = dict(deployment.replica_states) if deployment else {}
    return sum(count for state, count in states.items() if getattr(state, "value", state) == "RUNNING")


def _of_many(errors: Sequence[WorkflowError], replicas: int) -> WorkflowError:
    """The first error, which says of how many replicas it holds where there are several."""
    first = errors[0]
    if replicas == 1:
        return first
    message = f"{len(errors)} of {replicas} replicas: {first.message}"
    return type(first)(message, retry_after_s=first.retry_after_s, may_have_run=first.may_have_run)


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
