"""The router's front on a real port, over workflows in this process: what official clients are pointed at. No Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import uvloop

from deployments.config import GrpcArgs, RouterArgs
from deployments.local import LocalClient
from deployments.router.app import build_app
from deployments.router.asking import Workflows
from deployments.router.directory import Directory, Entry
from deployments.router.dispatch import Dispatcher
from deployments.router.grpc_app import build_grpc
from deployments.router.grpc_listener import GrpcListener
from deployments.router.keys import Keys
from deployments.router.listeners import HttpListener
from deployments.router.metrics import Metrics
from deployments.runner import Runner
from workflows import types
from workflows.base import BaseInferenceWorkflow
from workflows.errors import InvalidInput

__all__ = ["Echo", "Identity", "System", "running"]

Workflow = BaseInferenceWorkflow[Any, Any, Any]
HOST: Final = "127.0.0.1"


class Identity(BaseInferenceWorkflow[types.Tensors, types.TensorsResult]):
    """Gives back what comes."""

    retry_safe = True

    def do_run_model(self, preprocessed_data: types.Tensors) -> types.TensorsResult:
        inputs = preprocessed_data.inputs
        for name in preprocessed_data.outputs or ():
            if name not in inputs:
                raise InvalidInput(f"there is no {name!r} to give back", param=name)
        return types.TensorsResult(outputs={name: inputs[name] for name in preprocessed_data.outputs or inputs})


class Echo(BaseInferenceWorkflow[dict[str, Any], dict[str, Any]]):
    """Takes a JSON object, and says what it was."""

    def do_run_model(self, preprocessed_data: dict[str, Any]) -> dict[str, Any]:
        return {"seen": preprocessed_data}


@dataclass
class System:
    """A running front.

    Attributes:
        workflows: Those behind it, for a test to ask by itself, while nobody else does.
        told: What cards say of where their workflow is deployed, by its name.
        http, grpc: Host and port.
        caller, channel: For requests that no official client sends.
    """

    workflows: Mapping[str, Workflow]
    caller: httpx.Client
    channel: Any = None
    http: str = ""
    grpc: str = ""
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _runners: dict[str, Runner] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None

    def direct(self, name: str, input_data: Any) -> Any:
        """A workflow's answer without a router or a protocol, on the thread of its model: torch computes with as many
        threads as the calling one has been told to, and other sums have other last bits."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._runners[name].inference(input_data), self._loop).result(60)

    async def serve(self, ready: threading.Event, leave: asyncio.Event, args: RouterArgs, keys: Keys) -> None:
        """Until `leave` is set."""
        self._loop = asyncio.get_running_loop()
        directory = Directory()
        for name, workflow in self.workflows.items():
            runner = self._runners[name] = Runner(workflow, name)
            await runner.start()
            dispatcher = Dispatcher(LocalClient(runner))
            card = runner.card.model_copy(update=self.told.get(name, {}))
            dispatcher.configure(card, 1)
            directory.put(Entry(name, dispatcher, "ready", card=card, replicas=1))
        metrics = Metrics(entries=directory)
        app = build_app(directory, args, keys, metrics)
        grpc_args = GrpcArgs(port=0)
        edge = build_grpc(Workflows(directory, metrics), grpc_args, args.limits, lambda: keys)
        listener = HttpListener(app, HOST, 0, limits=args.limits, owner="tests", send_away=lambda: None)
        grpc_listener = GrpcListener(edge, HOST, grpc_args, limits=args.limits, owner="tests", quiet_s=0.05)
        try:
            await listener.start(drain_s=1.0)
            await grpc_listener.start(drain_s=1.0)
            self.http = f"{HOST}:{listener.address[1]}"
            self.grpc = f"{HOST}:{grpc_listener.address[1]}"
            self.caller.base_url = httpx.URL(f"http://{self.http}")
            ready.set()
            await leave.wait()
        finally:
            await asyncio.gather(listener.stop(), grpc_listener.stop())
            for runner in self._runners.values():
                await runner.stop()


@contextmanager
def running(
    workflows: Mapping[str, Workflow],
    args: RouterArgs | None = None,
    keys: Keys | None = None,
    told: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[System]:
    """A system on a thread of its own."""
    system, ready, failed = System(workflows, httpx.Client(), told=told or {}), threading.Event(), []
    loop, leave = uvloop.new_event_loop(), asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(system.serve(ready, leave, args or RouterArgs(), keys or Keys()))
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="router of the clients' tests")
    thread.start()
    try:
        ready.wait()
        if failed:
            raise failed[0]
        with grpc.insecure_channel(system.grpc) as system.channel:
            yield system
    finally:
        system.caller.close()
        if not failed:
            loop.call_soon_threadsafe(leave.set)
        thread.join()
