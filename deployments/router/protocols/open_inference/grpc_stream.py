"""Many infer requests over one call: `ModelStreamInfer`.

Requests are asked at the same time, a bounded number of them; those that are read later wait in the connection, which
makes their sender wait. A workflow that streams answers in chunks, each as it comes, and their id tells whose they are.
All other answers come in the order of their requests, because clients without ids count on it. What fails is told in the
answer to that request, and the others go on. Who reads slowly slows the workflows down.

Every request is counted and logged by itself, under the call's id with its number; the call itself once more, with no
workflow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from copy import copy
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.grpc_call import Call, Conversation, unforeseen
from deployments.router.protocols.open_inference.as_tensors import chunk_outputs, output_names, plain_inputs
from deployments.router.protocols.open_inference.grpc_messages import (
    GrpcInfer,
    read_infer,
    stream_answer,
    stream_error,
)
from deployments.router.protocols.open_inference.inference import (
    Infer,
    Inferred,
    find,
    in_time,
    infer,
    inferred_from,
    tensor_input,
)
from deployments.router.protocols.tables import GRPC
from deployments.router.watch import Watch
from workflows.card import Card
from workflows.errors import Cancelled, NotReady, WorkflowError
from workflows.tensors import bad_tensor

__all__ = ["stream_infer"]

MOST_AT_ONCE: Final = 32
"""Requests of one call that are being answered."""
LINGER_S: Final = 0.5
"""For what is on its way when a call is to end: one that has just begun may have only that one request to ask."""
LEAVE_S: Final = 5.0
"""So long whoever always asks more may do so when a call is to end."""


def stream_infer(workflows: Workflows) -> Callable[[Conversation], Awaitable[None]]:
    """The method."""

    async def stream_infer(conversation: Conversation) -> None:
        await _Stream(workflows, conversation).run()

    return stream_infer


class _Room:
    """For requests that were read and are not answered: so many, and so many bytes of them before another one is read.

    Attributes:
        taken: Requests that are here.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.taken = 0
        self._bytes = 0
        self._change = asyncio.Event()

    async def wait(self) -> None:
        while self.taken >= self._most or self._bytes >= self._most_bytes:
            self._change.clear()
            await self._change.wait()

    def take(self, size: int) -> None:
        self.taken += 1
        self._bytes += size

    def give(self, size: int) -> None:
        self.taken -= 1
        self._bytes -= size
        self._change.set()


class _Turn:
    """One request's place in the order of answers."""

    def __init__(self, before: asyncio.Future[None]) -> None:
        self._before = before
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def come(self) -> None:
        """Wait until all requests before this one have had their turn."""
        await asyncio.shield(self._before)

    def end(self) -> None:
        """No more is said in order: the next one's turn is once those before this one are over. May be called twice."""
        self._before.add_done_callback(self._pass_on)

    def _pass_on(self, before: asyncio.Future[None]) -> None:
        if not self.over.done():
            self.over.set_result(None)


