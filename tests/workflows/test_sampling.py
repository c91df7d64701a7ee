"""Choosing the next token, measured on distributions that are known."""

from collections import Counter
from typing import Any

import pytest
import torch

from workflows.errors import BadOutput
from workflows.inference.generation.engine import Order
from workflows.inference.generation.sampling import TokenChooser, limited
from workflows.types import Sampling

CHANCES = [0.5, 0.25, 0.15, 0.1]
SCORES = torch.log(torch.tensor(CHANCES))


def chooser(sampling: Sampling, **order: Any) -> TokenChooser:
    return TokenChooser(
        torch,
        Order(
            **{"prompt": [0], "max_tokens": 8, "sampling": sampling, "seed": 1, "ends": frozenset(), **order},
        ),
        len(CHANCES),
        torch.device("cpu"),
    )


def chosen(sampling: Sampling, scores: torch.Tensor = SCORES, times: int = 400) -> Counter[int]:
    choose = chooser(sampling)
    return Counter(choose(scores.clone()).id for _ in range(times))


def test_greedy_takes_the_best() -> None:
    assert chosen(Sampling(temperature=0.0, top_p=0.01), torch.tensor([0.1, 3.0, 2.9]), times=1) == {1: 1}


def test_sampling_follows_the_chances() -> None:
    counts = chosen(Sampling(seed=1), times=2000)
    for token, chance in enumerate(CHANCES):
        assert counts[token] / 2000 == pytest.approx(chance, abs=0.05)


def test_a_low_temperature_sharpens_and_the_lowest_is_greedy() -> None:
    assert chosen(Sampling(temperature=0.5, seed=1))[0] > chosen(Sampling(seed=1))[0]
    assert set(chosen(Sampling(temperature=1e-9, seed=1))) == {0}


@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-38, 9e-6, 1e-5])
def test_no_temperature_is_too_low(temperature: float) -> None:
    assert set(chosen(Sampling(temperature=temperature, seed=1), torch.tensor([-100.0, 3.0, 2.9]))) == {1}


def test_top_k_keeps_the_k_best() -> None:
    assert set(chosen(Sampling(top_k=2, seed=1))) == {0, 1}
    assert set(chosen(Sampling(top_k=1_000_000, seed=1))) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(5e-324, {0}), (0.01, {0}), (0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_reach_p(top_p: float, kept: set[int]) -> None:
    assert set(chosen(Sampling(top_p=top_p, seed=1))) == kept


def test_top_p_counts_what_top_k_left() -> None:
    # Of the two that top_k leaves, the first has two thirds.
    assert set(chosen(Sampling(top_k=2, top_p=0.6, seed=1))) == {0}


def test_a_seed_repeats_and_others_do_not_disturb() -> None:
    alone = chooser(Sampling(), seed=7)
    expected = [alone(SCORES.clone()).id for _ in range(30)]
    again, other = chooser(Sampling(), seed=7), chooser(Sampling(), seed=8)
    got, others = [], []
    for _ in range(30):
        got.append(again(SCORES.clone()).id)
        others.append(other(SCORES.clone()).id)
        torch.rand(3)
    assert got == expected
    assert others != expected


def test_masked_tokens_are_never_chosen() -> None:
    scores = torch.tensor([float("-inf"), 1.0, float("-inf"), 1.0])
    assert set(chosen(Sampling(seed=1, top_p=0.99), scores)) == {1, 3}


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [float("-inf")] * 2, [float("inf"), 1.0]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_the_models_fault(scores: list[float], temperature: float) -> None:
    with pytest.raises(BadOutput):
        chosen(Sampling(temperature=temperature), torch.tensor(scores))


@pytest.mark.parametrize(("min_p", "kept"), [(0.05, {0, 1, 2, 3}), (0.25, {0, 1, 2}), (0.4, {0, 1}), (1.0, {0})])
def test_min_p_is_a_share_of_the_best_chance(min_p: float, kept: set[int]) -> None:
    assert set(chosen(Sampling(min_p=min_p))) == kept


def test_typical_p_keeps_the_least_surprising_surprises() -> None:
    # Expected is a surprise of 1.21 (natural logarithm): nearest are 0.25 (1.39), then 0.5 (0.69), 0.15 (1.90), 0.1 (2.30).
    for typical_p, kept in [(0.2, {1}), (0.3, {0, 1}), (0.76, {0, 1, 2}), (0.95, {0, 1, 2, 3})]:
        assert set(chosen(Sampling(typical_p=typical_p))) == kept


def test_limits_act_one_after_the_other() -> None:
    # top_k leaves 0.5, 0.25, 0.15; of these top_p leaves the first two, and min_p the first.
    assert set(chosen(Sampling(top_k=3, top_p=0.8))) == {0, 1}
    assert set(chosen(Sampling(top_k=3, top_p=0.8, min_p=0.6))) == {0}


def test_what_is_drawn_is_what_the_limits_left_in_many_shapes() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 7, 300):
        scores = torch.randn(size, generator=generator) * 3
        chances = scores.double().softmax(-1)
        for top_p in (0.1, 0.5, 0.9, 0.999):
            ranked = chances.sort(descending=True)
            before = ranked.values.cumsum(-1) - ranked.values
            kept = set(ranked.indices[before < top_p].tolist())
            values = limited(torch.exp(scores - scores.max()).numpy(), Sampling(top_p=top_p))
            assert set(values.nonzero()[0].tolist()) == kept


@pytest.mark.parametrize("scores", [[-1e38, 3.0, -3e38], [float("-inf"), 3.0, 1.0]])
def test_scores_far_apart_raise_no_warning(scores: list[float]) -> None:
    for temperature in (1e-5, 1e-3, 2.0):
        assert 0 not in chosen(Sampling(temperature=temperature), torch.tensor(scores))


def test_only_a_plain_greedy_request_needs_no_choosing() -> None:
    assert chooser(Sampling(temperature=0.0)).plain
    assert chooser(Sampling(temperature=1e-6, top_k=3, top_p=0.5)).plain
    assert not chooser(Sampling(temperature=0.0), top_logprobs=0).plain
    assert not chooser(Sampling(temperature=0.0, min_tokens=1), ends=frozenset({1})).plain
    for wish in (
        Sampling(),
        Sampling(temperature=0.0, logit_bias={"1": 1.0}),
        Sampling(temperature=0.0, presence_penalty=0.5),
    ):
        assert not chooser(wish).plain
