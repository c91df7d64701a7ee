"""How an inference endpoint of Hugging Face speaks, for the contract of remote workflows: prompts, chat, vectors, classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.workflows.remote.contract_upstream import ANSWER, Dialect
from tests.workflows.tgi_client import tgi_dialects
from workflows.inference.hf_client.workflow import HFInferenceClientWorkflow
from workflows.remote.clock import Clock
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

__all__ = ["CHAT", "CLASSES", "PROMPTS", "VECTORS"]

Make = Callable[[str, Mapping[str, Any], Clock, Path], HFInferenceClientWorkflow]
VECTOR: Final = [0.25, 0.5]


def _made(task: Any) -> Make:
    def make(url: str, policy: Mapping[str, Any], clock: Clock, key: Path) -> HFInferenceClientWorkflow:
        upstream = UpstreamPolicy.model_validate(policy)
        workflow = HFInferenceClientWorkflow(task, base_url=url, key=SecretRef(file=str(key)), upstream=upstream)
        workflow.clock = clock
        return workflow

    return make


PROMPTS: Final = replace(tgi_dialects.PROMPTS, make=_made("text-generation"))
CHAT: Final = replace(tgi_dialects.CHAT, make=_made("conversational"))
CLASSES: Final = Dialect(
    make=_made("text-classification"),
    ask=lambda prompt: {"text": prompt},
    text=lambda answer: str(answer.labels[0].label),
    whole=json.dumps([[{"label": ANSWER, "score": 0.75}, {"label": "other", "score": 0.25}]]).encode(),
    error=lambda message: json.dumps({"error": message}).encode(),
)
VECTORS: Final = replace(
    CLASSES,
    make=_made("feature-extraction"),
    text=lambda answer: ANSWER if answer.embedding.tolist() == VECTOR else "",
    whole=json.dumps(VECTOR).encode(),
)
