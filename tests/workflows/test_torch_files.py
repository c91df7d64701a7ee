"""Which model files TorchInferenceWorkflow loads, which it refuses, and what it says then."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.workflows.torch_models import (
    Affine,
    Odd,
    Tied,
    X,
    exported,
    of_class,
    of_file,
    pin,
    result,
    rows,
    save,
    scripted,
)
from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.types import Tensors


class Canary:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def zip_pickle(payload: object, path: Path) -> None:
    torch.save(payload, path)


def plain_pickle(payload: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload))


def text_pickle(payload: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=0))


def old_pickle(payload: object, path: Path) -> None:
    torch.save(payload, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [zip_pickle, plain_pickle, text_pickle, old_pickle])
@pytest.mark.parametrize("option", ["model", "weights"])
def test_pickles_are_refused_and_never_opened(
    tmp_path: Path, write: Callable[[object, Path], None], option: str
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "innocent.safetensors"
    write(Canary(canary), path)
    options: dict[str, Any] = {option: path.name, "root": str(tmp_path), "sha256": pin(path)}
    if option == "weights":
        options["module"] = "tests.workflows.torch_models:Affine"
    workflow = TorchInferenceWorkflow(**options)
    with pytest.raises(InvalidInput, match=r"is a pickle.*never loaded here.*save_file") as caught:
        workflow.setup()
    assert caught.value.param == option
    assert str(tmp_path) not in caught.value.message
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["torchscript", "exported"])
def test_files_that_are_code_must_be_pinned(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    if kind == "torchscript":
        scripted(Affine(), path)
    else:
        exported(Affine(), path, torch.zeros(2, 4))
    with pytest.raises(InvalidInput, match="set the option sha256 to what `sha256sum FILE` prints") as caught:
        of_file(path).setup()
    assert caught.value.param == "sha256"
    assert str(tmp_path) not in caught.value.message
    with pytest.raises(InvalidInput, match="not the pinned one"):
        of_file(path, sha256="0" * 64).setup()
    good = pin(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InvalidInput, match="not the pinned one"):
        of_file(path, sha256=good).setup()


def test_pinned_weights_are_compared_too(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Affine, sha256="1" * 64)
    with pytest.raises(InvalidInput, match="not the pinned one"):
        workflow.setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either"),
        ({"model": "x", "module": "a:B", "weights": "y"}, "either"),
        ({"module": "a:B"}, "either"),
        ({"model": "x", "sha256": "abc"}, "64 hex digits"),
        ({"model": "x", "output_names": []}, "at least one output"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TorchInferenceWorkflow(**options)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"module": "absent.module:Affine"}, "cannot import"),
        ({"module": "tests.workflows.torch_models"}, "cannot import"),
        ({"module": "pathlib:Path"}, "is not a torch.nn.Module"),
        ({"module_options": {"height": 3}}, "does not take these options"),
        ({"module_options": {"width": 5}}, "other shapes"),
        (
            {"module": "tests.workflows.torch_models:Tied"},
            r"2 missing \(first.weight, second.weight\) and 2 unknown \(layer.bias, layer.weight\)",
        ),
        ({"weights": "absent.safetensors"}, "does not exist"),
        ({"weights": "../weights.safetensors"}, "leaves its root"),
        ({"inputs": [{"name": "y", "dtype": "float32", "shape": [-1, 4]}]}, "forward takes no input 'y'"),
        ({"inputs": [{"name": "x", "dtype": "string", "shape": [-1, 4]}]}, "no dtype"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 5]}]}, "failed on its warm-up"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [2, 4]}], "batch": True}, "no free leading axis"),
    ],
)
def test_setup_says_what_is_wrong(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    save(Affine(), tmp_path / "weights.safetensors")
    options: dict[str, Any] = {
        "module": "tests.workflows.torch_models:Affine",
        "weights": "weights.safetensors",
        "root": str(tmp_path),
        **more,
    }
    workflow = TorchInferenceWorkflow(**options)
    with pytest.raises(WorkflowError, match=message) as caught:
        workflow.setup()
    assert str(tmp_path) not in caught.value.message
    assert not workflow.is_setup


def test_a_model_that_is_no_model(tmp_path: Path) -> None:
    save(Affine(), tmp_path / "weights")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "half").write_bytes(b"PK\x03\x04broken")
    for name, message in (("weights", "weights only"), ("text", "neither"), ("half", "neither")):
        with pytest.raises(InvalidInput, match=message):
            of_file(tmp_path / name).setup()
    damaged = bytearray((tmp_path / "weights").read_bytes())
    damaged[9:20] = b"x" * 11
    (tmp_path / "damaged").write_bytes(damaged)
    workflow = TorchInferenceWorkflow(
        module="tests.workflows.torch_models:Affine", weights="damaged", root=str(tmp_path)
    )
    with pytest.raises(WorkflowError, match="damaged"):
        workflow.setup()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelNotFound):
        of_file(tmp_path / "folder").setup()


def test_shared_weights_may_be_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tied()
    safetensors.torch.save_file({"first.weight": module.first.weight.detach()}, tmp_path / "weights.safetensors")
    workflow = TorchInferenceWorkflow(
        module="tests.workflows.torch_models:Tied", weights="weights.safetensors", root=str(tmp_path)
    )
    answer = result(workflow.setup().inference(Tensors(inputs={"x": rows(2)})))
    np.testing.assert_allclose(answer, module(torch.from_numpy(rows(2))).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("option", [{"inputs": X}, {"dtype": "float16"}, {"input_names": ["x"]}])
def test_an_exported_program_brings_its_own(tmp_path: Path, option: dict[str, Any]) -> None:
    path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(2, 4))
    with pytest.raises(InvalidInput, match="brings its own"):
        of_file(path, sha256=pin(path), **option).setup()


def test_exported_outputs_get_names(tmp_path: Path) -> None:
    path = exported(Odd("tuple"), tmp_path / "x.pt2", torch.zeros(2, 4), dims=({0: torch.export.Dim("b")},))
    workflow = of_file(path, sha256=pin(path), output_names=["same", "best"]).setup()
    check = workflow.inference(Tensors(inputs={"x": rows(3)}, outputs=["best", "same"]))
    assert list(check.outputs) == ["best", "same"]
    with pytest.raises(InvalidInput, match="gave 2 outputs, and 1 are named"):
        of_file(path, sha256=pin(path), output_names=["same"]).setup()
