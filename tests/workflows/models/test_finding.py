"""Options that name a model: ids and paths are told apart, and settings come from the option, a file or the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.workflows.models.fake_hub import FakeHub
from workflows.errors import InvalidInput, ModelNotFound
from workflows.models.finding import check_model, resolve_model, store_of
from workflows.models.records import ModelsLock
from workflows.models.ref import parse_ref
from workflows.models.sources import ModelSources, sources_of


def test_paths_and_ids(hub: FakeHub, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("acme/digits", {"m.onnx": b"m", "config.json": b"{}"})
    sources = ModelSources.model_validate(settings)
    (tmp_path / "huggingface" / "acme").mkdir(parents=True)
    (tmp_path / "huggingface" / "acme" / "digits").write_bytes(b"a path")
    path = tmp_path / "huggingface" / "acme" / "digits"
    monkeypatch.chdir(tmp_path)
    assert resolve_model("huggingface/acme/digits", tmp_path, sources) == path
    assert resolve_model("./huggingface/acme/digits", None, sources).samefile(path)
    assert resolve_model(path) == path
    assert resolve_model("huggingface/acme/digits", None, sources).name == next(iter(hub.repos["acme/digits"]))
    assert resolve_model("huggingface/acme/digits:m.onnx", sources=sources).read_bytes() == b"m"
    with pytest.raises(ModelNotFound, match="does not exist"):
        resolve_model("local/acme/digits", None, sources)  # without roots there are no local ids
    for wrong in ("huggingface/acme", "huggingface/acme/../digits"):
        with pytest.raises(InvalidInput, match="storage/owner/name"):
            resolve_model(wrong, None, sources)
    assert store_of(sources) is store_of(ModelSources.model_validate(settings))


def test_what_can_never_load_is_found_without_a_connection(
    hub: FakeHub, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"storages": {"web": "https://models.example.com"}, "roots": [str(tmp_path)]}
    sources = ModelSources.model_validate(settings)
    check_model("huggingface/acme/digits", None, sources)
    for model, error in (
        ("huggingface/acme", InvalidInput),
        ("web/acme/digits", InvalidInput),
        ("absent.onnx", ModelNotFound),
        ("local/acme/digits", ModelNotFound),
    ):
        with pytest.raises(error):
            check_model(model, None, sources)
    ModelsLock().write(tmp_path / "models.lock")
    with pytest.raises(ModelNotFound, match="is not in models"):
        check_model("huggingface/acme/digits", None, sources.model_copy(update={"lock": tmp_path / "models.lock"}))
    with pytest.raises(InvalidInput, match="cannot be read"):
        check_model("huggingface/acme/digits", None, sources.model_copy(update={"lock": tmp_path / "absent.lock"}))
    assert hub.seen == []


def test_settings_come_from_the_option_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFERNET_MODELS", raising=False)
    assert sources_of(None) == ModelSources()
    (tmp_path / "one.yaml").write_text("parallel: 1\n")
    (tmp_path / "two.yaml").write_text("parallel: 2\n")
    (tmp_path / "empty.yaml").write_text("")
    monkeypatch.setenv("INFERNET_MODELS", str(tmp_path / "one.yaml"))
    assert sources_of(None).parallel == 1
    assert sources_of(str(tmp_path / "two.yaml")).parallel == 2
    assert sources_of(ModelSources(parallel=3)).parallel == 3
    assert sources_of(str(tmp_path / "empty.yaml")) == ModelSources()


@pytest.mark.parametrize("text", ["[", "a: b: c", "- 1", "parallell: 1", "parallel: 0", "\x00", "storages: {s3: 'x'}"])
def test_a_file_that_is_wrong(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.yaml").write_text(text)
    for path in ("sources.yaml", "absent.yaml"):
        with pytest.raises(InvalidInput, match="model sources") as caught:
            sources_of(str(tmp_path / path))
        assert caught.value.param == "sources"
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    "wrong",
    [
        {"storages": {"huggingface": "https://x.example"}},
        {"storages": {"local": "https://x.example"}},
        {"storages": {"S3": "s3://bucket"}},
        {"storages": {"web": "http://x.example"}},
        {"storages": {"web": "https://user:secret@x.example"}},
        {"storages": {"web": "https://x.example?key=secret"}},
        {"storages": {"web": "file:///etc"}},
        {"storages": {"web": "ftp://x.example"}},
        {"endpoint": "http://x.example"},
        {"endpoint": "http://ok.example@127.0.0.1"},
        {"code_sha256": ["abc"]},
        {"max_file_bytes": 10, "max_model_bytes": 9},
        {"tokn": "x"},
    ],
)
def test_settings_that_are_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSources.model_validate(wrong)


def test_a_models_own_id_is_the_only_way_to_name_it() -> None:
    assert str(parse_ref("huggingface/a/b/v1:x")) == "huggingface/a/b@v1:x"
