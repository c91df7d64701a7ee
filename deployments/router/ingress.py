"""The router as a Ray Serve deployment: wires the app to discovery and, unless Serve listens, to its own ports.

Two shells around the same app: `Router` owns its listeners, for HTTP and gRPC; `ServeIngress` is an ordinary Serve
ingress, for HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments.building import ConfigError, parsed
from deployments.client import WorkflowClient
from deployments.collector import expect_parked_calls
from deployments.config import GrpcArgs, RouterArgs, RouterSettings
from deployments.router.access_log import AccessLogFiles
from deployments.router.app import build_app
from deployments.router.asking import Workflows
from deployments.router.directory import Directory
from deployments.router.discovery import Discovery
from deployments.router.dispatch import Dispatcher
from deployments.router.grpc_app import build_grpc
from deployments.router.grpc_listener import GrpcListener
from deployments.router.keys import load_keys
from deployments.router.listeners import HttpListener
from deployments.router.metrics import Metrics
from deployments.router.traffic import Traffic
from deployments.serve_logs import join_serve_logs

__all__ = ["Router", "ServeIngress"]

log = logging.getLogger(__name__)


class _RouterBase:
    """What both shells share: the app, the directory behind it, and what keeps that up to date."""

    def __init__(self, args: dict[str, Any]) -> None:
        join_serve_logs()
        expect_parked_calls()
        self._args = RouterArgs.model_validate(args)
        self._settings = RouterSettings()
        self._started = False
        self._directory = Directory()
        self._metrics = Metrics(serve.get_replica_context().replica_id.unique_id, self._directory)
        self._keys_changed_at = _changed_at(self._args.keys_file)
        self._access_log = _access_log(self._args.access_log)
        self._app = build_app(self._directory, self._args, load_keys(self._args), self._metrics, self._access_log)
        node = ray.get_runtime_context().get_node_id() if self._args.local_lanes else None
        self._discovery = Discovery(self._directory, self._dispatcher, node)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with the deployment's `user_config`, at the start and whenever it changes.

        Serve kills a replica that raises here. A wrong file may keep a new one from starting, but not end one that works.
        """
        try:
            self._settings = parsed(RouterSettings, user_config, "user_config")
        except ConfigError:
            if not self._started:
                raise
            log.exception("the settings stay as they were")
        self._directory.traffic = Traffic(self._settings.traffic)
        for entry in self._directory:
            entry.dispatcher.max_queue = self._settings.max_queue

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve counts none of the requests that come in over the router's own listener."""
        return {"running": float(sum(entry.dispatcher.load for entry in self._directory))}

    def check_health(self) -> None:
        """Serve calls this every few seconds and replaces a replica that raises or does not answer."""
        self._started = True  # the first check comes after the first `reconfigure`
        if not self._discovery.alive:
            raise RuntimeError("discovery has ended")
        self._reload_keys()

    def _reload_keys(self) -> None:
        """A key that was taken out of the file is refused seconds later, without a restart."""
        changed = _changed_at(self._args.keys_file)
        if changed != self._keys_changed_at:
            self._keys_changed_at = changed
            try:
                self._app.keys = load_keys(self._args)
            except ValueError:
                log.exception("the keys stay as they were")

    async def _end(self) -> None:
        """The last thing that a replica does."""
        if hasattr(self, "_discovery"):
            await self._discovery.stop()
        if hasattr(self, "_access_log"):
            self._access_log.close()

    def _dispatcher(self, name: str, client: WorkflowClient) -> Dispatcher:
        return Dispatcher(
            client, max_queue=self._settings.max_queue, observe=partial(self._metrics.observe_outcome, name)
        )


@serve.deployment(
    name="Router",
    max_ongoing_requests=1000,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=660,
)
class Router(_RouterBase):
    """One replica of the router, with listeners of its own."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        super().__init__(args)
        await self._discovery.start()
        self._listeners: dict[str, HttpListener | GrpcListener] = {"HTTP": self._http_listener()}
        if self._args.grpc is not None:
            self._listeners["gRPC"] = self._grpc_listener(self._args.grpc)
        for listener in self._listeners.values():
            await listener.start(self._args.drain_s)

    def _http_listener(self) -> HttpListener:
        return HttpListener(
            self._app,
            self._args.host,
            self._args.port,
            limits=self._args.limits,
            owner=_cluster(),
            send_away=self._begin_draining,
        )

    def _grpc_listener(self, args: GrpcArgs) -> GrpcListener:
        limits = self._args.limits
        workflows = Workflows(self._directory, self._metrics)
        edge = build_grpc(workflows, args, limits, lambda: self._app.keys, self._access_log)
        return GrpcListener(edge, self._args.host, args, limits=limits, owner=_cluster())

    def _begin_draining(self) -> None:
        self._app.draining = True

    def check_health(self) -> None:
        super().check_health()
        for name, listener in self._listeners.items():
            if not listener.alive:
                raise RuntimeError(f"the {name} listener has ended")

    async def __del__(self) -> None:
        # Serve calls and awaits this before it ends the replica. Discovery goes on while requests are finished.
        try:
            if hasattr(self, "_listeners"):
                await asyncio.gather(*(listener.stop() for listener in self._listeners.values()))
        finally:
            await self._end()


@serve.deployment(
    name="Router",
    max_ongoing_requests=100_000,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=660,
)
@serve.ingress()
class ServeIngress(_RouterBase):
    """The same app behind Serve's own HTTP ingress."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        super().__init__(args)
        await self._discovery.start()

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def __del__(self) -> None:
        await self._end()


def _cluster() -> str:
    """What all processes of this Ray cluster have in common, and those of no other, also not of one at its address."""
    node: Any = ray._private.worker.global_worker.node  # Ray has no public name for it
    found = getattr(node, "cluster_id", None)
    return f"{ray.get_runtime_context().gcs_address} {node.session_name}" if found is None else str(found.hex())


def _changed_at(path: str | None) -> int | None:
    """When a file was last changed, in nanoseconds; None where there is none."""
    try:
        return None if path is None else Path(path).stat().st_mtime_ns
    except OSError:
        return None


def _access_log(path: str | None) -> AccessLogFiles:
    """By default beside Serve's own logs."""
    if path is not None:
        return AccessLogFiles(Path(path))
    node: Any = ray._private.worker.global_worker.node  # Ray has no public name for its log folder
    return AccessLogFiles(Path(node.get_logs_dir_path()) / "serve" / "access.log")
