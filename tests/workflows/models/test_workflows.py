"""Workflows that are set up by a model's id: the model comes from a hub, and nothing of it runs that must not."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import workflows.demo
from tests.workflows.models.fake_hub import FakeHub, File
from tests.workflows.models.graphs import adds, model, tensor
from tests.workflows.models.payloads import PAYLOADS, Canary
from tests.workflows.tiny_transformers import save_tiny_bert
from tests.workflows.torch_models import Affine, X, exported, pin, scripted
from workflows.base import BaseInferenceWorkflow
from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.inference.embedding import EmbeddingWorkflow
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.models.sources import ModelSources

ID = "huggingface/acme/model"


@pytest.fixture
def sources(settings: dict[str, Any]) -> ModelSources:
    return ModelSources.model_validate(settings)


def added(workflow: ONNXInferenceWorkflow) -> list[float]:
    found: list[float] = workflow.inference({"inputs": {"x": np.zeros(2, np.float32)}}).outputs["y"].tolist()
    return found


@pytest.mark.parametrize("text", [ID, f"{ID}:model.onnx", f"{ID}/main:model.onnx"])
def test_a_graph_by_its_id(hub: FakeHub, sources: ModelSources, text: str) -> None:
    hub.push("acme/model", {"model.onnx": adds(7), "other.onnx": adds(8), "README.md": b"#"})
    workflow = ONNXInferenceWorkflow(text, sources=sources)
    workflow.check_files()
    assert hub.seen == []
    assert added(workflow.setup()) == [7, 7]


def test_a_graph_must_be_told_apart(hub: FakeHub, sources: ModelSources) -> None:
    hub.push("acme/model", {"a.onnx": adds(1), "b.onnx": adds(2)})
    with pytest.raises(InvalidInput, match="has 2 graphs: name the file"):
        ONNXInferenceWorkflow(ID, sources=sources).setup()
    assert added(ONNXInferenceWorkflow(f"{ID}:b.onnx", sources=sources).setup()) == [2, 2]
    with pytest.raises(ModelNotFound):
        ONNXInferenceWorkflow(f"{ID}:c.onnx", sources=sources).setup()


def test_external_data_come_along_and_stay_inside(hub: FakeHub, sources: ModelSources) -> None:
    graph = model(tensor("m.onnx_data")).SerializeToString()
    data = np.arange(4, dtype=np.float32).tobytes()
    hub.push("acme/model", {"m.onnx": graph, "m.onnx_data": data})
    workflow = ONNXInferenceWorkflow(ID, sources=sources).setup()
    assert workflow.inference({"inputs": {"x": np.zeros(4, np.float32)}}).outputs["y"].tolist() == [0, 1, 2, 3]
    hub.push("acme/bad", {"m.onnx": graph.replace(b"m.onnx_data", b"../../../s/")})
    with pytest.raises(InvalidInput, match="external data that leaves"):
        ONNXInferenceWorkflow("huggingface/acme/bad", sources=sources).setup()


def test_weights_of_a_module_by_their_id(hub: FakeHub, sources: ModelSources) -> None:
    module = Affine().eval()
    hub.push("acme/model", {"model.safetensors": safetensors.torch.save(module.state_dict())})
    workflow = TorchInferenceWorkflow(
        module="tests.workflows.torch_models:Affine", weights=f"{ID}:model.safetensors", sources=sources
    )
    x = np.ones((3, 4), np.float32)
    answer = workflow.setup().inference({"inputs": {"x": x}}).outputs
    np.testing.assert_allclose(next(iter(answer.values())), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-5)


def test_a_program_needs_a_hash_that_the_operator_knows(hub: FakeHub, settings: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(2, 4),)), content)
    hub.push("acme/model", {"model.pt2": content.getvalue()})
    text = f"{ID}:model.pt2"
    with pytest.raises(InvalidInput, match="not kept"):
        TorchInferenceWorkflow(model=text, sources=ModelSources.model_validate(settings)).setup()
    settings["code_sha256"] = [hashlib.sha256(content.getvalue()).hexdigest()]
    workflow = TorchInferenceWorkflow(model=text, sources=ModelSources.model_validate(settings)).setup()
    assert workflow.inference({"inputs": {"input": np.zeros((2, 4), np.float32)}}).outputs
    settings["code_sha256"] = []  # it is in the cache now, and still needs one
    with pytest.raises(InvalidInput, match="must be pinned"):
        TorchInferenceWorkflow(model=text, sources=ModelSources.model_validate(settings)).setup()


@pytest.mark.parametrize("form", ["exported", "torchscript"])
def test_a_program_by_its_id_and_its_hash(hub: FakeHub, sources: ModelSources, tmp_path: Path, form: str) -> None:
    module, path = Affine(), tmp_path / "program"
    if form == "exported":
        exported(module, path, torch.zeros(2, 4))
    else:
        scripted(module, path)
    hub.push("acme/model", {"model.bin": path.read_bytes()})

    def made(sha256: str) -> TorchInferenceWorkflow:
        inputs = X if form == "torchscript" else None
        return TorchInferenceWorkflow(model=f"{ID}:model.bin", sources=sources, sha256=sha256, inputs=inputs)

    with pytest.raises(InvalidInput, match="not kept"):
        made("0" * 64).setup()
    x = np.ones((2, 4), np.float32)
    (answer,) = made(pin(path).upper()).setup().inference({"inputs": {"x": x}}).outputs.values()
    np.testing.assert_allclose(answer, module(torch.from_numpy(x)).detach().numpy(), rtol=1e-5)
    with pytest.raises(InvalidInput, match="not the pinned one"):
        made("0" * 64).setup()


def test_sentence_embeddings_by_an_id(hub: FakeHub, sources: ModelSources) -> None:
    directory = sources.cache.parent / "made"
    save_tiny_bert(directory)
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    hub.push("acme/model", {name: File(content, lfs=name.endswith("safetensors")) for name, content in files.items()})
    hub.repos["acme/model"][hub.branches["acme/model", "main"]]["pytorch_model.bin"] = File(b"never asked for")
    workflow = EmbeddingWorkflow(ID, sources=sources).setup()
    assert np.isfinite(workflow.inference({"text": "hello"}).embedding).all()
    assert workflow.card("w").model == ID
    assert hub.count("pytorch_model.bin") == 0


@pytest.mark.parametrize(("name", "make"), [pytest.param(name, make, id=name) for name, _, make in PAYLOADS])
def test_no_workflow_runs_what_runs_code(tmp_path: Path, name: str, make: Any) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.safetensors"
    path.write_bytes(make(Canary(canary)))
    shutil.copy(path, tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    setups: list[BaseInferenceWorkflow[Any, Any, Any]] = [
        ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)),
        TorchInferenceWorkflow(model="model.safetensors", root=str(tmp_path)),
        TorchInferenceWorkflow(
            module="tests.workflows.torch_models:Affine", weights="model.safetensors", root=str(tmp_path)
        ),
        EmbeddingWorkflow(str(tmp_path)),
    ]
    for workflow in setups:
        with pytest.raises(WorkflowError, match=r"never loaded here|must be pinned|must be a safetensors|is neither"):
            workflow.setup()
    assert not canary.exists()


def test_the_demos_models_still_load_as_before() -> None:
    workflow = ONNXInferenceWorkflow("digits.onnx", root="package:workflows.demo").setup()
    assert workflow.name() == "digits.onnx"
    assert Path(workflows.demo.__path__[0]).is_dir()


def test_a_language_model_by_its_id(hub: FakeHub, sources: ModelSources) -> None:
    folder = Path(workflows.demo.__file__).parent / "tiny_gpt"
    hub.push("acme/model", {file.name: file.read_bytes() for file in folder.iterdir()})
    asked = {"prompt": "The for statement", "sampling": {"max_tokens": 6, "temperature": 0}}
    workflow = TransformersTextGenerationWorkflow(ID, sources=sources, threads=1)
    workflow.check_files()
    assert hub.seen == []
    workflow.setup()
    try:
        assert workflow.inference(asked).text == " is used to be used as"
        assert workflow.card("it").model == ID
    finally:
        workflow.teardown()
