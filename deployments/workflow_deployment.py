"""The Ray shell around a runner: builds the configured workflow and sets it up with what Ray allotted to this replica.

Nothing of the data path is in here but turning values into their plain form and back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import asdict, astuple
from typing import Any, Final

import ray
from ray import serve

from deployments.building import ConfigError, build_workflow, parsed
from deployments.collector import expect_parked_calls
from deployments.config import WorkflowArgs, WorkflowSettings
from deployments.lanes.server import LaneServer
from deployments.loading import why_setup_failed
from deployments.runner import Runner
from deployments.serve_logs import join_serve_logs
from deployments.standing import Standing
from deployments.wire import PlainItem, PlainOutcome, PlainStanding, decode_item, encode_outcome
from workflows.async_base import AsyncInferenceWorkflow
from workflows.errors import WorkflowError
from workflows.plain_error import PlainError, encode_error
from workflows.resources import Resources

__all__ = ["WorkflowDeployment"]

log = logging.getLogger(__name__)

# Serve must never hold requests back before the desk has seen them: the desk has bounds of its own, and its refusals
# are answers, while Serve's back-pressure polls.
UNBOUNDED = 100_000
MAX_DETAIL_CHARS = 300


def allotted() -> Resources:
    """What Ray gave this replica. With `num_gpus: 0` that is no GPU, whatever CUDA can see."""
    context = ray.get_runtime_context()
    assigned = context.get_assigned_resources()  # type: ignore[no-untyped-call]
    gpu_ids = [str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])]
    memory = assigned.get("memory")
    return Resources.allotted(
        gpu_ids=gpu_ids,
        gpu_fraction=min(1.0, float(assigned.get("GPU", 1.0))),
        cpus=float(assigned.get("CPU", 0.0)),
        memory_bytes=None if memory is None else int(memory),
    )


async def _lane_to(runner: Runner, replica: str) -> LaneServer | None:
    """A local lane to the runner. Where none can be had, the handle is the only way, and everything works."""
    lane = LaneServer(runner, replica)
    try:
        await lane.start()
    except OSError:
        log.warning("no local lane to this replica", exc_info=True)
        return None
    return lane


class SetupFailed(RuntimeError):
    """Why a replica could not start, as JSON between marks that discovery looks for in Serve's status text."""

    MARK = "SETUP-FAILED<"
    END = ">SETUP-FAILED"

    def __init__(self, error: Exception) -> None:
        first_line = str(error).strip().partition("\n")[0][:MAX_DETAIL_CHARS]
        detail = f"{type(error).__name__}: {first_line}"
        said = json.dumps({"reason": why_setup_failed(error), "detail": detail})
        super().__init__(f"{self.MARK}{said}{self.END}")


_TOLD: Final = ("aliases", "version", "version_of", "fallbacks", "preserves")
"""What the card says of where the workflow is deployed, by the names of `WorkflowArgs`."""


