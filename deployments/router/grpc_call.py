"""What passes between gRPC's edge and a protocol: a call that was let in, the method it takes, and both its directions.

A protocol is its methods; it sees no keys and no limits but through `Call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from deployments.router.admission import Access
from deployments.router.alarms import Alarm
from deployments.router.caller import Caller
from deployments.router.refusals import BadMessage, SlowBody
from deployments.router.watch import Watch
from workflows.errors import Cancelled, WorkflowError

__all__ = ["Call", "Conversation", "Method", "unforeseen"]

WRITE_STALL_S: Final = 30.0


@dataclass(slots=True, eq=False, kw_only=True)
class Call(Caller):
    """One call behind the edge.

    Attributes:
        path: The method's, or empty where there is none.
        protocol: For metrics and the log.
        context: gRPC's own.
        sending: Rings if the answer, which is on its way, is not taken.
    """

    path: str
    protocol: str
    context: Any
    method: str = "POST"
    bytes_in: int = 0
    sending: Alarm | None = None

    def seconds_left(self) -> float | None:
        """Until the deadline that the caller has set for the call; None where it has set none."""
        left: float | None = self.context.time_remaining()
        return left

    async def only_message(self) -> bytes:
        """The message of a call that has one. Raises SlowBody after a time in which it should have come, and BadMessage."""
        with Watch(self.limits.body_s, too_late=SlowBody("the message did not arrive in time")):
            message = await self._next()
        if message is None:  # too large ones are refused before, and not handed on
            raise BadMessage(f"the call has no message, or one of more than {self.limits.max_body_bytes} bytes")
        self.bytes_in = len(message)
        return message

    async def _next(self) -> bytes | None:
        message = await self.context.read()
        return None if message is grpc.aio.EOF else message


class Conversation:
    """Both directions of a call that has many messages.

    Args:
        settle: To count and log one of several requests that it holds, and how it failed.
        write_stall_s: Who reads nothing for so long is given up.

    Attributes:
        over: Whether the caller cannot be told anything any more.
        leaving: Set once the server begins to drain: what is asked is answered still, and then the call is to end.
    """

    def __init__(
        self, call: Call, settle: Callable[[Call, WorkflowError | None], None], write_stall_s: float = WRITE_STALL_S
    ) -> None:
        self.call = call
        self.settle = settle
        self.over = False
        self.leaving = asyncio.Event()
        self._writing = asyncio.Lock()
        self._write_stall_s = write_stall_s

    async def begin(self) -> None:
        """Tell the caller under which id the call runs, long before its end."""
        await self._sent(self.call.context.send_initial_metadata((("x-request-id", self.call.id),)))

    async def read(self) -> bytes | None:
        """The next message, however long it takes to come; None after the last one."""
        message = await self.call._next()
        if message is not None:
            self.call.bytes_in += len(message)
        return message

    async def write(self, message: bytes) -> None:
        """Send a message; waits while the caller reads slowly. For several tasks, each of whose messages is sent whole.

        Raises Cancelled if the caller has left, or does not read at all.
        """
        async with self._writing:
            with Watch(self._write_stall_s, too_late=Cancelled()):
                await self._sent(self.call.context.write(message))
        self.call.bytes_out += len(message)
        self.call.chunks += 1

    async def _sent(self, sending: Awaitable[None]) -> None:
        """What is broken off cannot be followed by anything else."""
        whole = False
        try:
            await sending
            whole = True
        except grpc.aio.BaseError as cause:  # what gRPC raises for a call that is over
            raise Cancelled() from cause
        finally:
            self.over |= not whole


def unforeseen(cause: Exception) -> WorkflowError:
    """A fault of ours, with what it was for the log."""
    error = WorkflowError()
    error.__cause__ = cause
    return error


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """One method of a service.

    Attributes:
        path: With the service's name, as it is called on the wire.
        unary: Answers one message with one.
        conversing: Answers messages with messages, and returns when there is no more to say.
    """

    path: str
    protocol: str
    unary: Callable[[Call, bytes], Awaitable[bytes]] | None = None
    conversing: Callable[[Conversation], Awaitable[None]] | None = None
    access: Access = "key"
