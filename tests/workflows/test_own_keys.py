"""The attention in which each request meets its own keys alone, against one that looks at every token by itself."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any

import pytest
import torch

from workflows.errors import WorkflowError
from workflows.inference.generation.attention import _OwnKeys, _Plan

HEAD_DIM = 8
PLACES = 4096  # of the cache, the first of which holds zeros


class Module:
    layer_idx = 0


class Allocator:
    """Keeps keys and values at the places that it is told, as transformers' do. What nobody has written is no number."""

    index = 0
    layer_type = "full_attention"
    read_trash_index = 0

    def __init__(self, kv_heads: int, window: int | None) -> None:
        self.kept = torch.full((2, PLACES, kv_heads, HEAD_DIM), float("nan"))
        self.kept[:, self.read_trash_index] = 0
        if window is not None:
            self.sliding_window = window
            self.layer_type = "sliding_attention"

    def update(self, key: Any, value: Any, layer: int, read: Any, write: Any) -> tuple[Any, Any]:
        self.kept[0, write], self.kept[1, write] = key, value
        if not len(read):
            return key, value
        return self.kept[0, read], self.kept[1, read]


class Cache:
    def __init__(self, allocator: Allocator) -> None:
        self.layer_to_allocator = [allocator]


class Step:
    """A step over requests that are given as (tokens that are known, tokens that are read now)."""

    def __init__(self, requests: list[tuple[int, int]], heads: int, kv_heads: int, window: int | None) -> None:
        self.requests, self.heads, self.kv_heads, self.window = requests, heads, kv_heads, window
        self.allocator = Allocator(kv_heads, window)
        self.cache = Cache(self.allocator)
        random = Random(len(requests))
        places = random.sample(range(2, PLACES), sum(known + new for known, new in requests))
        self.own: list[list[int]] = []
        for known, new in requests:
            self.own.append([places.pop() for _ in range(known + new)])
        tokens = sum(new for _, new in requests)
        self.query = torch.randn(1, heads, tokens, HEAD_DIM)
        self.key, self.value = torch.randn(2, 1, kv_heads, tokens, HEAD_DIM)
        new_ones = torch.stack([self.key, self.value])[:, 0].transpose(1, 2).split([new for _, new in requests], 1)
        self.truth: list[Any] = []
        for (known, _), own, now in zip(requests, self.own, new_ones, strict=True):
            before = torch.randn(2, known, kv_heads, HEAD_DIM)
            self.allocator.kept[:, own[:known]] = before
            self.truth.append(torch.cat([before, now], 1))

    def read(self) -> list[list[int]]:
        """What of each request is read: all, or as far back as the first new token sees."""
        if self.window is None:
            return self.own
        return [own[max(0, known - self.window + 1) :] for (known, _), own in zip(self.requests, self.own, strict=True)]

    def arguments(self) -> dict[str, Any]:
        read, cached = self.read(), any(known for known, _ in self.requests)
        return {
            "cu_seq_lens_q": torch.tensor([0, *accumulate(new for _, new in self.requests)], dtype=torch.int32),
            "cu_seq_lens_k": {
                self.allocator.layer_type: torch.tensor([0, *accumulate(map(len, read))], dtype=torch.int32)
            },
            "read_index": [torch.tensor([place for own in read for place in own] if cached else [], dtype=torch.int64)],
            "write_index": [
                torch.tensor([p for (known, _), own in zip(self.requests, self.own, strict=True) for p in own[known:]])
            ],
        }

    def expected(self) -> Any:
        """Token by token, shape (1, tokens, heads, HEAD_DIM)."""
        answers: list[Any] = []
        for (known, new), truth in zip(self.requests, self.truth, strict=True):
            for token in range(known, known + new):
                first = 0 if self.window is None else max(0, token - self.window + 1)
                keys, values = truth[:, first : token + 1].repeat_interleave(self.heads // self.kv_heads, 2)
                query = self.query[0, :, len(answers)]
                shares = (torch.einsum("hd,khd->hk", query, keys) * 0.5).softmax(-1)
                answers.append(torch.einsum("hk,khd->hd", shares, values))
        return torch.stack(answers).unsqueeze(0)


def run(step: Step, attention: _OwnKeys | None = None) -> Any:
    attention = attention or _OwnKeys(torch)
    answer, nothing = attention(
        Module,
        step.query,
        step.key,
        step.value,
        None,
        scaling=0.5,
        cache=step.cache,
        is_causal=True,
        **step.arguments(),
    )
    assert nothing is None
    return answer


REQUESTS = {
    "one token": [(0, 1)],
    "a prompt": [(0, 9)],
    "prompts": [(0, 9), (0, 1), (0, 30)],
    "decoding": [(5, 1), (9, 1), (7, 1)],
    "decoding, all as long": [(6, 1)] * 4,
    "a piece of a prompt": [(8, 5)],
    "everything": [(5, 1), (0, 7), (300, 1), (8, 5), (0, 1), (700, 1), (20, 1), (310, 1)],
    "long ones first": [(700, 1), (10, 1), (5, 1)],
    "long ones last": [(10, 1), (5, 1), (700, 1)],
}


@pytest.mark.parametrize("window", [None, 4, 16], ids=lambda window: f"window-{window}")
@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (4, 1)], ids=lambda heads: f"{heads[0]}-on-{heads[1]}")
@pytest.mark.parametrize("requests", REQUESTS.values(), ids=REQUESTS)
def test_each_token_sees_its_own_requests_keys(
    requests: list[tuple[int, int]], heads: tuple[int, int], window: int | None
) -> None:
    step = Step(requests, *heads, window)
    torch.testing.assert_close(run(step), step.expected())