@serve.deployment(
    max_ongoing_requests=UNBOUNDED,
    max_constructor_retry_count=3,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=600,
)
class WorkflowDeployment:
    """One replica of one workflow. Its application's name is the workflow's name."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        join_serve_logs()
        self._started = False
        self._settings = WorkflowSettings()
        config = WorkflowArgs.model_validate(args)
        try:
            workflow = build_workflow(config)
            workflow.resources = allotted()
            if isinstance(workflow, AsyncInferenceWorkflow):
                expect_parked_calls()
            self._told = {name: getattr(config, name) for name in _TOLD}
            context = serve.get_replica_context()
            replica = context.replica_id.unique_id
            self._runner = Runner(
                workflow,
                context.app_name,
                summary=config.summary,
                stuck_after_s=config.stuck_after_s,
                replica=replica,
            )
            await self._runner.start(config.setup_timeout_s)
            self._lane = await _lane_to(self._runner, replica)
        except Exception as error:
            log.exception("setup failed")
            raise SetupFailed(error) from error

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with the deployment's `user_config`, at the start and whenever it changes.

        Serve kills a replica that raises here. A wrong file may keep a new one from starting, but not end one that works.
        """
        try:
            self._settings = parsed(WorkflowSettings, user_config, "user_config")
            self._runner.configure(self._settings)
        except ConfigError:
            if not self._started:
                raise
            log.exception("the settings stay as they were")

    def check_health(self) -> None:
        """Serve calls this every few seconds and replaces a replica that raises or does not answer."""
        self._started = True  # the first check comes after the first `reconfigure`
        self._runner.check_health()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve sees one request per envelope; the items inside are counted here."""
        figures = self._runner.figures()
        return asdict(figures)

    async def __del__(self) -> None:
        # Serve has waited for the calls of handles; what comes over the lane it knows nothing of.
        lane, runner = getattr(self, "_lane", None), getattr(self, "_runner", None)
        if lane is not None:
            await lane.send_away()
        if runner is not None:
            await runner.stop()
        if lane is not None:
            await lane.close()

    # ---- for Python callers: plain values or exchange types in, exchange types out, the error tree raised ---------------

    async def inference(self, input_data: Any) -> Any:
        """`handle.inference.remote(x)`: the workflow's answer."""
        return await self._runner.inference(input_data)

    async def stream(self, input_data: Any) -> AsyncGenerator[Any]:
        """`handle.options(stream=True).stream.remote(x)`: the workflow's chunks."""
        async with aclosing(self._runner.chunks(input_data)) as chunks:
            async for chunk in chunks:
                yield chunk

    # ---- for `RayClient`: plain data both ways, errors as values ---------------------------------------------------------

    async def card(self) -> dict[str, Any]:
        where = {
            **self._told,
            "max_queue": self._settings.max_queue,
            "max_streams": self._settings.max_streams,
        }
        return self._runner.card.model_copy(update=where).model_dump()

    async def lane(self) -> tuple[str, str, int, str] | None:
        """Where this replica's local lane is, as the fields of `LaneAddress`."""
        address = None if self._lane is None else self._lane.address(ray.get_runtime_context().get_node_id())
        return None if address is None else astuple(address)

    async def cancel(self, request_ids: list[str]) -> None:
        self._runner.cancel(request_ids)

    async def expect(self, caller: str, items: float) -> None:
        self._runner.expect(caller, items)

    async def standing(self) -> PlainStanding:
        return _plain(self._runner.standing)

    async def unload(self, timeout_s: float) -> tuple[PlainStanding, PlainError | None]:
        return await self._changed(self._runner.unload(timeout_s))

    async def load(self, timeout_s: float) -> tuple[PlainStanding, PlainError | None]:
        return await self._changed(self._runner.load(timeout_s))

    async def _changed(self, change: Awaitable[Standing]) -> tuple[PlainStanding, PlainError | None]:
        error: PlainError | None = None
        try:
            await change
        except WorkflowError as raised:
            error = encode_error(raised)
        return _plain(self._runner.standing), error

    async def statistics(self) -> dict[str, Any]:
        return self._runner.statistics().plain()

    async def envelope(self, items: list[PlainItem]) -> AsyncGenerator[list[tuple[int, PlainOutcome]]]:
        async with aclosing(self._runner.submit([decode_item(item) for item in items])) as groups:
            async for group in groups:
                yield [(index, encode_outcome(outcome)) for index, outcome in group]

    async def chunks(self, item: PlainItem) -> AsyncGenerator[tuple[list[Any] | None, PlainError | None]]:
        """Groups of chunks, and at last None with the error or without: what breaks off before that is not whole."""
        error: PlainError | None = None
        try:
            async with aclosing(self._runner.stream(decode_item(item))) as groups:
                async for group in groups:
                    yield group, None
        except WorkflowError as raised:
            error = encode_error(raised)
        yield None, error


def _plain(standing: Standing) -> PlainStanding:
    return (standing.replica, standing.number, standing.state, standing.reason)
