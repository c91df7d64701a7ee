"""The error tree: every type keeps every field on its way through pickle and over the wire."""

from __future__ import annotations

import pickle

import pytest

from workflows import errors
from workflows.errors import (
    InvalidInput,
    NotReady,
    Overloaded,
    ReplicaLost,
    Unsupported,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
    error_types,
)
from workflows.plain_error import decode_error, encode_error

FIELDS = [
    {"param": None, "retry_after_s": None, "may_have_run": False},
    {"param": "inputs.x", "retry_after_s": 2.5, "may_have_run": True},
]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("kind", error_types())
def test_every_error_survives_pickle_and_wire(kind: type[WorkflowError], fields: dict[str, object]) -> None:
    error = kind("what went wrong", **fields)  # type: ignore[arg-type]
    for back in (pickle.loads(pickle.dumps(error)), decode_error(encode_error(error))):
        assert type(back) is kind
        assert (back.message, back.code) == ("what went wrong", kind.code)
        assert {name: getattr(back, name) for name in fields} == fields
        assert str(back) == "what went wrong"


def test_the_tree_is_complete_and_public() -> None:
    kinds = error_types()
    assert kinds[0] is WorkflowError
    assert {kind.__name__ for kind in kinds} == set(errors.__all__) - {"error_types"}
    assert {kind.__name__ for kind in kinds} <= {name for name in dir(errors) if not name.startswith("_")}
    assert len({kind.__name__ for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", error_types())
def test_every_error_has_a_code_and_something_to_say(kind: type[WorkflowError]) -> None:
    assert kind.code
    assert kind().message == kind.default_message
    assert kind("").message


def test_only_errors_that_pass_by_themselves_say_when_to_come_back() -> None:
    assert {kind.__name__ for kind in error_types() if kind().retryable} == {
        "RateLimited",
        "Overloaded",
        "ReplicaLost",
        "NotReady",
    }
    assert not NotReady(retry_after_s=None).retryable


def test_more_special_errors_can_be_caught_as_the_general_one() -> None:
    assert issubclass(Unsupported, InvalidInput)
    assert issubclass(ReplicaLost, Overloaded)
    assert issubclass(UpstreamSilent, UpstreamFailed)


def test_a_message_is_cut_at_512_characters() -> None:
    assert len(WorkflowError("x" * 10_000).message) == 512


class _Loud:
    """Stands before the error in the order of resolution."""


class OwnError(_Loud, InvalidInput):
    """What a user's workflow may raise."""


def test_an_error_of_a_workflows_own_arrives_as_the_nearest_known_type() -> None:
    back = decode_error(encode_error(OwnError("mine", param="p")))
    assert type(back) is InvalidInput
    assert (back.message, back.param) == ("mine", "p")


def test_an_unknown_code_from_the_wire_is_an_internal_error() -> None:
    assert type(decode_error(("FromTheFuture", "m", None, None, False))) is WorkflowError
