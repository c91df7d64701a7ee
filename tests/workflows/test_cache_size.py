"""How large a cache becomes, and who has room in it: arithmetic, with shapes of models that nobody loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from workflows.errors import WorkflowError
from workflows.inference.generation.cache_size import CacheSize, Shape, cache_size, memory_budget
from workflows.inference.generation.rooms import Rooms
from workflows.resources import Resources

# A model of a billion parameters, and a toy.
LARGE = Shape(layers=16, kv_heads=8, heads=32, head_dim=64, vocabulary=128_000, itemsize=4, masks=1)
SMALL = Shape(layers=2, kv_heads=2, heads=4, head_dim=8, vocabulary=300, itemsize=4, masks=1)
CPU = torch.device("cpu")


def size(shape: Shape, budget: int, **other: Any) -> CacheSize:
    return cache_size(shape, budget, **{"device": "cpu", "context": 4096, "concurrency": 16, **other})


def test_memory_bounds_a_large_models_cache() -> None:
    two, four = (size(LARGE, gigabytes << 30, context=1 << 17) for gigabytes in (2, 4))
    per_page = 2 * LARGE.layers * LARGE.kv_heads * LARGE.head_dim * LARGE.itemsize * 32
    assert two.pages * per_page < 2 << 30
    assert 1.9 < four.pages / two.pages < 2.3


def test_a_small_models_cache_is_no_larger_than_it_is_of_use() -> None:
    assert size(SMALL, 64 << 30).pages == 16 * 4096 // 2 // 32
    assert size(SMALL, 64 << 30, concurrency=1).pages == 2 * 4096 // 32
    assert size(SMALL, 64 << 30, cache_tokens=100).pages == 4


def test_a_context_shorter_than_a_page_takes_one() -> None:
    assert size(SMALL, 1 << 30, device="cuda", context=96, concurrency=1) == CacheSize(2, 256, 2049)


def test_a_step_has_room_for_every_request() -> None:
    assert size(SMALL, 1 << 30, step_tokens=1).step_tokens == 16
    assert size(SMALL, 1 << 30, step_tokens=500).step_tokens == 500


def test_what_has_no_room_is_said() -> None:
    with pytest.raises(WorkflowError, match="no memory for keys and values"):
        size(LARGE, 1 << 20)
    with pytest.raises(WorkflowError, match="cache_tokens is 1000000, but there is memory for"):
        size(LARGE, 1 << 30, cache_tokens=1_000_000)


def test_the_budget_is_what_the_weights_leave_of_what_was_given() -> None:
    given = Resources(memory_bytes=4 << 30)
    assert memory_budget(torch, CPU, given, 0) > memory_budget(torch, CPU, given, 1 << 30) > 1 << 30
    assert memory_budget(torch, CPU, Resources(memory_bytes=1 << 30), 2 << 30) < 0
    assert memory_budget(torch, CPU, Resources(), 1 << 40) == 2 << 30


@dataclass
class Allocator:
    """The two numbers of a `CacheAllocator` that are looked at."""

    page: int
    blocks_per_sector: int
    window: int = 1 << 20

    def needs_new_blocks(self, name: str, past: int, tokens: int) -> int:
        assert (name, past) == ("", 0)
        return -(-min(tokens, self.window) // self.page)


class Cache:
    num_sectors: ClassVar[int] = 10

    def __init__(self, *allocators: Allocator) -> None:
        self.cache_allocators = dict(enumerate(allocators))


def test_requests_have_room_until_there_is_none() -> None:
    rooms = Rooms(Cache(Allocator(32, 1)))
    assert [rooms.take(name, 100) for name in "abc"] == [True, True, False]
    assert rooms.take("c", 64)
    rooms.give("a")
    assert rooms.take("d", 128)
    assert not rooms.take("e", 1)
    assert len(rooms) == 3


def test_kinds_of_attention_share_the_sectors() -> None:
    rooms = Rooms(Cache(Allocator(32, 5), Allocator(32, 1, window=64)))
    # Ten pages of full attention are two sectors, and the window two more.
    assert [rooms.take(name, 320) for name in "abc"] == [True, True, False]


def test_the_longest_request_is_one_that_has_room_however_its_pages_lie() -> None:
    assert Rooms(Cache(Allocator(32, 1))).longest(4096) == 320
    assert Rooms(Cache(Allocator(32, 1))).longest(100) == 100
    assert Rooms(Cache(Allocator(32, 5), Allocator(32, 1, window=64))).longest(4096) == 8 * 32
