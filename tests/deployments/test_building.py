"""From import path and options to a workflow: what is wrong is named before anything is built."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from deployments.building import ConfigError, build_workflow, check_workflow, imported, workflow_class
from deployments.config import WorkflowArgs
from tests.deployments.configured import Configured, Place, Plain, Unresolved

HERE = "tests.deployments.configured"


def build(name: str, **options: Any) -> Any:
    return build_workflow(WorkflowArgs(workflow=f"{HERE}.{name}", options=options))


@pytest.mark.parametrize("path", [f"{HERE}.Plain", f"{HERE}:Plain"])
def test_both_spellings_of_a_path_work(path: str) -> None:
    assert workflow_class(path) is Plain


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("no_such_module.Plain", "cannot import"),
        (f"{HERE}.Missing", "cannot import"),
        (f"{HERE}.NotAWorkflow", "is not a BaseInferenceWorkflow"),
        (f"{HERE}.__all__", "is not a BaseInferenceWorkflow"),
        ("tests.deployments.fails_on_import.Plain", "RuntimeError: no such device"),
        ("tests.deployments.exits_on_import.Plain", "SystemExit: no licence"),
        ("misspelled_module.Plain", "SyntaxError: "),
    ],
)
def test_a_path_that_leads_nowhere_is_named(
    path: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "misspelled_module.py").write_text("class Plain:\n    def\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=complaint) as wrong:
        workflow_class(path)
    assert str(wrong.value).startswith("args.workflow: ")
    assert path in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_options_arrive_as_the_constructors_own_types() -> None:
    built = build("Configured", size=3, place={"x": 1}, copy=True, model_dump="m", _private=2, anything=[1])
    assert isinstance(built, Configured)
    assert built.given == (3, Place(x=1), None, True, "m", 2, [1])
    assert not built.is_setup


@pytest.mark.parametrize(
    ("options", "complaints"),
    [
        ({}, ["args.options.size: Field required"]),
        ({"size": 0}, ["args.options.size: Input should be greater than or equal to 1"]),
        ({"size": "many"}, ["args.options.size: Input should be a valid integer"]),
        ({"size": 1, "sise": 2}, ["args.options.sise: unknown key"]),
        ({"size": 1, "option_0": 2}, ["args.options.option_0: unknown key"]),
        ({"size": 1, "place": {"y": 2}}, ["args.options.place.y: unknown key"]),
        ({"size": 1, "names": ["a", 2]}, ["args.options.names.1: Input should be a valid string"]),
        ({"nmaes": [], "copy": "maybe"}, ["args.options.size", "args.options.copy", "args.options.nmaes: unknown key"]),
    ],
)
def test_every_wrong_option_is_named_with_its_path(options: dict[str, Any], complaints: list[str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        build("Configured", **options)
    assert len(wrong.value.complaints) == len(complaints)
    for found, expected in zip(wrong.value.complaints, complaints, strict=True):
        assert found.startswith(expected)


def test_a_workflow_without_a_constructor_takes_no_options() -> None:
    assert isinstance(build("Plain"), Plain)
    with pytest.raises(ConfigError, match=r"args\.options\.size: unknown key"):
        build("Plain", size=1)


def test_annotations_that_cannot_be_resolved_are_not_checked() -> None:
    built = build("Unresolved", what="anything", size=2)
    assert isinstance(built, Unresolved)
    assert built.given == ("anything", 2)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "options: model 'x' does not exist"),
        ("key", "KeyError: 'no; such"),
        ("exit", "SystemExit: 3"),
        ("assert", "AssertionError"),
    ],
)
def test_what_the_constructor_itself_refuses_is_one_line(how: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as wrong:
        build("Picky", how=how)
    assert len(wrong.value.complaints) == 1
    assert "\n" not in str(wrong.value)


def test_an_annotation_that_makes_no_sense_is_one_line_or_not_checked() -> None:
    assert build("Misspelled", size="anything").given == "anything"
    with pytest.raises(ConfigError, match=r"^args\.options: ") as wrong:
        build("Odd", size=1)
    assert "\n" not in str(wrong.value)


def test_the_value_of_a_wrong_option_is_not_in_the_traceback() -> None:
    token = "canary"
    with pytest.raises(ConfigError) as wrong:
        build("Configured", size=1, api_token=token)
    assert token not in "".join(traceback.format_exception(wrong.value))


DEMO = "package:workflows.demo"
TORCH = {"module": "workflows.demo.digits:DigitsNet", "weights": "digits.safetensors"}


@pytest.mark.parametrize(
    ("workflow", "options"),
    [
        ("ONNXInferenceWorkflow", {"model": "digits.onnx"}),
        ("TorchInferenceWorkflow", TORCH),
        ("TransformersTextGenerationWorkflow", {"model": "tiny_gpt"}),
        ("EmbeddingWorkflow", {"model": "tiny_gpt"}),  # whose content nobody looks at before it is loaded
    ],
)
def test_a_missing_model_or_root_is_found_without_loading_anything(workflow: str, options: dict[str, Any]) -> None:
    def check(**changed: Any) -> None:
        check_workflow(WorkflowArgs(workflow=f"workflows.{workflow}", options={"root": DEMO, **options, **changed}))

    check()
    file = "weights" if "weights" in options else "model"
    with pytest.raises(ConfigError, match=r"^args\.options: model 'nope' does not exist under its root$"):
        check(**{file: "nope"})
    with pytest.raises(ConfigError, match=r"^args\.options: package 'nope' is not installed$"):
        check(root="package:nope")
    with pytest.raises(ConfigError, match=r"^args\.options: model .* does not exist under its root$"):
        check(root="/nope")


def test_a_directory_is_no_onnx_model() -> None:
    options = {"root": DEMO, "model": "tiny_gpt"}
    with pytest.raises(ConfigError, match="is not a regular file"):
        check_workflow(WorkflowArgs(workflow="workflows.ONNXInferenceWorkflow", options=options))


def test_a_workflow_that_names_no_files_passes() -> None:
    check_workflow(WorkflowArgs(workflow=f"{HERE}.Plain"))


def test_what_cannot_be_imported_is_named_by_its_key() -> None:
    assert imported(f"{HERE}:Plain", "here") is Plain
    with pytest.raises(ConfigError, match=r"^here: cannot import 'no_such:x': ModuleNotFoundError: "):
        imported("no_such:x", "here")