def test_any_mixture(subtests: pytest.Subtests) -> None:
    random = Random(3)
    for number in range(60):
        requests = [
            (random.choice((0, 1, random.randrange(400))), random.choice((1, 1, 1, random.randrange(1, 40))))
            for _ in range(random.randrange(1, 9))
        ]
        with subtests.test(number=number, requests=requests):
            step = Step(requests, 4, 2, random.choice((None, 1, 3, 50)))
            torch.testing.assert_close(run(step), step.expected())


def test_what_is_no_number_stays_with_its_request() -> None:
    step = Step([(5, 1), (9, 1), (0, 3), (7, 1)], 2, 2, None)
    step.allocator.kept[:, step.own[1][:9]] = float("nan")
    step.key[:, :, 2], step.value[:, :, 3] = float("inf"), float("nan")
    spoilt = run(step)[0].isnan().any(-1).any(-1)
    assert spoilt.tolist() == [False, True, True, True, True, False]


def plans_of(attention: _OwnKeys) -> list[_Plan]:
    return [plan for _, plans in attention._steps.values() for plan in plans.values()]


def layer(attention: _OwnKeys, step: Step, arguments: dict[str, Any], module: Any = Module) -> Any:
    return attention(module, step.query, step.key, step.value, None, scaling=0.5, cache=step.cache, **arguments)[0]


def test_a_plan_is_made_once_for_a_step_and_anew_for_the_next() -> None:
    attention = _OwnKeys(torch)
    step = Step([(5, 1), (9, 1)], 2, 2, None)
    arguments = step.arguments()
    first = layer(attention, step, arguments)
    (plan,) = plans_of(attention)
    torch.testing.assert_close(layer(attention, step, arguments), first)
    assert plans_of(attention)[0] is plan
    longer = Step([(2, 4)], 2, 2, None)
    longer.cache = step.cache  # of the same engine
    step.allocator.kept = longer.allocator.kept
    torch.testing.assert_close(layer(attention, longer, longer.arguments()), longer.expected())


def test_layers_of_another_kind_of_attention_have_another_plan() -> None:
    class Second:
        layer_idx = 1

    requests = [(20, 1), (9, 1), (0, 7), (30, 3)]
    full, sliding = Step(requests, 2, 2, None), Step(requests, 2, 2, 4)
    sliding.allocator.index = 1
    both = full.arguments()
    of_sliding = sliding.arguments()
    both["cu_seq_lens_k"] |= of_sliding["cu_seq_lens_k"]
    for name in ("read_index", "write_index"):
        both[name] += of_sliding[name]
    full.cache.layer_to_allocator.append(sliding.allocator)
    sliding.cache = full.cache
    attention = _OwnKeys(torch)
    for _ in range(2):
        torch.testing.assert_close(layer(attention, full, both), full.expected())
        torch.testing.assert_close(layer(attention, sliding, both, Second), sliding.expected())


@pytest.mark.parametrize(
    ("known", "groups"),
    [
        ([5, 60, 127], [(3, 128)]),
        ([5, 63, 128], [(1, 129), (2, 64)]),
        ([300, 10, 700, 310, 400], [(2, 701), (2, 311), (1, 11)]),
        ([500] * 3, [(3, 501)]),
    ],
)
def test_requests_are_computed_together_as_long_as_padding_costs_less(
    known: list[int], groups: list[tuple[int, int]]
) -> None:
    attention = _OwnKeys(torch)
    step = Step([(one, 1) for one in known], 2, 2, None)
    run(step, attention)
    (plan,) = plans_of(attention)
    assert [(part.rows, part.keys) for part in plan.parts] == groups
    assert (plan.order is None) == (len(groups) == 1)  # nothing is moved where that can be spared
    del step, plan
    assert plans_of(attention) == []  # they go with their cache


@pytest.mark.parametrize("wish", ["softcap", "position_bias", "s_aux", "attention_mask"])
def test_what_it_has_not_is_refused(wish: str) -> None:
    step = Step([(5, 1)], 2, 2, None)
    given = {"attention_mask": None, **step.arguments(), wish: torch.zeros(1)}
    with pytest.raises(WorkflowError, match=wish):
        _OwnKeys(torch)(Module, step.query, step.key, step.value, cache=step.cache, **given)


def test_a_model_that_does_not_pass_the_cache_on_is_named() -> None:
    step = Step([(5, 1)], 2, 2, None)
    with pytest.raises(WorkflowError, match="does not tell"):
        _OwnKeys(torch)(Module, step.query, step.key, step.value, None)
