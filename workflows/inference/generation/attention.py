"""Attention over a paged cache in which every token meets the keys of its own request alone.

The manager's own (`sdpa`) multiplies the tokens of all requests with the keys of all requests and masks the rest away: the
cost grows with the square of the requests, and what is no number in one request's keys reaches the others. Here requests
that read one token each (decoding) are computed together, their keys padded to the longest among them, and every piece of a
prompt by itself.

transformers calls it by name, through its `AttentionInterface`. It runs on the engine's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from weakref import WeakKeyDictionary

from workflows.errors import WorkflowError

__all__ = ["OWN_KEYS", "SDPA", "takes_own_keys", "use_own_keys"]

OWN_KEYS: Final = "own_keys"
SDPA: Final = "sdpa"
# Requests are computed together as far as each has at least half as many keys as the longest; those with no more than this
# many always, since a call of its own would cost more than the padding.
_SHORT: Final = 128
# A mask that comes here is a model's own: transformers makes none for an attention that it does not know.
_UNKNOWN: Final = ("attention_mask", "position_bias", "s_aux", "softcap")


@dataclass(frozen=True, slots=True)
class _Part:
    """Requests that are computed together.

    Attributes:
        rows: How many they are.
        queries: How many tokens each reads.
        keys: How many keys each has, with its padding.
        first_query: Where its tokens begin, in the step's order.
        first_key: Where its keys begin, among those that are read.
        mask: What is added to the scores, shape (rows, 1, queries, keys); None where all keys are seen, or all up to a
            token's own place.
    """

    rows: int
    queries: int
    keys: int
    first_query: int
    first_key: int
    mask: Any | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A step of the layers that share an allocator.

    Attributes:
        order: Where each token is taken from, so that parts lie together; None where they do. `back` is its inverse.
        read: Which places of the cache are read, padding among them.
        write: Which places of the cache the tokens' own keys and values go to.
    """

    parts: tuple[_Part, ...]
    order: Any | None
    back: Any | None
    read: Any
    write: Any


