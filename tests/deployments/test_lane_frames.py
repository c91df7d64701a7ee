"""What is written on a lane is read as it was; what is not ours is refused, whatever it is."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deployments.lanes.frames import (
    ALIGN,
    COPIED_BYTES,
    HEAD,
    Bye,
    Call,
    Chunks,
    Hello,
    Message,
    Reader,
    Unsayable,
    Writer,
)
from tests.bits import EVERY_BFLOAT16, arrays_of
from workflows.tensors import BFLOAT16

ABOUT = ("request", 1.5, "key", 0, None, None, 0.25)
dtypes = (
    hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufc")
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays: st.SearchStrategy[Any] = hnp.arrays(dtypes, shapes) | arrays_of(BFLOAT16, shapes)
texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=5) | st.binary(max_size=5), max_size=5)
plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), part, max_size=4),
    max_leaves=8,
)


def through(message: Message) -> Message:
    frame = b"".join(bytes(part) for part in Writer().write(message))
    words, data = HEAD.unpack_from(frame)
    assert len(frame) == HEAD.size + words + data
    return Reader().read(frame[HEAD.size : HEAD.size + words], bytearray(frame[HEAD.size + words :]))


def input_through(value: Any) -> Any:
    message = through(Call(3, [(value, *ABOUT)]))
    assert isinstance(message, Call)
    ((found, *about),) = message.items
    assert (message.id, tuple(about)) == (3, ABOUT)
    return found


@given(plain_data)
def test_plain_data_comes_as_it_was(value: Any) -> None:
    assert input_through(value) == value


@given(st.lists(arrays, min_size=1, max_size=3))
def test_arrays_come_bit_by_bit_and_may_be_written_to(sent: list[Any]) -> None:
    for got, array in zip(input_through(sent), sent, strict=True):
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tobytes() == array.tobytes()
        assert got.flags.writeable


@pytest.mark.parametrize("rows", [1, COPIED_BYTES])
def test_every_bit_of_bfloat16_comes(rows: int) -> None:
    sent = np.tile(EVERY_BFLOAT16[-16:], (rows, 1))
    for array in (sent, sent.T, sent[:, ::-3], sent[:1, 3].reshape(())):
        got = input_through(array)
        assert (got.dtype, got.shape) == (BFLOAT16, array.shape)
        assert got.tobytes() == array.tobytes()


@given(texts)
def test_arrays_of_text_come_as_they_were(sent: list[str | bytes]) -> None:
    array = np.empty(len(sent), dtype=object)
    array[:] = sent
    got = input_through(array)
    assert got.dtype == object
    assert got.tolist() == sent


@pytest.mark.parametrize("rows", [1, 3000])
def test_an_arrays_memory_order_does_not_matter(rows: int) -> None:
    array = np.arange(rows * 6, dtype=np.float64).reshape(rows, 6)
    for sent in (array.T, array[:, ::2], np.asfortranarray(array)):
        assert (input_through(sent) == sent).all()


def test_arrays_lie_where_processors_like_them() -> None:
    got = input_through([np.zeros(3, np.uint8), np.ones(5, np.float64), np.ones((2, 2), np.float32)])
    places = [array.__array_interface__["data"][0] for array in got]
    assert {place % ALIGN for place in places} == {places[0] % ALIGN}


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        "\ud800",
        object(),
        np.float32(1.0),
        np.array([object()], dtype=object),
        np.zeros(2, dtype=[("field", "i4")]),
        np.zeros(2, "V2"),
        np.zeros(2, ml_dtypes.float8_e5m2),
        np.zeros(2, BFLOAT16.newbyteorder(">")),
    ],
    ids=["number", "text", "object", "numpy's scalar", "array of objects", "record", "void", "8 bits", "byte order"],
)
def test_what_is_no_plain_data_is_unsayable(value: object) -> None:
    writer = Writer()
    with pytest.raises(Unsayable):
        writer.write(Chunks(1, [np.ones(3), value]))
    assert len(b"".join(bytes(part) for part in writer.write(Bye()))) == HEAD.size + 4 + 1  # nothing was left over


def test_nesting_without_end_is_unsayable() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Unsayable):
        Writer().write(Chunks(1, value))


@given(st.binary(max_size=64), st.binary(max_size=32))
@example(b"\xdc\x00\x01\xa5\x00\x00\x00\x00\x80", b"")  # text that is no UTF-8
def test_noise_is_refused(words: bytes, data: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        Reader().read(words, data)


@pytest.mark.parametrize(
    ("dtype", "shape", "place"),
    [
        ("O", (1,), 0),
        ("f4", (1 << 40,), 0),
        ("f4", (4,), 8),
        ("f4", (-1,), 0),
        ("f4", (1,), -4),
        ("nonsense", (1,), 0),
        ("bfloat16", (9,), 0),
        ("V2", (1,), 0),
        ("float8_e5m2", (1,), 0),
        ("float8_e4m3fn", (1,), 0),
    ],
)
def test_an_array_that_is_not_in_the_data_is_refused(dtype: str, shape: tuple[int, ...], place: int) -> None:
    with pytest.raises(ValueError, match="no message"):
        Reader().read(forged(dtype, shape, place), bytes(16))


def test_an_array_that_is_in_the_data_is_not_refused() -> None:
    for dtype, shape, place in (("<f4", (4,), 0), ("bfloat16", (8,), 0), ("f4", (1,), 12)):
        message = Reader().read(forged(dtype, shape, place), bytes(16))
        assert isinstance(message, Chunks)
        assert not message.chunks[0].any()


def forged(dtype: str, shape: tuple[int, ...], place: int) -> bytes:
    told = msgspec.msgpack.encode((dtype, shape, place))
    return msgspec.msgpack.encode(Chunks(1, [msgspec.msgpack.Ext(1, told)]))


def test_every_message_has_its_own_name() -> None:
    assert through(Hello(1, "replica", True)) == Hello(1, "replica", True)
    assert through(Bye()) == Bye()
