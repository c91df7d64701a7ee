"""Keys: minted once, stored as hashes, and a wrong file never opens the door."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from deployments.config import RouterArgs
from deployments.router.keys import ANYONE, Keys, load_keys, mint_key, parse_keys
from deployments.router.refusals import Unauthenticated


def content(**changes: object) -> str:
    _, stored = mint_key("a")
    return json.dumps({"keys": [{**stored.model_dump(), **changes}]})


def test_a_minted_key_opens_and_its_secret_is_not_stored() -> None:
    secret, stored = mint_key("notebook", workflows=["digits-*"])
    text = yaml.safe_dump({"keys": [stored.model_dump()]})
    assert secret not in text
    assert stored.sha256 == sha256(secret.encode()).hexdigest()
    assert stored.sha256 not in repr(stored)
    found = parse_keys(text).identify({b"x-api-key": secret.encode()}, set())
    assert (found.id, found.role) == ("notebook", "user")
    assert found.may_use("digits-onnx")
    assert not found.may_use("tiny-gpt")


def test_minted_keys_differ_and_are_long() -> None:
    secrets = {mint_key("a")[0] for _ in range(50)}
    assert len(secrets) == 50
    assert all(len(secret) >= 43 for secret in secrets)


def test_a_hash_is_no_key() -> None:
    _, stored = mint_key("a")
    with pytest.raises(Unauthenticated):
        Keys([stored]).identify({b"x-api-key": stored.sha256.encode()}, set())
    with pytest.raises(Unauthenticated):
        Keys([ANYONE]).identify({}, set())


def test_without_keys_everybody_is_an_operator() -> None:
    assert not Keys()
    assert Keys().identify({}, set()).role == "operator"
    assert Keys().identify({}, set()).may_use("anything")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "keys: []",
        "keys: [a",
        "!!python/object/apply:os.system ['true']",
        content(id="a b"),
        content(role="admin"),
        content(sha256="abc"),
        content(key="isk-secret"),
        content(workflows="*"),
        content(workflows=[""]),
        json.dumps({"keys": json.loads(content())["keys"] * 2}),
    ],
)
def test_a_wrong_file_is_one_line_that_shows_no_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"^API keys: ") as wrong:
        parse_keys(text)
    assert "\n" not in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_keys_come_from_a_file_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(content())
    monkeypatch.setenv("OUR_KEYS", content())
    assert load_keys(RouterArgs(keys_file=str(file)))
    assert load_keys(RouterArgs(keys_env="OUR_KEYS"))
    assert not load_keys(RouterArgs())


def test_what_is_configured_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    for args in (
        RouterArgs(keys_file=str(tmp_path / "none")),
        RouterArgs(keys_env="NOT_SET_ANYWHERE"),
        RouterArgs(keys_env="EMPTY"),
        RouterArgs(keys_file="a", keys_env="b"),
    ):
        with pytest.raises(ValueError, match=r"^API keys: "):
            load_keys(args)
