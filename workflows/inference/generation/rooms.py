"""Which requests a paged cache has room for, before any of them is begun. Knows no event loop and no manager."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["Rooms"]

_NOBODY: Final = ""  # the cache knows no request of this name: it counts what a new one needs


class Rooms:
    """Keeps for every request what it may need at most, so that those that are in never have to make room for others.

    Args:
        cache: A `PagedAttentionCache`, empty. It has one allocator for each kind of attention in the model, which take
            their blocks out of sectors; only the numbers of both are looked at.
    """

    def __init__(self, cache: Any) -> None:
        self._allocators = list(cache.cache_allocators.values())
        self._sectors: int = cache.num_sectors
        self._taken = [0] * len(self._allocators)
        self._by_id: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def longest(self, context: int) -> int:
        """The most tokens, up to `context`, that one request can have when it is alone."""
        low, high = 0, context
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits_alone(self._blocks(middle)) else (low, middle - 1)
        return low

    def take(self, name: str, tokens: int) -> bool:
        """Keep room for a request of so many tokens, or say that there is none now."""
        blocks = self._blocks(tokens)
        wanted = [have + more for have, more in zip(self._taken, blocks, strict=True)]
        if self._by_id and self._sectors_of(wanted) > self._sectors:
            return False
        self._by_id[name] = blocks
        self._taken = wanted
        return True

    def give(self, name: str) -> None:
        """What was kept for this request is free again."""
        blocks = self._by_id.pop(name)
        self._taken = [have - less for have, less in zip(self._taken, blocks, strict=True)]

    def _blocks(self, tokens: int) -> list[int]:
        return [allocator.needs_new_blocks(_NOBODY, 0, tokens) for allocator in self._allocators]

    def _sectors_of(self, blocks: list[int]) -> int:
        return sum(-(-need // own.blocks_per_sector) for need, own in zip(blocks, self._allocators, strict=True))

    def _fits_alone(self, blocks: list[int]) -> bool:
        # Others may have left its blocks scattered, each in a sector of which the other kinds can have nothing.
        needed = self._sectors_of(blocks) if len(blocks) == 1 else sum(blocks)
        return needed <= self._sectors