class _Stream:
    """One call."""

    def __init__(self, workflows: Workflows, conversation: Conversation) -> None:
        self._workflows = workflows
        self._conversation = conversation
        self._room = _Room(MOST_AT_ONCE, conversation.call.limits.max_body_bytes)
        self._number = 0
        self._last_read = time.perf_counter()

    async def run(self) -> None:
        """Answer until the caller has asked everything, or the call is to end."""
        try:
            async with asyncio.TaskGroup() as tasks:  # which end together when the caller leaves
                reading = tasks.create_task(self._read_all(tasks))
                leaving = tasks.create_task(self._leave(reading))
                reading.add_done_callback(lambda _: leaving.cancel())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if reading.cancelled():
            raise NotReady("the server ends this call; open another one")

    async def _leave(self, reading: asyncio.Task[None]) -> None:
        """Once the call is to end, read no more as soon as nothing is asked, or soon all the same."""
        await self._conversation.leaving.wait()
        end = time.perf_counter() + LEAVE_S
        while (now := time.perf_counter()) < end and (self._room.taken or now - self._last_read < LINGER_S):
            await asyncio.sleep(LINGER_S / 5)
        reading.cancel()

    async def _read_all(self, tasks: asyncio.TaskGroup) -> None:
        turn = _Turn(asyncio.get_running_loop().create_future())
        turn.over.set_result(None)
        while True:
            await self._room.wait()
            message = await self._conversation.read()
            if message is None:
                return
            self._last_read = time.perf_counter()
            self._room.take(len(message))
            turn = _Turn(turn.over)
            tasks.create_task(self._answer(self._part(message), message, turn))

    def _part(self, message: bytes) -> Call:
        """What one request is counted and logged as."""
        self._number += 1
        part = copy(self._conversation.call)
        part.id = f"{part.id}-{self._number}"
        part.call_id = f"{part.call_id}-{self._number}"
        part.started = time.perf_counter()
        part.bytes_in = len(message)
        part.bytes_out = part.chunks = 0
        return part

    async def _answer(self, call: Call, message: bytes, turn: _Turn) -> None:
        error: WorkflowError | None = Cancelled()
        try:
            error = await self._respond(call, message, turn)
        finally:
            turn.end()
            self._room.give(len(message))
            self._conversation.settle(call, error)

    async def _respond(self, call: Call, message: bytes, turn: _Turn) -> WorkflowError | None:
        """Answer, also with an error, which is returned. Raises Cancelled if nobody reads answers."""
        asked: GrpcInfer | None = None
        try:
            asked = await read_infer(message, call.limits, streaming=True)
            await self._ask(call, asked, turn)
            return None
        except WorkflowError as failed:
            if self._conversation.over:
                raise
            error = failed
        except Exception as cause:  # noqa: BLE001 - it is logged with the request
            error = unforeseen(cause)
        await turn.come()
        model, request_id = ("", None) if asked is None else (asked.name, asked.infer.id)
        await self._write(call, stream_error(GRPC.text(error), model, request_id))
        return error

    async def _ask(self, call: Call, asked: GrpcInfer, turn: _Turn) -> None:
        workflows = self._workflows
        entry = find(workflows, call, asked.name, asked.version)
        card = workflows.card(entry)
        if card.streams and asked.wishes.chunks:
            turn.end()
            await self._give_chunks(call, asked, entry, card)
            return
        inferred = await infer(workflows, call, entry, in_time(asked.infer, call.seconds_left()))
        answer = await stream_answer(entry.known_as, asked, inferred, entry.version, final=True)
        await turn.come()
        await self._write(call, answer)

    async def _give_chunks(self, call: Call, asked: GrpcInfer, entry: Entry, card: Card) -> None:
        asked_in_time = in_time(asked.infer, call.seconds_left())
        seconds = self._workflows.stream_seconds(call, asked_in_time.timeout_s)
        end = time.monotonic() + seconds
        chunks = _Chunks(card, asked.infer, call)
        groups = self._workflows.chunks(call, entry, chunks.input_data, at_most_s=seconds)
        seconds = min(seconds, call.limits.stream_first_chunk_s)
        said_last = False
        async with aclosing(groups):
            while True:
                with Watch(seconds):  # not around a write, which must not be broken off: others write as well
                    group = await anext(groups, None)
                if group is None:
                    break
                for chunk in group:
                    inferred, said_last = chunks.told(chunk)
                    told = await stream_answer(entry.known_as, asked, inferred, entry.version, final=said_last)
                    await self._write(call, told)
                seconds = max(0.0, end - time.monotonic())
        if asked.wishes.empty_final and not said_last:
            last = await stream_answer(entry.known_as, asked, Inferred({}, {}), entry.version, final=True)
            await self._write(call, last)

    async def _write(self, call: Call, message: bytes) -> None:
        await self._conversation.write(message)
        call.bytes_out += len(message)
        call.chunks += 1


class _Chunks:
    """How one request's chunks look as tensors.

    Attributes:
        input_data: Plain, for the workflow.
    """

    def __init__(self, card: Card, asked: Infer, call: Call) -> None:
        self._card = card
        self._shape: tuple[int, ...] = ()
        self._names: list[str] = []
        self.input_data: Any
        if card.kind == "tensors":
            self.input_data = tensor_input(asked)
            return
        inputs = plain_inputs(card, asked.inputs, asked.parameters, call.limits)
        ((name, given),) = asked.inputs.items()
        if len(inputs) != 1:
            raise bad_tensor(name, "a stream takes one element; for more, send the parameter stream as false")
        (self.input_data,) = inputs
        self._shape = given.shape
        self._names = output_names(card, asked.outputs)

    def told(self, chunk: Any) -> tuple[Inferred, bool]:
        """A chunk's tensors, and whether it says that it is the last one. Raises BadOutput if it is none."""
        if self._card.kind == "tensors":
            return inferred_from(chunk), False
        outputs, is_last = chunk_outputs(self._card, chunk, self._shape, self._names)
        return Inferred(outputs, {}), is_last
