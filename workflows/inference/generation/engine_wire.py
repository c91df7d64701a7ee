"""What a workflow and its engine's process say to each other, over a socket that nobody else has.

    | length: u32, little-endian | msgpack of one message, length bytes |

    workflow                                        engine's process
    -> Open(spec), the first word                   <- Opened, or Failed and the end
    -> Begin(number, order)                         <- Heard(news), one for all that a step has made
    -> Close(number), when nobody reads it          nothing more of it, or it crossed this on its way
    -> Stop, the last word                          the end

The end of the socket is the end of the other side. Nothing is unpickled: a message is one of these, or refused.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from workflows.errors import WorkflowError
from workflows.inference.generation.engine import News, Order
from workflows.inference.generation.opening import EngineSpec
from workflows.plain_error import PlainError, decode_error, encode_error
from workflows.types import Sampling

__all__ = ["Asked", "Begin", "Close", "EngineSocket", "Failed", "Heard", "Open", "Opened", "Stop", "Told"]

MAX_MESSAGE_BYTES: Final = 256 << 20
_HEAD_BYTES: Final = 4
M = TypeVar("M")


class Open(msgspec.Struct, array_like=True, tag="open", frozen=True):
    spec: EngineSpec


class Opened(msgspec.Struct, array_like=True, tag="opened", frozen=True):
    """What an `Engine` knows once it has started."""

    context_tokens: int
    vocabulary: int
    ends: frozenset[int]
    device: str


class Failed(msgspec.Struct, array_like=True, tag="failed", frozen=True):
    """The engine could not be started."""

    error: WorkflowError


class Heard(msgspec.Struct, array_like=True, tag="heard", frozen=True):
    """News of answers, by their numbers; or none, as a sign that there are steps."""

    news: list[tuple[int, News]]


class Begin(msgspec.Struct, array_like=True, tag="begin", frozen=True):
    """An answer is wanted; numbers are the workflow's, and not used twice."""

    number: int
    order: Order


class Close(msgspec.Struct, array_like=True, tag="close", frozen=True):
    number: int


class Stop(msgspec.Struct, array_like=True, tag="stop", frozen=True):
    """Give everything back, and end."""


Asked = Open | Begin | Close | Stop
Told = Opened | Failed | Heard


class EngineSocket:
    """One end. Belongs to its event loop. Little is written that was not asked for: nobody waits for the other end to read.

    Args:
        kind: The messages that are read: `Asked` by the engine's process, `Told` by the workflow.
    """

    def __init__(self, kind: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_encoded)
        self._decoder = msgspec.msgpack.Decoder(kind, dec_hook=_decoded)
        self._writer: asyncio.StreamWriter | None = None
        self._gone = False

    async def open(self, connected: socket.socket) -> None:
        """Takes the socket over, also where this is given up."""
        try:
            self._reader, self._writer = await asyncio.open_connection(sock=connected)
        except BaseException:
            connected.close()
            raise

    def send(self, message: Any) -> None:
        """Of no effect once the other end is gone. Raises TypeError, ValueError or OverflowError for what cannot be said."""
        assert self._writer is not None  # it is open
        words = self._encoder.encode(message)
        if not (self._gone or self._writer.is_closing()):
            self._writer.write(len(words).to_bytes(_HEAD_BYTES, "little") + words)

    async def read(self) -> Any:
        """The next message; None at the end. Raises ValueError for what is no message."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_HEAD_BYTES), "little")
            if length > MAX_MESSAGE_BYTES:
                raise ValueError("a message that is too long")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._gone = True
            return None

    async def close(self) -> None:
        """What was sent has left for the other end, or that is gone."""
        assert self._writer is not None  # it was open
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Lets go of the socket at once."""
        self._gone = True
        if self._writer is not None:
            self._writer.transport.abort()


def _encoded(value: Any) -> Any:
    if isinstance(value, WorkflowError):
        return encode_error(value)
    if isinstance(value, Sampling):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} is nothing that an engine and its workflow tell each other")


def _decoded(kind: type[M], value: Any) -> M | WorkflowError | Sampling:
    if kind is WorkflowError:
        return decode_error(msgspec.convert(value, PlainError))
    if kind is Sampling:
        return Sampling.model_construct(**value)  # which its workflow has checked
    raise TypeError(f"{kind.__name__} is nothing that an engine and its workflow tell each other")
