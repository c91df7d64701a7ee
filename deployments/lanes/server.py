"""The far end of the local lane, in the replica: a private Unix socket in front of its runner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Final

from deployments.client import Outcome
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
from deployments.private_sockets import private_folder
from deployments.runner import Runner, Taken
from deployments.standing import Standing
from deployments.wire import PlainOutcome, decode_item, encode_outcome
from workflows.batch import as_error
from workflows.errors import BadOutput, WorkflowError
from workflows.plain_error import encode_error

__all__ = ["LaneServer"]

log = logging.getLogger(__name__)

BYE_S: Final = 5.0
"""A near end that does not answer `Stopping` for so long is not waited for: what it asks for later is refused."""
MAX_STREAMS_CREDIT: Final = 1 << 16
GROUP: Final = 64
GROUP_S: Final = 0.001
"""So many chunks, or as many as take so long, of a workflow that waits for nothing between them travel together."""


class LaneServer:
    """Serves one runner to who connects. Belongs to the runner's event loop.

    Args:
        replica: Names this replica; the near end compares it with what it was told.
    """

    def __init__(self, runner: Runner, replica: str) -> None:
        self._runner = runner
        self._replica = replica
        self._callers: set[_Caller] = set()
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._path: Path | None = None
        self._deaf: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Listen. Raises OSError where no private socket can be had."""
        folder = private_folder() / "lanes"
        folder.mkdir(mode=0o700, exist_ok=True)
        await asyncio.to_thread(_sweep, folder)
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.sock"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Caller(self).connection, str(self._path))
        self._deaf = self._runner.listen(self._tell)

    def address(self, node: str) -> LaneAddress | None:
        """None where it does not listen, or not any more."""
        if self._path is None or self._stopping:
            return None
        return LaneAddress(node, self._replica, WIRE_VERSION, str(self._path))

    async def send_away(self) -> None:
        """Ask all to go elsewhere from now on; returns when they have said that they will."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for caller in self._callers:
            caller.connection.send(Stopping())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BYE_S):
                for caller in list(self._callers):
                    await caller.said_bye.wait()

    async def close(self) -> None:
        """End all connections once every answer is on its way. What still runs is waited for: stop the runner first."""
        await self.send_away()
        self._deaf()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BYE_S):
                for caller in list(self._callers):
                    await caller.idle.wait()
        for caller in list(self._callers):
            await caller.connection.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _tell(self, standing: Standing) -> None:
        for caller in self._callers:
            caller.tell(standing)


class _Call:
    """An envelope until all its outcomes are written."""

    __slots__ = ("missing", "number", "ready", "taken")

    def __init__(self, number: int, missing: int) -> None:
        self.number = number
        self.missing = missing
        self.ready: list[tuple[int, Outcome]] = []
        self.taken: Taken | None = None


class _Stream:
    """What is ready may be written while there is credit, which may so be overdrawn once, before more is granted.

    Attributes:
        chunks: To be written at the end of this turn of the loop, as one group; since when the first of them waits.
        failed: Why the stream cannot go on, found out while writing.
    """

    __slots__ = ("chunks", "credit", "failed", "more", "since", "task")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.more = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.chunks: list[Any] = []
        self.since = 0.0
        self.failed: WorkflowError | None = None


class _Caller:
    """One connection, and what was asked for on it.

    Attributes:
        said_bye: Set once nothing new will be asked for.
        idle: Set while nothing that was asked for is unanswered.
    """

    def __init__(self, server: LaneServer) -> None:
        self._callers = server._callers
        self._runner = server._runner
        self._loop = asyncio.get_running_loop()
        self._tells_begun = not server._runner.retry_safe
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, _Stream] = {}
        self._due: dict[int, _Call] = {}
        self._due_streams: list[tuple[int, _Stream]] = []
        self._hello = Hello(WIRE_VERSION, server._replica, self._tells_begun)
        self.said_bye = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.connection = Connection(self._heard, self._lost, made=self._made)

    def _made(self) -> None:
        self._callers.add(self)
        self.connection.send(self._hello)
        if not self._runner.standing.loaded:
            self.tell(self._runner.standing)

    def tell(self, standing: Standing) -> None:
        self.connection.send(Stands(standing.number, standing.state, standing.reason))

    def _heard(self, message: Message, _: int) -> None:
        match message:
            case Call():
                self._call(message)
            case Credit():
                stream = self._streams.get(message.id)
                if stream is not None:
                    stream.credit = min(stream.credit + message.amount, MAX_STREAMS_CREDIT)
                    stream.more.set()
            case Open():
                self._open(message)
            case Leave():
                self._leave(message.id)
            case Cancel():
                self._runner.cancel(message.request_ids)
            case Waiting():
                self._runner.expect(message.caller, message.items)
            case Bye():
                self.said_bye.set()
            case _:
                raise ValueError("a message that only the far end sends")

    def _lost(self) -> None:
        self._callers.discard(self)
        self.said_bye.set()
        for number in [*self._calls, *self._streams]:
            self._leave(number)

    def _leave(self, number: int) -> None:
        call, stream = self._calls.pop(number, None), self._streams.get(number)
        self._due.pop(number, None)
        if call is not None and call.taken is not None:
            call.taken.drop()
        if stream is not None and stream.task is not None:
            stream.task.cancel()  # it takes itself out once the workflow has closed it
        self._note_idle()

    def _note_idle(self) -> None:
        if self._calls or self._streams:
            self.idle.clear()
        else:
            self.idle.set()

    # ---- envelopes -----------------------------------------------------------------------------------------------------

    def _call(self, message: Call) -> None:
        if message.id in self._calls or message.id in self._streams:
            raise ValueError("an id that is in use")
        if not message.items:
            raise ValueError("an envelope with nothing in it")
        call = _Call(message.id, len(message.items))
        self._calls[message.id] = call
        self.idle.clear()
        items = [decode_item(item) for item in message.items]
        begun = partial(self._begun, call) if self._tells_begun else None
        call.taken = self._runner.take(items, partial(self._deliver, call), begun)

    def _begun(self, call: _Call, index: int) -> None:
        # Whoever begins an item lets the loop turn once before it does: by then this is written, and the kernel keeps what
        # was written even if this process is killed.
        if self._calls.get(call.number) is call:
            self.connection.send(Begun(call.number, [index]))

    def _deliver(self, call: _Call, index: int, outcome: Outcome) -> None:
        """To be written at the end of this turn of the loop: what is ready together leaves together."""
        if self._calls.get(call.number) is not call:
            return  # nobody waits any more
        call.ready.append((index, outcome))
        if not self._due:
            asyncio.get_running_loop().call_soon(self._write)
        self._due[call.number] = call

    def _write(self) -> None:
        due, self._due = self._due, {}
        for number, call in due.items():
            ready, call.ready = call.ready, []
            call.missing -= len(ready)
            if not call.missing:
                del self._calls[number]
            self._send_outcomes(number, [(index, encode_outcome(outcome)) for index, outcome in ready])
        self._note_idle()

    def _send_outcomes(self, number: int, outcomes: list[tuple[int, PlainOutcome]]) -> None:
        """One that cannot be written costs none of the others theirs."""
        try:
            self.connection.send(Outcomes(number, outcomes))
        except Unsayable as cause:
            if len(outcomes) == 1:
                ((index, _),) = outcomes
                log.error("an answer could not be passed on: %s", cause)
                outcomes = [(index, encode_outcome(Outcome(error=_unsayable(cause))))]
                self.connection.send(Outcomes(number, outcomes))
                return
            half = len(outcomes) // 2
            self._send_outcomes(number, outcomes[:half])
            self._send_outcomes(number, outcomes[half:])

    # ---- streams -------------------------------------------------------------------------------------------------------

    def _open(self, message: Open) -> None:
        if message.id in self._calls or message.id in self._streams:
            raise ValueError("an id that is in use")
        stream = _Stream(min(message.credit, MAX_STREAMS_CREDIT))
        self._streams[message.id] = stream
        self.idle.clear()
        stream.task = asyncio.create_task(self._run(message, stream))

    async def _run(self, message: Open, stream: _Stream) -> None:
        error: WorkflowError | None = None
        try:
            async with aclosing(self._runner.stream(decode_item(message.item))) as groups:
                at_most = 1  # the first chunk leaves at once
                async for group in groups:
                    self._say_soon(message.id, stream, group)
                    if len(stream.chunks) >= at_most or self._loop.time() - stream.since > GROUP_S:
                        self._say(message.id, stream)
                        await asyncio.sleep(0)  # they leave, and others get a turn
                        at_most = GROUP
                    while stream.failed is None and stream.credit <= len(stream.chunks):
                        stream.more.clear()
                        await stream.more.wait()
                    if stream.failed is not None:
                        raise stream.failed
                self._say(message.id, stream)
                error = stream.failed
        except asyncio.CancelledError:
            raise  # the near end has left
        except Exception as raised:  # noqa: BLE001 - whatever it is, the stream ends with it
            self._say(message.id, stream)
            error = stream.failed or as_error(raised, message.item[1])
        finally:
            self._streams.pop(message.id, None)
            self._note_idle()
        self.connection.send(End(message.id, None if error is None else encode_error(error)))

    def _say_soon(self, number: int, stream: _Stream, group: list[Any]) -> None:
        """What a workflow gives in one turn of the loop travels together: it has not waited for anything between."""
        if not stream.chunks:
            if not self._due_streams:
                self._loop.call_soon(self._say_all)
            self._due_streams.append((number, stream))
            stream.since = self._loop.time()
        stream.chunks += group

    def _say_all(self) -> None:
        due, self._due_streams = self._due_streams, []
        for number, stream in due:
            self._say(number, stream)

    def _say(self, number: int, stream: _Stream) -> None:
        """Write what the stream has ready. Raises nothing: what goes wrong is `stream.failed`, and `_run` ends with it."""
        chunks, stream.chunks = stream.chunks, []
        if not chunks or stream.failed is not None or self._streams.get(number) is not stream:
            return
        try:
            stream.credit -= cost_of(chunks, self.connection.send(Chunks(number, chunks)))
        except Unsayable as cause:
            if len(chunks) == 1:
                stream.failed = _unsayable(cause)
                stream.more.set()
                return
            for part in (chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :]):  # those before the one to blame count
                stream.chunks = part
                self._say(number, stream)
        except Exception as raised:  # noqa: BLE001 - nobody calls this who could be told: the stream ends with it
            stream.failed = as_error(raised)
            stream.more.set()


def _unsayable(cause: Unsayable) -> WorkflowError:
    return BadOutput(f"the workflow gave {cause}" if "plain" in str(cause) else f"the answer is {cause}")


def _sweep(folder: Path) -> None:
    """Removes the sockets that killed replicas have left behind."""
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(1.0)
            try:
                asking.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
