"""Which texts run together: every text once, within the limit, and no plan is cheaper."""

from collections.abc import Iterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from workflows.inference.padding import RunCosts, plan_runs


def price(runs: Sequence[Sequence[int]], lengths: Sequence[int], costs: RunCosts) -> int:
    return sum(costs.call + len(run) * costs.padded(max(lengths[place] for place in run)) for run in runs)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *others = items
    for partition in partitions(others):
        yield [[first], *partition]
        for place, part in enumerate(partition):
            yield [*partition[:place], [first, *part], *partition[place + 1 :]]


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(0, 100), st.integers(1, 2000), st.sampled_from([1, 8]))
def test_every_text_runs_once_and_no_call_is_too_large(lengths: list[int], call: int, most: int, step: int) -> None:
    costs = RunCosts(call, most, step)
    runs = plan_runs(lengths, costs)
    assert sorted(place for run in runs for place in run) == list(range(len(lengths)))
    for run in runs:
        assert len(run) == 1 or len(run) * costs.padded(max(lengths[place] for place in run)) <= most


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 40))
def test_no_plan_is_cheaper(lengths: list[int], call: int) -> None:
    costs = RunCosts(call, most=10_000)
    cheapest = min(price(plan, lengths, costs) for plan in partitions(list(range(len(lengths)))))
    assert price(plan_runs(lengths, costs), lengths, costs) == cheapest


def test_short_texts_do_not_pay_for_long_ones() -> None:
    lengths = [8, 250, 9, 240, 8]
    runs = plan_runs(lengths, RunCosts(call=24, most=512))
    assert sorted(map(sorted, runs)) == [[0, 2, 4], [1, 3]]


def test_where_calls_are_dear_and_tokens_are_not_all_run_at_once() -> None:
    assert len(plan_runs([8, 250, 9, 240, 8], RunCosts(call=4096, most=1 << 15, step=8))) == 1
