"""What is said on a lane, and how it is written: msgpack, with the arrays' bytes behind it as they are.

    | words: u32 | data: u32 | msgpack of one message, words bytes | the arrays' bytes, data bytes |

Numbers of the head are little-endian. In the message an array is an extension: its dtype, shape and place in the data,
which is a multiple of 16. Nothing in here runs code of the other side's choosing: a frame is decoded into the messages
below and plain data, or refused.

    near end                                   far end
    -> Call(id, items)                         <- Outcomes(id, ...) until each item has its own
    -> Open(id, item, credit)                  <- Chunks(id, ...) while there is credit, then End(id, error)
    -> Credit(id, amount), Leave(id), Cancel   <- Begun(id, indices), where that matters (see `Hello`)
    -> Bye, the last word                      <- Hello, the first word; Stopping, to be answered with Bye
                                               <- Stands, when the workflow is loaded or unloaded
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct as Layout
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from deployments.standing import LoadState
from deployments.wire import PlainItem, PlainOutcome
from workflows.plain_error import PlainError
from workflows.tensors import BFLOAT16, Array, element_kind

__all__ = [
    "ALIGN",
    "COPIED_BYTES",
    "COST_BYTES",
    "HEAD",
    "MAX_FRAME_BYTES",
    "WIRE_VERSION",
    "Begun",
    "Bye",
    "Call",
    "Cancel",
    "Chunks",
    "Credit",
    "End",
    "Hello",
    "Leave",
    "Message",
    "Open",
    "Outcomes",
    "Reader",
    "Stands",
    "Stopping",
    "Unsayable",
    "Waiting",
    "Writer",
    "cost_of",
]

WIRE_VERSION: Final = 3
COST_BYTES: Final = 16 << 10
MAX_FRAME_BYTES: Final = 256 << 20  # as a message of a handle may have, see serve_config.yaml
HEAD: Final = Layout("<II")
COPIED_BYTES: Final = 16 << 10
"""Arrays up to here are copied: that costs less than to send their own memory. What larger ones hold must stay."""
ALIGN: Final = 16
_ARRAY: Final = 1
_TEXTS: Final = 2
_KINDS: Final = frozenset("biufcmMUS")
_OBJECTS: Final = np.dtype(object).str
_Size = Annotated[int, msgspec.Meta(ge=0)]
_ARRAY_DECODER: Final = msgspec.msgpack.Decoder(tuple[str, tuple[_Size, ...], _Size])
_TEXTS_DECODER: Final = msgspec.msgpack.Decoder(tuple[tuple[_Size, ...], list[Any]])


class Hello(msgspec.Struct, array_like=True, tag="hello", frozen=True):
    """Which replica this is, and whether it says `Begun`: it does where running an item twice would do harm."""

    version: int
    replica: str
    tells_begun: bool


class Call(msgspec.Struct, array_like=True, tag="call", frozen=True):
    """An envelope. Ids are chosen by the near end and not used twice on a connection."""

    id: int
    items: list[PlainItem]


class Outcomes(msgspec.Struct, array_like=True, tag="outcomes", frozen=True):
    id: int
    outcomes: list[tuple[int, PlainOutcome]]


class Begun(msgspec.Struct, array_like=True, tag="begun", frozen=True):
    """Said before the model sees these items: what it was not said of has not run, should the connection break."""

    id: int
    indices: list[int]


class Open(msgspec.Struct, array_like=True, tag="open", frozen=True):
    """A stream; `credit` (see `cost_of`) may be spent before more is granted."""

    id: int
    item: PlainItem
    credit: int


class Chunks(msgspec.Struct, array_like=True, tag="chunks", frozen=True):
    id: int
    chunks: list[Any]


def cost_of(chunks: list[Any], frame_bytes: int) -> int:
    """What chunks in a frame of so many bytes cost of their stream's credit: large ones count for several small ones."""
    return max(len(chunks), frame_bytes // COST_BYTES)


class End(msgspec.Struct, array_like=True, tag="end", frozen=True):
    id: int
    error: PlainError | None


class Credit(msgspec.Struct, array_like=True, tag="credit", frozen=True):
    id: int
    amount: int


class Leave(msgspec.Struct, array_like=True, tag="leave", frozen=True):
    """Nobody waits for this call or stream any more. Nothing more is said of it, or it crossed this on its way."""

    id: int


class Cancel(msgspec.Struct, array_like=True, tag="cancel", frozen=True):
    request_ids: list[str]


class Waiting(msgspec.Struct, array_like=True, tag="waiting", frozen=True):
    """So many items wait at the near end for this replica; `caller` is one and the same over every way to it."""

    caller: str
    items: float


class Stands(msgspec.Struct, array_like=True, tag="stands", frozen=True):
    """Whether the replica has its workflow loaded: the fields of its `Standing`. Said when it changes, and after `Hello`
    where it is not loaded."""

    number: int
    state: LoadState
    reason: str


class Stopping(msgspec.Struct, array_like=True, tag="stopping", frozen=True):
    """The replica finishes what it has; to be answered with `Bye`, after which the near end asks for nothing more."""


class Bye(msgspec.Struct, array_like=True, tag="bye", frozen=True):
    """Nothing new is asked for on this connection."""


Bytes = bytes | bytearray | memoryview
Asked = Call | Open | Credit | Leave | Cancel | Waiting | Bye
Message = Hello | Outcomes | Begun | Chunks | End | Stands | Stopping | Asked


class Unsayable(ValueError):
    """A message that holds something which is no plain data, that msgpack cannot say, or that is too large."""


class Writer:
    """Writes messages. Belongs to one connection: a message's arrays are collected while it is encoded."""

    def __init__(self) -> None:
        self._parts: list[Bytes] = []
        self._size = 0
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._extension)
        self._inner = msgspec.msgpack.Encoder()

    def write(self, message: Message) -> list[Bytes]:
        """The frame, in parts to be sent one after the other; the arrays among them must not change until then.

        Raises Unsayable, whose text says why.
        """
        self._parts, self._size = [], 0
        try:
            words = self._encoder.encode(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as cause:
            raise Unsayable("a value that plain data cannot say") from cause
        finally:
            parts, self._parts = self._parts, []
        if HEAD.size + len(words) + self._size > MAX_FRAME_BYTES:
            raise Unsayable("too large to be passed on")
        return [HEAD.pack(len(words), self._size) + words, *parts]

    def _extension(self, value: object) -> msgspec.msgpack.Ext:
        if not isinstance(value, np.ndarray):
            raise TypeError
        dtype = _name(value.dtype)
        if dtype == _OBJECTS:
            texts = value.ravel().tolist()
            if not all(isinstance(text, str | bytes) for text in texts):
                raise TypeError
            return msgspec.msgpack.Ext(_TEXTS, self._inner.encode((value.shape, texts)))
        place, size = self._size, value.nbytes
        if size <= COPIED_BYTES:
            self._parts.append(value.tobytes())
        else:
            self._parts.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        if padding := -size % ALIGN:
            self._parts.append(bytes(padding))
        self._size += size + padding
        return msgspec.msgpack.Ext(_ARRAY, self._inner.encode((dtype, value.shape, place)))


class Reader:
    """Reads messages. Belongs to one connection."""

    def __init__(self) -> None:
        self._data: Bytes = b""
        self._decoder = msgspec.msgpack.Decoder(Message, ext_hook=self._extension)

    def read(self, words: Bytes, data: Bytes) -> Message:
        """The message; its arrays are views of `data`, and may be written to where that can be.

        Raises ValueError for anything but a message of ours.
        """
        self._data = data
        try:
            message: Message = self._decoder.decode(words)
            return message
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as cause:
            raise ValueError("this is no message of a lane") from cause
        finally:
            self._data = b""

    def _extension(self, code: int, told: memoryview) -> Array:
        if code == _TEXTS:
            shape, texts = _TEXTS_DECODER.decode(told)
            array = np.empty(len(texts), dtype=object)
            array[:] = texts
            return array.reshape(shape)
        if code != _ARRAY:
            raise ValueError("an unknown extension")
        dtype, shape, place = _ARRAY_DECODER.decode(told)
        return np.ndarray(shape, _dtype(dtype), self._data, place)  # which checks that it ends within the data


@lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str:
    """What `_dtype` reads. Raises TypeError for what does not travel; numpy makes a name anew each time."""
    kind = element_kind(dtype)
    if kind not in _KINDS and kind != "O":
        raise TypeError
    return "bfloat16" if dtype == BFLOAT16 else dtype.str


@lru_cache(maxsize=256)
def _dtype(name: str) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(name)  # which knows bfloat16 by its name
    if element_kind(found) not in _KINDS:  # objects above all: their bytes would be taken for addresses
        raise ValueError("a dtype that does not travel")
    return found
