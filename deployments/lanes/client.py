"""The near end of one local lane: a replica of this machine, as the router sees it. Knows no other replica."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Self

from deployments.client import Item, Outcome
from deployments.lanes.address import LaneAddress
from deployments.lanes.connection import Connection
from deployments.lanes.frames import (
    WIRE_VERSION,
    Begun,
    Bye,
    Call,
    Cancel,
    Chunks,
    Credit,
    End,
    Hello,
    Leave,
    Message,
    Open,
    Outcomes,
    Stands,
    Stopping,
    Unsayable,
    Waiting,
    cost_of,
)
from deployments.standing import Standing
from deployments.wire import decode_outcome, encode_item
from workflows.errors import InvalidInput, ReplicaLost, WorkflowError
from workflows.plain_error import decode_error

__all__ = ["Lane", "LaneRefused"]

CREDIT: Final = 256
"""What chunks may cost (see `cost_of`) that are under way to a reader who is slower than the workflow."""
GRANTED: Final = 4
"""What was read is granted again in so many parts: a message for each chunk would cost as much as the chunk."""
HELLO_S: Final = 5.0


def _ignore(standing: Standing) -> None: ...


class LaneRefused(Exception):
    """What answers at an address is not the replica that was told of, or speaks another version."""


class _Call:
    __slots__ = ("begun", "missing", "number", "ready", "sent", "some")

    def __init__(self, number: int, count: int) -> None:
        self.number = number
        self.missing = set(range(count))
        self.sent = False
        self.begun: set[int] = set()
        self.ready: list[tuple[int, Outcome]] = []
        self.some = asyncio.Event()


class _Stream:
    __slots__ = ("chunks", "cost", "ended", "error", "some")

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.cost = 0  # of these chunks: credit to give back
        self.ended = False
        self.error: WorkflowError | None = None
        self.some = asyncio.Event()


class Lane:
    """One connection. `submit`, `stream` and `cancel` are those of `WorkflowClient`. Belongs to one event loop.

    Attributes:
        outstanding: Items and streams that were asked for and are not answered.
    """

    def __init__(self, lost: Callable[[Lane], None], stands: Callable[[Standing], None]) -> None:
        self.outstanding = 0
        self._lost = lost
        self._stands = stands
        self._numbers = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, _Stream] = {}
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._connection = Connection(self._heard, self._gone)

    @classmethod
    async def to(
        cls, address: LaneAddress, lost: Callable[[Lane], None], stands: Callable[[Standing], None] = _ignore
    ) -> Self:
        """Connect. Raises OSError, TimeoutError, LaneRefused.

        Args:
            lost: Called once, when the connection has ended or the replica wants nothing more to be asked of it.
            stands: Called when the replica's workflow is loaded or unloaded.
        """
        lane = cls(lost, stands)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HELLO_S):
                await loop.create_unix_connection(lambda: lane._connection, address.path)
                hello = await lane._hello
            if (hello.version, hello.replica) != (WIRE_VERSION, address.replica):
                raise LaneRefused(f"{hello.replica} speaks version {hello.version} at {address}")
        except BaseException:
            await lane.close()
            raise
        return lane

    @property
    def open(self) -> bool:
        """Whether anything new may be asked for."""
        return self._connection.open and not self._stopping

    async def close(self) -> None:
        """Whatever is outstanding is lost."""
        await self._connection.close()

    async def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        """As `WorkflowClient.submit`, but nothing is raised: what is lost is an outcome, which says whether it may have
        run."""
        if not items:
            return
        call = _Call(next(self._numbers), len(items))
        self._calls[call.number] = call
        self.outstanding += len(items)
        try:
            self._send_call(Call(call.number, [encode_item(item) for item in items]), call)
            while call.missing or call.ready:
                if not call.ready:
                    call.some.clear()
                    await call.some.wait()
                group, call.ready = call.ready, []
                yield group
        except Unsayable as cause:
            problem = cause
        else:
            return
        finally:
            self._end(call)
        if len(items) == 1:
            yield [(0, Outcome(error=InvalidInput(f"the input is {problem}")))]
            return
        for index, item in enumerate(items):  # one of them is to blame
            async with aclosing(self.submit([item])) as groups:
                async for group in groups:
                    yield [(index, outcome) for _, outcome in group]

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        number, stream = next(self._numbers), _Stream()
        read = 0
        self._streams[number] = stream
        self.outstanding += 1
        try:
            if not self.open:
                raise ReplicaLost()
            try:
                self._connection.send(Open(number, encode_item(item), CREDIT))
            except Unsayable as cause:
                problem = InvalidInput(f"the input is {cause}")
                stream.ended = True
                raise problem from None
            while True:
                if not (stream.chunks or stream.ended):
                    stream.some.clear()
                    await stream.some.wait()
                if stream.chunks:
                    chunks, cost = stream.chunks, stream.cost
                    stream.chunks, stream.cost = [], 0
                    yield chunks
                    read += cost
                    if read >= CREDIT // GRANTED and not stream.ended:
                        self._connection.send(Credit(number, read))
                        read = 0
                elif stream.error is not None:
                    raise stream.error
                elif stream.ended:
                    return
        finally:
            self.outstanding -= 1
            del self._streams[number]
            if not stream.ended:
                self._connection.send(Leave(number))

    async def cancel(self, request_ids: Sequence[str]) -> None:
        self._connection.send(Cancel(list(request_ids)))

    def tell_waiting(self, caller: str, items: float) -> None:
        self._connection.send(Waiting(caller, items))

    # ---- what is asked for -----------------------------------------------------------------------------------------------

    def _send_call(self, message: Call, call: _Call) -> None:
        """Raises Unsayable."""
        if self.open:
            self._connection.send(message)
            call.sent = True
        else:
            self._lose(call, may_have_run=False)

    def _settle(self, call: _Call, index: int, outcome: Outcome) -> None:
        if index in call.missing:
            call.missing.discard(index)
            self.outstanding -= 1
            call.ready.append((index, outcome))
            call.some.set()

    def _end(self, call: _Call) -> None:
        """Nobody waits for this call any more."""
        self._calls.pop(call.number, None)
        self.outstanding -= len(call.missing)
        if call.missing and call.sent:
            self._connection.send(Leave(call.number))

    def _lose(self, call: _Call, *, may_have_run: bool) -> None:
        for index in sorted(call.missing):
            self._settle(call, index, Outcome(error=ReplicaLost(may_have_run=may_have_run or index in call.begun)))

    # ---- what the replica says -------------------------------------------------------------------------------------------

    def _heard(self, message: Message, size: int) -> None:
        match message:
            case Outcomes() | Begun():
                call = self._calls.get(message.id)
                if call is not None:
                    self._note(call, message)
            case Chunks() | End():
                stream = self._streams.get(message.id)
                if stream is not None:
                    self._feed(stream, message, size)
            case Hello():
                if not self._hello.done():
                    self._hello.set_result(message)
            case Stands():
                if self._hello.done() and not self._hello.cancelled():
                    self._stands(Standing(self._hello.result().replica, message.number, message.state, message.reason))
            case Stopping():
                self._turn_away()
            case _:
                raise ValueError("a message that only the near end sends")

    def _note(self, call: _Call, message: Outcomes | Begun) -> None:
        if isinstance(message, Begun):
            call.begun.update(message.indices)
            return
        for index, outcome in message.outcomes:
            self._settle(call, index, decode_outcome(outcome))

    def _feed(self, stream: _Stream, message: Chunks | End, size: int) -> None:
        if isinstance(message, Chunks):
            stream.chunks += message.chunks
            stream.cost += cost_of(message.chunks, size)
        else:
            stream.ended = True
            stream.error = None if message.error is None else decode_error(message.error)
        stream.some.set()

    def _turn_away(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._connection.send(Bye())
            self._lost(self)

    def _gone(self) -> None:
        """The connection has ended; everything that was written before has been heard."""
        told = self._hello.done() and not self._hello.cancelled()
        tells_begun = told and self._hello.result().tells_begun
        for call in list(self._calls.values()):
            self._lose(call, may_have_run=not tells_begun)
        for stream in self._streams.values():
            if not stream.ended:
                stream.ended, stream.error = True, ReplicaLost(may_have_run=True)
                stream.some.set()
        if not self._hello.done():
            self._hello.set_exception(ConnectionResetError("the other end said nothing"))
        if not self._stopping:
            self._stopping = True
            self._lost(self)
