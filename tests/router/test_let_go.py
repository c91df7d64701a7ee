"""What a caller sent is gone with its answer, and does not wait for the garbage collector: it may be megabytes."""

from __future__ import annotations

import asyncio
import json
import weakref
from contextlib import nullcontext
from typing import Any

import grpc.aio
import numpy as np
import pytest

from deployments.router.alarms import alarm_at
from tests.router.grpc_front import infer_request, listening, until
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput, Overloaded, WorkflowError
from workflows.tensors import Array

SENT: Array = np.array([[1.5, 2.5]], np.float32)

pytestmark = pytest.mark.usefixtures("no_collector")


class Keeping:
    """A workflow that knows whether its inputs are still there."""

    def __init__(self, error: WorkflowError | None = None) -> None:
        self.error = error
        self.seen: list[weakref.ref[Any]] = []
        self.front = Front()
        self.front.add("m", ScriptedClient(self._answer), kind="tensors")

    async def _answer(self, input_data: Any, call: CallContext) -> Any:
        self.seen.append(weakref.ref(input_data["inputs"]["x"]))
        if self.error is not None:
            raise type(self.error)()
        return {"outputs": {"y": np.zeros(1, np.float32)}}

    def gone(self) -> bool:
        return len(self.seen) == 3 and not any(ref() is not None for ref in self.seen)


@pytest.mark.parametrize(("error", "status"), [(None, 200), (InvalidInput(), 400), (Overloaded(), 503)])
async def test_over_http(error: WorkflowError | None, status: int) -> None:
    keeping = Keeping(error)
    tensor = {"name": "x", "datatype": "FP32", "shape": SENT.shape, "parameters": {"binary_data_size": SENT.nbytes}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    for _ in range(3):
        body = head + SENT.tobytes()
        answer = await keeping.front.request("POST", "/v2/models/m/infer", content=body, headers=headers)
        assert answer.status_code == status
    await until(keeping.gone)


@pytest.mark.parametrize("error", [None, InvalidInput()])
async def test_over_grpc(error: WorkflowError | None) -> None:
    keeping = Keeping(error)
    async with listening(keeping.front) as it, it.caller() as caller:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) if error else nullcontext():
                await caller.call("ModelInfer", infer_request())
        await until(keeping.gone)


async def test_over_a_call_of_many() -> None:
    keeping = Keeping()
    async with listening(keeping.front) as it, it.caller() as caller:
        call = caller.conversation()
        for _ in range(3):
            await call.write(infer_request())
            await call.read()
        await until(keeping.gone)  # though the call goes on
        await call.done_writing()
        await call.code()


@pytest.mark.parametrize("exact", [True, False])
async def test_a_cancelled_alarm_knows_nobody(exact: bool) -> None:
    class Rung:
        def ring(self) -> None: ...

    rung = Rung()
    loop = asyncio.get_running_loop()
    alarm = alarm_at(loop, loop.time() + 60, rung.ring, exact=exact)
    gone = weakref.ref(rung)
    alarm.cancel()
    del rung
    assert gone() is None
