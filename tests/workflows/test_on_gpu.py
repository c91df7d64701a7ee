"""On a GPU: models and inputs land there where one was given, and nowhere else; answers agree with the CPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workflows.tiny_transformers import PROMPT, save_tiny_bert, save_tiny_llama
from tests.workflows.torch_models import Affine, X, affine, exported, of_class, of_file, pin, result, rows, scripted
from workflows.inference.embedding import EmbeddingWorkflow
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.resources import Resources
from workflows.testing import check_workflow
from workflows.types import Embed, Embedding, Generate, Generated, Sampling, Tensors

pytestmark = pytest.mark.gpu

GPU = Resources(gpu_ids=("0",), gpu_ordinals=(0,))


def devices_of(module: Any) -> set[str]:
    return {str(parameter.device) for parameter in module.parameters()}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("source", ["class", "torchscript", "exported"])
def test_torch(tmp_path: Path, source: str, dtype: Any) -> None:
    torch.manual_seed(0)
    if source == "class":
        workflow = of_class(tmp_path, Affine, inputs=X, dtype=dtype)
    elif source == "torchscript":
        path = scripted(Affine(), tmp_path / "x.pt")
        workflow = of_file(path, inputs=X, sha256=pin(path), dtype=dtype)
    else:
        path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(2, 4), dims=({0: torch.export.Dim("batch")},))
        workflow = of_file(path, sha256=pin(path))
    workflow.resources = GPU
    check_workflow(
        workflow, Tensors(inputs={"x": rows(3)}), more=[Tensors(inputs={"x": rows(9)})], rtol=0.02, atol=0.02
    )
    workflow.setup()
    assert workflow._program is not None
    assert devices_of(workflow._program.module) == {"cuda:0"}
    answer = result(workflow.inference(Tensors(inputs={"x": rows(5)})))
    np.testing.assert_allclose(answer.astype(np.float32), affine(rows(5)), atol=0.03)


def test_no_gpu_given_means_cpu(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Affine).setup()
    assert workflow._program is not None
    assert devices_of(workflow._program.module) == {"cpu"}


def test_embedding(tmp_path: Path) -> None:
    save_tiny_bert(tmp_path)
    on_gpu, on_cpu = EmbeddingWorkflow(".", root=str(tmp_path)), EmbeddingWorkflow(".", root=str(tmp_path))
    on_gpu.resources, on_cpu.resources = GPU, Resources()
    on_gpu.setup()
    on_cpu.setup()
    assert devices_of(on_gpu._model) == {"cuda:0"}
    texts = [Embed(text="a quick fox " * count) for count in (1, 9, 3, 12)]
    for text, outcome in zip(texts, on_gpu.inference_batch(texts), strict=True):
        assert isinstance(outcome, Embedding)
        np.testing.assert_allclose(outcome.embedding, on_cpu.inference(text).embedding, atol=1e-3)


@pytest.mark.parametrize("engine", ["process", "thread"])
def test_text_generation(tmp_path: Path, engine: Any) -> None:
    save_tiny_llama(tmp_path)
    workflow = TransformersTextGenerationWorkflow(".", root=str(tmp_path), engine=engine)
    workflow.resources = GPU
    sampling = Sampling(max_tokens=12, temperature=1.0, top_k=50, top_p=0.9, seed=5)
    check_workflow(workflow, Generate(prompt=PROMPT, sampling=sampling))
    workflow.setup()
    assert workflow.inference(Generate(prompt=PROMPT, sampling=sampling)).usage.completion_tokens > 0
    assert workflow._engine.device == "cuda:0"
    together = workflow.inference_batch(
        [Generate(prompt=PROMPT * (1 + place), sampling=sampling) for place in range(4)]
    )
    assert all(isinstance(outcome, Generated) and outcome.usage.completion_tokens > 0 for outcome in together)
