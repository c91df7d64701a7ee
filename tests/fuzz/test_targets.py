"""Every target bears its seeds, what hypothesis thinks of, and changed seeds; and each can fail."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.bounded import bounded
from tests.fuzz.corpus import SEEDS, TARGETS
from tests.fuzz.picks import Picks

NAMES = list(TARGETS)


def changed(seed: bytes, place: int, dropped: int, added: bytes) -> bytes:
    place %= len(seed) + 1
    return seed[:place] + added + seed[place + dropped :]


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 200))
@settings(max_examples=1000, deadline=None)
def test_any_bytes(name: str, seed: int, size: int) -> None:
    TARGETS[name](random.Random(seed).randbytes(size))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_changed_seeds(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS[name]))
    TARGETS[name](
        changed(seed, data.draw(st.integers(0, 4096)), data.draw(st.integers(0, 4)), data.draw(st.binary(max_size=4)))
    )


def test_a_decoder_that_takes_what_it_is_told_to_take_fails() -> None:
    with pytest.raises(AssertionError, match="bytes of memory for 8 bytes of input"), bounded(8):
        np.empty(1 << 20, np.uint8)


def test_picks_never_run_out() -> None:
    picks = Picks(b"\x05ab")
    assert [picks.byte(), picks.take(4), picks.byte(), picks.rest()] == [5, b"ab\0\0", 0, b""]
