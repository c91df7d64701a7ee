"""The probe that says whether a model treats its rows independently, on functions that do and that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from workflows.errors import InvalidInput
from workflows.inference.graph_signature import Input
from workflows.inference.row_probe import Fill, mixed_outputs, sample
from workflows.tensors import Array

WIDTH = 6
WEIGHTS = np.random.default_rng(7).normal(size=(WIDTH, 3)).astype(np.float32)
Model = Callable[[Array], Array]


def probe(model: Model, dtype: str = "float32") -> set[str]:
    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": model(feeds["x"]), "same": feeds["x"]}

    def draw(fill: Fill, rows: int) -> dict[str, Array]:
        return sample([Input("x", dtype, (None, WIDTH))], fill, rows, {}, 1)

    return mixed_outputs(run, draw)


def linear(x: Array) -> Array:
    product: Array = x.astype(np.float32) @ WEIGHTS
    return product


def quantised(x: Array) -> Array:
    """8 bits over the range of the whole batch, as dynamic quantisation does it."""
    scale = np.abs(x).max() / np.float32(127)
    return linear(np.round(x / scale) * scale)


def bounded_and_quantised(x: Array) -> Array:
    """However loud a row is, the scale is almost the same."""
    return quantised(np.tanh(x))


def normalised(x: Array) -> Array:
    return linear(x - x.mean(0))


def counting(x: Array) -> Array:
    return np.full(len(x), len(x))


def running_total(x: Array) -> Array:
    return linear(np.cumsum(x, 0))


def the_loudest_only(x: Array) -> Array:
    """Rows do not matter to each other until one of them is loud."""
    return linear(x / max(1.0, float(np.abs(x).max()) / 100))


def spoilt_by_the_loud(x: Array) -> Array:
    return linear(x) * np.float32(np.nan if np.abs(x).max() > 10 else 1)


def healed_by_the_loud(x: Array) -> Array:
    return linear(x) * np.float32(1 if np.abs(x).max() > 10 else np.inf)


def all_rows_against_all(x: Array) -> Array:
    table: Array = x @ x.T
    return table


def short(x: Array) -> Array:
    return linear(x)[:1]


@pytest.mark.parametrize(
    "model",
    [
        quantised,
        bounded_and_quantised,
        normalised,
        counting,
        running_total,
        the_loudest_only,
        spoilt_by_the_loud,
        healed_by_the_loud,
        all_rows_against_all,
        short,
    ],
)
def test_company_that_changes_a_row_is_found_in_that_output_alone(model: Model) -> None:
    assert probe(model) == {"y"}


def half_precision(x: Array) -> Array:
    """Another kernel for every number of rows, each with rounding errors of its own."""
    noisy: Array = linear(x).astype(np.float16).astype(np.float32) * np.float32(1 + 0.004 * (len(x) > 1))
    return noisy


def overflowing(x: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        large = np.exp(linear(x))
        ratio: Array = large / large.sum(-1, keepdims=True)
    return ratio


def best(x: Array) -> Array:
    place: Array = linear(x).argmax(-1)
    return place


def not_a_number(x: Array) -> Array:
    spoilt: Array = np.where(x > 0.5, np.float32(np.nan), linear(x)[:, :1])
    return spoilt


def nothing(x: Array) -> Array:
    return np.zeros_like(x)


def labels(x: Array) -> Array:
    return np.where(x[:, :1] > 0.5, "yes", "no").astype(object)


@pytest.mark.parametrize("model", [linear, half_precision, overflowing, best, not_a_number, nothing, labels])
def test_rows_that_stand_alone_are_seen_to(model: Model) -> None:
    assert probe(model) == set()


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize(("model", "mixed"), [(linear, set()), (normalised, {"y"})])
def test_whole_numbers_are_probed_too(model: Model, mixed: set[str], dtype: str) -> None:
    assert probe(lambda x: model(x.astype(np.float32)), dtype) == mixed


def test_numbers_that_may_be_an_index_stay_small() -> None:
    seen: list[Array] = []
    probe(lambda x: seen.append(x) or linear(x), "int32")  # type: ignore[func-returns-value]
    assert {int(array.max()) for array in seen} <= {0, 1}


def test_brightness_of_one_byte_is_probed_in_its_whole_range() -> None:
    assert probe(lambda x: the_loudest_only(x.astype(np.float32)), "uint8") == {"y"}


def test_text_rows_differ() -> None:
    assert probe(lambda x: np.where(x == x[0], "first", "other").astype(object), "string") == {"y"}


def refusing(model: Model, when: Callable[[Array], bool]) -> Model:
    def run(x: Array) -> Array:
        if when(x):
            raise InvalidInput("refused")
        return model(x)

    return run


def test_a_model_that_refuses_loud_rows_is_judged_by_the_others() -> None:
    assert probe(refusing(linear, lambda x: bool(np.abs(x).max() > 10))) == set()
    assert probe(refusing(normalised, lambda x: bool(np.abs(x).max() > 10))) == {"y"}


def test_a_loud_row_that_is_refused_in_company_only_is_a_dependency() -> None:
    assert probe(refusing(linear, lambda x: bool(np.abs(x).max() > 10) and len(x) > 1)) == {"y", "same"}


def test_a_model_without_room_for_one_row_is_probed_with_two() -> None:
    assert probe(refusing(linear, lambda x: len(x) == 1)) == set()
    assert probe(refusing(normalised, lambda x: len(x) == 1)) == {"y"}


def test_where_made_up_rows_are_refused_nothing_is_known() -> None:
    with pytest.raises(InvalidInput):
        probe(refusing(linear, lambda _: True))


def test_what_is_not_the_rows_fault_is_not_swallowed() -> None:
    def broken(x: Array) -> Array:
        raise OSError("the device is gone")

    with pytest.raises(OSError, match="gone"):
        probe(broken)
