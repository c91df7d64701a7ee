"""A typed client for Python callers beside the cluster: exchange types in and out, the error tree raised.

    digits = connect("digits-onnx")
    digits.inference({"inputs": {"image": np.zeros((1, 64), np.float32)}}).outputs["logits"]

    gpt = await connect_async("tiny-gpt")
    async for chunk in gpt.stream({"prompt": "The for statement"}): ...

Both talk to the workflow's replicas directly; the router, its keys and its limits are not involved.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from pydantic import BaseModel

from deployments.client import Item, WorkflowClient
from deployments.ray_client import RayClient
from deployments.wire import plain
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import BadOutput, DeadlineExceeded, InvalidInput, WorkflowError
from workflows.pump import pumped
from workflows.side_loop import SideLoop
from workflows.types import Embedding, Generated, TensorsResult, TextChunk

__all__ = ["AsyncWorkflow", "Workflow", "connect", "connect_async"]

_OUTPUTS: Final[dict[str, type[BaseModel]]] = {"tensors": TensorsResult, "generate": Generated, "embed": Embedding}
_CHUNKS: Final[dict[str, type[BaseModel]]] = {"generate": TextChunk}


class AsyncWorkflow:
    """One deployed workflow, on one event loop. Answers of kind `json` are plain data."""

    def __init__(self, client: WorkflowClient, card: Card) -> None:
        self._client = client
        self.card = card

    async def inference(self, input_data: Any, *, timeout_s: float | None = None) -> Any:
        """The answer to one input, an exchange type or plain data. Raises the error tree."""
        (outcome,) = await self.inference_batch([input_data], timeout_s=timeout_s)
        if isinstance(outcome, WorkflowError):
            raise outcome
        return outcome

    async def inference_batch(self, inputs: Sequence[Any], *, timeout_s: float | None = None) -> list[Any]:
        """One answer or WorkflowError per input, in order."""
        outcomes: list[Any] = [None] * len(inputs)
        try:
            async with asyncio.timeout(timeout_s):
                async with aclosing(self._client.submit([_item(value, timeout_s) for value in inputs])) as groups:
                    async for group in groups:
                        for index, outcome in group:
                            outcomes[index] = outcome.error or self._typed(_OUTPUTS, outcome.output)
        except TimeoutError as cause:
            raise DeadlineExceeded(may_have_run=True) from cause
        return outcomes

    async def stream(self, input_data: Any, *, timeout_s: float | None = None) -> AsyncGenerator[Any]:
        """The answer's chunks, all of them within `timeout_s`. Close it (`aclose`) when you leave early, and the workflow
        stops."""
        end = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        async with aclosing(self._client.stream(_item(input_data, timeout_s))) as groups:
            while True:
                try:
                    async with asyncio.timeout_at(end):
                        group = await anext(groups, None)
                except TimeoutError as cause:
                    raise DeadlineExceeded(may_have_run=True) from cause
                if group is None:
                    return
                for chunk in group:
                    yield self._typed(_CHUNKS, chunk)

    def _typed(self, types: dict[str, type[BaseModel]], value: Any) -> Any:
        kind = types.get(self.card.kind)
        return value if kind is None else kind.model_validate(value)


class Workflow:
    """One deployed workflow for code that is not async; a private event loop does the waiting. Use as a context
    manager, or call `close()`."""

    def __init__(self, name: str) -> None:
        self._loop = SideLoop()
        try:
            self._workflow = self._loop.call(connect_async, name)
        except BaseException:
            self.close()
            raise

    @property
    def card(self) -> Card:
        return self._workflow.card

    def inference(self, input_data: Any, *, timeout_s: float | None = None) -> Any:
        """As `AsyncWorkflow.inference`."""
        return self._loop.call(partial(self._workflow.inference, input_data, timeout_s=timeout_s))

    def inference_batch(self, inputs: Sequence[Any], *, timeout_s: float | None = None) -> list[Any]:
        """As `AsyncWorkflow.inference_batch`."""
        return self._loop.call(partial(self._workflow.inference_batch, inputs, timeout_s=timeout_s))

    def stream(self, input_data: Any, *, timeout_s: float | None = None) -> Generator[Any]:
        """As `AsyncWorkflow.stream`; closing the generator early stops the workflow."""
        return pumped(self._loop, partial(self._workflow.stream, input_data, timeout_s=timeout_s))

    def close(self) -> None:
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def connect_async(name: str) -> AsyncWorkflow:
    """A running workflow application of the cluster that `ray` is connected to. Raises ModelNotFound, NotReady."""
    client = await RayClient.of_application(name)
    return AsyncWorkflow(client, await client.card())


def connect(name: str) -> Workflow:
    """As `connect_async`, for code that is not async."""
    return Workflow(name)


def _item(value: Any, timeout_s: float | None) -> Item:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        return Item(plain(value), CallContext(uuid.uuid4().hex, deadline))
    except BadOutput:  # which it would be, had a workflow made it
        problem = InvalidInput(f"a {type(value).__name__} that plain data cannot say is no input")
    raise problem
