"""The configuration models: closed, bounded, and safe by default."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.config import GrpcArgs, Limits, RouterArgs, RouterSettings, WorkflowArgs, WorkflowSettings

GOOD: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (WorkflowArgs, {"workflow": "workflows.ONNXInferenceWorkflow"}),
    (WorkflowSettings, {}),
    (Limits, {}),
    (RouterArgs, {}),
    (RouterSettings, {}),
]


@pytest.mark.parametrize(("model", "values"), GOOD)
def test_an_unknown_key_is_an_error(model: type[BaseModel], values: dict[str, Any]) -> None:
    model.model_validate(values)
    with pytest.raises(ValidationError) as wrong:
        model.model_validate({**values, "enable_magic": True})
    assert [(error["loc"], error["type"]) for error in wrong.value.errors()] == [(("enable_magic",), "extra_forbidden")]


def test_the_defaults_are_safe() -> None:
    args = RouterArgs()
    assert (args.host, args.port, args.listen) == ("127.0.0.1", 8000, "own")
    assert args.limits == Limits()


@pytest.mark.parametrize(
    ("model", "values", "where"),
    [
        (WorkflowArgs, {"workflow": "NoModule"}, "workflow"),
        (WorkflowArgs, {"workflow": "os; import sys.X"}, "workflow"),
        (WorkflowArgs, {"workflow": "a.B", "aliases": ["has space"]}, "aliases"),
        (WorkflowArgs, {"workflow": "a.B", "aliases": ["one/two/three"]}, "aliases"),
        (WorkflowArgs, {"workflow": "a.B", "aliases": ["../etc"]}, "aliases"),
        (WorkflowArgs, {"workflow": "a.B", "setup_timeout_s": 0}, "setup_timeout_s"),
        (WorkflowSettings, {"max_queue": 0}, "max_queue"),
        (WorkflowSettings, {"max_streams": -1}, "max_streams"),
        (WorkflowSettings, {"batching": {"max_size": 0}}, "batching"),
        (WorkflowSettings, {"batching": {"max_sise": 1}}, "batching"),
        (WorkflowSettings, {"batching": {"max_wait_s": float("nan")}}, "batching"),
        (RouterArgs, {"port": 65536}, "port"),
        (RouterArgs, {"listen": "both"}, "listen"),
        (RouterArgs, {"limits": {"max_body_bytes": 0}}, "limits"),
        (RouterSettings, {"max_queue": 0}, "max_queue"),
    ],
)
def test_a_value_out_of_bounds_is_named(model: type[BaseModel], values: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        model.model_validate(values)
    assert {error["loc"][0] for error in wrong.value.errors()} == {where}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_outside_hosts_need_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="reachable from outside"):
        RouterArgs(host=host)
    RouterArgs(host=host, keys_env="KEYS")
    RouterArgs(host=host, keys_file="keys.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert RouterArgs(host=host).keys_file is None


def test_settings_cannot_be_changed_by_whoever_reads_them() -> None:
    with pytest.raises(ValidationError):
        RouterArgs().port = 1


def test_behind_serve_there_is_no_grpc() -> None:
    assert RouterArgs().grpc == GrpcArgs(port=9000)
    assert RouterArgs.model_validate({"grpc": None}).grpc is None
    behind = RouterArgs.model_validate({"listen": "serve"})
    assert behind.grpc is None
    assert RouterArgs.model_validate(behind.model_dump()) == behind
    with pytest.raises(ValidationError, match="grpc: needs listen: own"):
        RouterArgs.model_validate({"listen": "serve", "grpc": {}})


def test_one_port_is_not_for_two() -> None:
    with pytest.raises(ValidationError, match=r"grpc\.port: port 8000 is the router's own for HTTP"):
        RouterArgs.model_validate({"grpc": {"port": 8000}})
    RouterArgs.model_validate({"port": 0, "grpc": {"port": 0}})
