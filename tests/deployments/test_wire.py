"""The plain form: what crosses to a replica comes back equal, and nothing but plain data crosses."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pytest

from deployments.client import Item, Outcome, Timing
from deployments.wire import decode_item, decode_outcome, encode_item, encode_outcome
from tests.bits import EVERY_BFLOAT16
from workflows import CallContext
from workflows.errors import InvalidInput, NotReady, Overloaded, ReplicaLost, WorkflowError, error_types
from workflows.plain_error import decode_error, encode_error
from workflows.tensors import BFLOAT16


def crossed(value: Any) -> Any:
    """As Ray would carry it."""
    return pickle.loads(pickle.dumps(value))


TREE = [kind for kind in error_types() if kind.__module__ == WorkflowError.__module__]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_comes_back_as_itself(kind: type[WorkflowError]) -> None:
    error = kind("what happened", param="field", retry_after_s=2.5, may_have_run=True)
    back = decode_error(crossed(encode_error(error)))
    assert type(back) is kind
    assert (back.message, back.param, back.retry_after_s, back.may_have_run) == ("what happened", "field", 2.5, True)


class Aside:
    """A mixin that comes before the error in the order of bases."""


class Ours(Aside, InvalidInput):
    """A workflow's own error, unknown to the router."""


class NamedAlike(WorkflowError):
    code = "invalid"


NamedAlike.__name__ = "NotReady"


class FromWithin(type(NotReady()).__mro__[1]):  # type: ignore[misc]  # the tree's private type between
    """Derives from a type that has no public name."""


@pytest.mark.parametrize(
    ("error", "nearest"),
    [(Ours("x"), InvalidInput), (NamedAlike("x"), WorkflowError), (FromWithin("x"), WorkflowError)],
)
def test_a_workflows_own_error_comes_back_as_its_nearest_known_type(
    error: WorkflowError, nearest: type[WorkflowError]
) -> None:
    back = decode_error(crossed(encode_error(error)))
    assert type(back) is nearest
    assert (back.message, back.retry_after_s) == ("x", error.retry_after_s)


def test_an_error_that_only_a_newer_replica_knows_is_internal() -> None:
    assert type(decode_error(("NewerKind", "x", None, None, False))) is WorkflowError


def test_an_item_keeps_its_call_and_its_deadline_becomes_time_left() -> None:
    call = CallContext("id", None, "key", 3, "session", "00-trace")
    back = decode_item(crossed(encode_item(Item({"a": np.arange(3)}, call))))
    assert back.call == call
    np.testing.assert_array_equal(back.input_data["a"], np.arange(3))
    assert back.call.seconds_left() is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_bfloat16_comes_back_bit_by_bit(protocol: int) -> None:
    item, outcome = Item({"x": EVERY_BFLOAT16}, CallContext("id")), Outcome({"y": EVERY_BFLOAT16[::2]})
    crossed_ = pickle.loads(pickle.dumps((encode_item(item), encode_outcome(outcome)), protocol))
    x, y = decode_item(crossed_[0]).input_data["x"], decode_outcome(crossed_[1]).output["y"]
    assert (x.dtype, x.tobytes()) == (BFLOAT16, EVERY_BFLOAT16.tobytes())
    assert (y.dtype, y.tobytes()) == (BFLOAT16, EVERY_BFLOAT16[::2].tobytes())


def test_time_left_survives_and_clocks_do_not_matter() -> None:
    wire = (1, "id", 5.0, None, 0, None, None, 0.0)
    left = decode_item(wire).call.seconds_left()
    assert left is not None
    assert 4.9 < left <= 5.0
    left = encode_item(decode_item((1, "id", -1.0, None, 0, None, None, 0.0)))[2]
    assert left is not None
    assert left <= -1.0


def test_how_long_an_item_has_waited_survives_and_what_was_never_said_is_now() -> None:
    wire = encode_item(Item(1, CallContext(), time.monotonic() - 5.0))
    assert 5.0 <= wire[7] < 6.0
    told, untold = decode_item(wire), decode_item(encode_item(Item(1, CallContext())))
    now = time.monotonic()
    assert 5.0 <= now - told.since < 6.0
    assert 0.0 <= now - untold.since < 1.0


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome({"value": 1}, None, Timing(0.5, 0.25, 4)),
        Outcome(None, None, Timing()),
    ],
)
def test_an_outcome_comes_back_equal(outcome: Outcome) -> None:
    assert decode_outcome(crossed(encode_outcome(outcome))) == outcome


def test_a_failed_outcome_keeps_its_error_and_timing() -> None:
    back = decode_outcome(crossed(encode_outcome(Outcome(error=ReplicaLost(may_have_run=True), timing=Timing(1.0)))))
    assert isinstance(back.error, ReplicaLost)
    assert isinstance(back.error, Overloaded)
    assert back.error.may_have_run
    assert back.timing == Timing(1.0)
