"""What sentence-transformers' files say, in their old form and in the new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workflows.errors import ModelNotFound, WorkflowError
from workflows.inference.sentence_files import SentenceSettings, read_sentence_settings


def write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


def steps(*kinds: str, **paths: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, "")} for kind in kinds]


def test_a_plain_transformers_model(tmp_path: Path) -> None:
    assert read_sentence_settings(tmp_path) == SentenceSettings(tmp_path)


def test_the_old_form(tmp_path: Path) -> None:
    modules = steps("Transformer", "Pooling", "Normalize", Pooling="1_Pooling", Normalize="2_Normalize")
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": True},
    }
    expected = SentenceSettings(tmp_path, "cls", normalize=True, max_tokens=256, lower_case=True)
    assert read_sentence_settings(write(tmp_path, files)) == expected


def test_the_new_form(tmp_path: Path) -> None:
    files = {
        "modules.json": steps("Transformer", "Pooling", Transformer="0_Transformer", Pooling="1_Pooling"),
        "0_Transformer/sentence_bert_config.json": {"max_seq_length": 99},
        "1_Pooling/config.json": {"embedding_dimension": 4, "pooling_mode": "lasttoken", "include_prompt": True},
        "config_sentence_transformers.json": {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
    }
    settings = read_sentence_settings(write(tmp_path, files))
    assert settings == SentenceSettings(
        tmp_path / "0_Transformer",
        "lasttoken",
        normalize=False,
        max_tokens=99,
        prompt="query: ",
        prompts={"query": "query: "},
    )


@pytest.mark.parametrize(
    "files",
    [
        {"modules.json": steps("Transformer", "Dense", Dense="2_Dense")},
        {"modules.json": steps("Pooling", Pooling="p"), "p/config.json": {"pooling_mode": ["mean", "max"]}},
        {"modules.json": steps("Pooling", Pooling="p"), "p/config.json": {"pooling_mode": "median"}},
        {"modules.json": steps("Pooling", Pooling="p"), "p/config.json": {"include_prompt": False}},
    ],
)
def test_a_step_that_is_not_known_is_refused_rather_than_left_out(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError, match="not supported"):
        read_sentence_settings(write(tmp_path, files))


def test_a_step_outside_of_the_model_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"outside/config.json": {"pooling_mode": "cls"}})
    inside = write(tmp_path / "model", {"modules.json": steps("Pooling", Pooling="../outside")})
    with pytest.raises(ModelNotFound):
        read_sentence_settings(inside)
