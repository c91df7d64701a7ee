"""What an operator may say of an upstream, and what becomes of a key."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import InvalidInput, WorkflowError
from workflows.remote.address import address, origin_of
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import READ_AGAIN_S, Secret, SecretRef


@pytest.mark.parametrize(
    "said",
    [
        {"atempts": 2},
        {"attempts": 0},
        {"attempts": 11},
        {"attempts": "2"},
        {"attempts": 2.5},
        {"connect_s": 0},
        {"connect_s": float("nan")},
        {"total_s": float("inf")},
        {"retry_budget": 1.1},
        {"max_concurrent": 1025},
        {"max_waiting": -1},
        {"max_line_bytes": 0},
        {"backoff_s": 9.0, "backoff_max_s": 8.0},
        {"breaker": {"failures": 0}},
        {"breaker": {"opens": 1}},
        {"proxy": "http://user:password@proxy"},
    ],
    ids=json.dumps,
)
def test_a_policy_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        UpstreamPolicy.model_validate(said)


def test_a_policy_is_read_as_yaml_gives_it() -> None:
    policy = UpstreamPolicy.model_validate({"connect_s": 3, "breaker": {"failures": 2}, "proxy": {"env": "PROXY"}})
    assert policy.connect_s == 3
    assert policy.breaker.failures == 2
    assert policy.proxy == SecretRef(env="PROXY")


def test_places_are_those_who_ask_and_those_who_wait() -> None:
    assert UpstreamPolicy(max_concurrent=3, max_waiting=4).places == 7
    assert UpstreamPolicy(max_concurrent=1024, max_waiting=1024).places == 1024


@pytest.mark.parametrize(
    "said",
    [{}, {"env": "A", "file": "b"}, {"env": "A B"}, {"env": ""}, {"value": "sk-1"}, {"file": ""}],
    ids=json.dumps,
)
def test_a_place_of_a_key_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        SecretRef.model_validate(said)
    assert "sk-1" not in str(caught.value)


def test_a_key_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " sk-1 ")
    assert SecretRef(env="A_KEY").read().reveal() == "sk-1"


@pytest.mark.parametrize("content", [b"", b"\n", b"sk-1\r\nHost: evil", b"sk-\xc3\xa9", b"\xff", b"k" * 8193])
def test_what_is_no_key_is_not_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(WorkflowError, match="no key") as caught:
        SecretRef(file=str(tmp_path / "key")).read()
    assert "sk-" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="the variable NO_SUCH_KEY is empty"):
        SecretRef(env="NO_SUCH_KEY").read()
    with pytest.raises(WorkflowError, match="cannot be read: No such file"):
        SecretRef(file=str(tmp_path / "absent")).read()


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret("sk-1")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", str([secret])]
    assert not any("sk-1" in text for text in shown)
    assert not hasattr(secret, "__dict__")
    for carry in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match="stays in the process"):
            carry(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_a_key_is_replaced_while_it_is_in_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock, file = HandClock(), tmp_path / "key"
    file.write_text("sk-1")
    secret = SecretRef(file=str(file)).read(clock)
    file.write_text("sk-2")
    assert secret.reveal() == "sk-1"
    clock.advance(READ_AGAIN_S)
    assert secret.reveal() == "sk-2"
    file.unlink()
    clock.advance(READ_AGAIN_S)
    with caplog.at_level(logging.WARNING):
        assert secret.reveal() == "sk-2"
        assert secret.reveal() == "sk-2"
    assert caplog.text.count("the key from before is used") == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "upstream",
        "//upstream/v1",
        "ftp://upstream",
        "file:///etc/passwd",
        "http://",
        "http://:80",
        "http://user:pw@upstream",
        "http://@upstream",
        "http://upstream/#x",
        "http://upstream/v1?key=sk-1",
        "http://upstream?",
        "http://[",
        "http://[::1",
        "http://upstream:99999",
        "http://upstream:x",
        "http://up stream/",
        "http://upstream\n.example",
        "http://upstre\u0430m",
        "http://-upstream",
        "http://" + "x" * 3000,
    ],
)
def test_what_is_no_address_of_an_upstream(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^server_url: give http") as caught:
        address("server_url", url, None)
    assert caught.value.param == "server_url"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://upstream", ("http", "upstream", 80)),
        ("https://API.upstream.example/v1/", ("https", "api.upstream.example", 443)),
        ("http://127.0.0.1:8080/x", ("http", "127.0.0.1", 8080)),
        ("http://[::1]:8080", ("http", "::1", 8080)),
        ("http://tgi_1.default.svc.cluster.local.", ("http", "tgi_1.default.svc.cluster.local.", 80)),
    ],
)
def test_the_origin_of_an_address(url: str, origin: tuple[str, str, int]) -> None:
    assert address("base_url", url, None) == url.rstrip("/")
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://upstream", True),
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]", True),
        ("http://localhost", True),
        ("http://upstream", False),
        ("http://10.0.0.7", False),
        ("http://[fe80::1]", False),
        ("http://localhost.example", False),
    ],
)
def test_a_key_goes_to_this_machine_or_in_secret(url: str, sent: bool) -> None:
    """Whose address it may be is nobody's business without one."""
    assert address("base_url", url, None) == url
    if sent:
        assert address("base_url", url, SecretRef(env="K")) == url
    else:
        with pytest.raises(InvalidInput, match=r"^base_url: a key would go to .* for everybody to read: use https$"):
            address("base_url", url, SecretRef(env="K"))