class _OwnKeys:
    """Has the signature of transformers' attention functions. Keeps the plans of each cache's last step."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._steps: WeakKeyDictionary[Any, tuple[Any, dict[int, _Plan]]] = WeakKeyDictionary()

    def __call__(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        *,
        cache: Any = None,
        **step: Any,
    ) -> tuple[Any, None]:
        """Attention of one layer, shapes (1, heads, tokens, head_dim); the answer's is (1, tokens, heads, head_dim).

        `dropout` and `is_causal` change nothing: nobody trains here, and a token sees what was before it.

        Raises WorkflowError: the model's attention has something that this one has not.
        """
        wanted = {"attention_mask": attention_mask, **step}
        for unknown in _UNKNOWN:
            if wanted.get(unknown) is not None:
                raise WorkflowError(f"{type(module).__name__} wants {unknown}, which continuous batching has not")
        if cache is None:
            raise WorkflowError(f"{type(module).__name__} does not tell its attention where the cache is")
        allocator = cache.layer_to_allocator[module.layer_idx]
        plan = self._plan_of(cache, allocator, step, query)
        query, key, value = query[0], key[0], value[0]
        if plan.order is not None:
            query, key, value = (each.index_select(1, plan.order) for each in (query, key, value))
        keys, values = allocator.update(
            key.transpose(0, 1), value.transpose(0, 1), module.layer_idx, plan.read, plan.write
        )
        answers = [self._attend(part, query, keys, values, scaling) for part in plan.parts]
        answer = answers[0] if len(answers) == 1 else self._torch.cat(answers)
        if plan.back is not None:
            answer = answer.index_select(0, plan.back)
        return answer.unsqueeze(0), None

    def _attend(self, part: _Part, query: Any, keys: Any, values: Any, scaling: float | None) -> Any:
        """Shape (tokens, heads, head_dim)."""
        heads, _, head_dim = query.shape
        kv_heads = keys.shape[1]
        own = query.narrow(1, part.first_query, part.rows * part.queries)
        own = own.unflatten(1, (part.rows, part.queries)).transpose(0, 1)
        own_keys, own_values = (
            each.narrow(0, part.first_key, part.rows * part.keys).unflatten(0, (part.rows, part.keys)).transpose(1, 2)
            for each in (keys, values)
        )
        if kv_heads != heads:
            share = heads // kv_heads
            if part.queries == 1:  # heads that share keys stand as tokens that do
                own = own.reshape(part.rows, kv_heads, share, head_dim)
            else:
                own_keys, own_values = (each.repeat_interleave(share, 1) for each in (own_keys, own_values))
        answer = self._torch.nn.functional.scaled_dot_product_attention(
            own,
            own_keys,
            own_values,
            attn_mask=part.mask,
            is_causal=part.mask is None and part.queries > 1,
            scale=scaling,
        )
        answer = answer.reshape(part.rows, heads, part.queries, -1).transpose(1, 2)
        return answer.reshape(part.rows * part.queries, heads, -1)

    def _plan_of(self, cache: Any, allocator: Any, step: dict[str, Any], query: Any) -> _Plan:
        """The same for all layers of an allocator: `read_index` is one list for a whole step."""
        of, plans = self._steps.get(cache, (None, {}))
        if of is not step["read_index"]:
            of, plans = step["read_index"], {}
            self._steps[cache] = of, plans
        plan = plans.get(allocator.index)
        if plan is None:
            plan = plans[allocator.index] = _Planner(self._torch, allocator, step, query).plan()
        return plan


class _Planner:
    """Makes one `_Plan`."""

    def __init__(self, torch: Any, allocator: Any, step: dict[str, Any], query: Any) -> None:
        self._torch = torch
        self._device, self._dtype = query.device, query.dtype
        self._window: int | None = getattr(allocator, "sliding_window", None)
        self._padding: int = allocator.read_trash_index  # holds zeros, and is never written to
        self._read = step["read_index"][allocator.index]
        self._write = step["write_index"][allocator.index]
        self._queries_at: list[int] = step["cu_seq_lens_q"].tolist()
        self._keys_at: list[int] = step["cu_seq_lens_k"][allocator.layer_type].tolist()
        self._queries = [end - start for start, end in pairwise(self._queries_at)]
        self._keys = [end - start for start, end in pairwise(self._keys_at)]

    def plan(self) -> _Plan:
        groups = self._groups()
        rows = [row for group in groups for row in group]
        order = None if rows == list(range(len(rows))) else self._tokens_of(rows)
        parts, reads = [], []
        first_query = first_key = 0
        for group in groups:
            count, queries = len(group), self._queries[group[0]]
            keys = max(self._keys[row] for row in group)
            read, mask = self._together(group, keys) if count > 1 else self._alone(group[0])
            parts.append(_Part(count, queries, keys, first_query, first_key, mask))
            reads.append(read)
            first_query += count * queries
            first_key += count * keys
        return _Plan(
            tuple(parts),
            order,
            None if order is None else order.argsort(),
            reads[0] if len(reads) == 1 else self._torch.cat(reads),
            self._write if order is None else self._write.index_select(0, order),
        )

    def _groups(self) -> list[list[int]]:
        """Requests that are computed together, by their places in the step."""
        # Where nothing is cached, the keys are those that the step makes, with no room for padding.
        if self._read.numel() == 0:
            return [[row] for row in range(len(self._queries))]
        decoding = [row for row, queries in enumerate(self._queries) if queries == 1]
        groups: list[list[int]] = []
        most = 0
        for row in sorted(decoding, key=self._keys.__getitem__, reverse=True):
            if not groups or max(2 * self._keys[row], _SHORT) < most:
                groups.append([])
                most = self._keys[row]
            groups[-1].append(row)
        # Those of one group stay in the step's order, which then is often the order of all.
        together = [sorted(group) for group in groups]
        return together + [[row] for row, queries in enumerate(self._queries) if queries > 1]

    def _tokens_of(self, rows: list[int]) -> Any:
        tokens = [token for row in rows for token in range(self._queries_at[row], self._queries_at[row + 1])]
        return self._torch.tensor(tokens, device=self._device)

    def _together(self, group: list[int], keys: int) -> tuple[Any, Any]:
        """Where the keys of a group are, `keys` of each request with padding after its own, and what hides the padding."""
        known = self._torch.tensor([self._keys[row] for row in group], device=self._device)
        first = self._torch.tensor([self._keys_at[row] for row in group], device=self._device)
        places = self._torch.arange(keys, device=self._device)
        padding = places >= known[:, None]
        from_read = (first[:, None] + places).masked_fill_(padding, 0)
        read = self._read[from_read].masked_fill_(padding, self._padding)
        return read.flatten(), self._hiding(padding[:, None, None, :])

    def _alone(self, row: int) -> tuple[Any, Any | None]:
        """Where the keys of one request are, and what hides those that a token does not see.

        It sees itself and what was before it, as far back as the window goes.
        """
        read = self._read[self._keys_at[row] : self._keys_at[row + 1]]
        queries, keys = self._queries[row], self._keys[row]
        earlier = keys - queries
        window = self._window if self._window is not None and self._window < keys else None
        if queries == 1 or (not earlier and window is None):
            return read, None
        own = self._torch.arange(earlier, keys, device=self._device)[:, None]
        places = self._torch.arange(keys, device=self._device)
        hidden = places > own
        if window is not None:
            hidden |= places <= own - window
        return read, self._hiding(hidden[None, None])

    def _hiding(self, hidden: Any) -> Any:
        mask = self._torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, float("-inf"))


def takes_own_keys(model: Any) -> bool:
    """Whether this model can run with this attention: on CPUs (not tried elsewhere), those that take transformers' `sdpa`."""
    return (
        model.device.type == "cpu"
        and model.config._attn_implementation in (SDPA, OWN_KEYS)
        and bool(model._can_set_attn_implementation())
    )


def use_own_keys(torch: Any, transformers: Any, model: Any) -> None:
    """Let the model run with this attention, in a manager and nowhere else. It makes no masks then."""
    if OWN_KEYS not in transformers.AttentionInterface().valid_keys():
        transformers.AttentionInterface.register(OWN_KEYS, _OwnKeys(torch))
    model.set_attn_implementation(OWN_KEYS)
