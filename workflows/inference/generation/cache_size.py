"""How many tokens' keys and values an engine may keep, from the memory that it was given. Knows shapes, no model library."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from workflows.errors import WorkflowError
from workflows.resources import Resources

__all__ = ["CacheSize", "Shape", "cache_size", "memory_budget"]

# Where nobody said how much memory there is: enough for small models, and not all of a large machine.
_UNSAID_BYTES: Final = 2 << 30
# What Python, torch and transformers take before any weights, and what a forward pass takes beside its largest tensors.
_PROCESS_BYTES: Final = 600 << 20
_SHARE: Final = 0.8
# Requests are seldom as long as the context allows: those that find no room wait until others have ended.
_FILLED: Final = 0.5
_PREFILL_TOKENS: Final = {"cpu": 256, "cuda": 2048}
# Small pages waste little and share short beginnings; flash attention on a GPU reads no smaller ones than 256.
_PAGE_TOKENS: Final = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cached token costs.

    Attributes:
        layers: Those with keys and values.
        kv_heads: Heads whose keys and values are kept, `head_dim` numbers each.
        heads: Heads of queries.
        vocabulary: Scores of one token.
        itemsize: Bytes of one number.
        masks: Attention masks that transformers reckons with. The attention of `attention.py` takes less.
    """

    layers: int
    kv_heads: int
    heads: int
    head_dim: int
    vocabulary: int
    itemsize: int
    masks: int


@dataclass(frozen=True, slots=True)
class CacheSize:
    """`pages` of `page_tokens` tokens each are kept, and a step reads at most `step_tokens` tokens."""

    pages: int
    page_tokens: int
    step_tokens: int


def memory_budget(torch: Any, device: Any, resources: Resources, weights: int) -> int:
    """Bytes that cache and working memory may take together, after `weights` bytes of weights were loaded."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        mine = int(total * resources.gpu_fraction) - torch.cuda.memory_allocated(device)
        return int(min(free, mine) * _SHARE)
    if resources.memory_bytes is None:
        return _UNSAID_BYTES
    return int((resources.memory_bytes - _PROCESS_BYTES - weights) * _SHARE)


def cache_size(
    shape: Shape,
    budget: int,
    *,
    device: str,
    context: int,
    concurrency: int,
    cache_tokens: int | None = None,
    step_tokens: int | None = None,
) -> CacheSize:
    """The largest cache that is of use and fits into `budget` bytes.

    Args:
        cache_tokens: Takes so many instead of what would be of use; refused where they do not fit.
        step_tokens: See `CacheSize`; at least one for each of `concurrency` requests.

    Raises WorkflowError: there is no room for any, or not for those that were asked for.
    """
    page_tokens = _PAGE_TOKENS[device]
    step = max(step_tokens or _PREFILL_TOKENS[device] + concurrency, concurrency)
    # Keys and values are kept in every layer; in one layer at a time they are gathered for the attention, with about as
    # much padding, and once more for every head of queries where heads share them.
    kept = 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.itemsize
    gathered = (2 * shape.heads + 4 * shape.kv_heads) * shape.head_dim * shape.itemsize
    masked = shape.masks * step * shape.itemsize
    scores = 4 * 4 * concurrency * shape.vocabulary
    room = (budget - scores - step * (gathered + masked)) // (kept + gathered + masked) // page_tokens
    if room < 1:
        raise WorkflowError("there is no memory for keys and values: give this workflow more, or lower its concurrency")
    if cache_tokens is not None:
        pages = ceil(cache_tokens / page_tokens)
        if pages > room:
            raise WorkflowError(f"cache_tokens is {cache_tokens}, but there is memory for {room * page_tokens}")
        return CacheSize(pages, page_tokens, step)
    whole = ceil(context / page_tokens)
    useful = max(ceil(concurrency * whole * _FILLED), 2 * whole)
    return CacheSize(min(useful, room), page_tokens, step)
