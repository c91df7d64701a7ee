"""Workflows of several kinds that configuration tests name by import path; what they answer does not matter there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workflows import BaseInferenceWorkflow, Embed, Embedding, Generate, Generated, TextChunk
from workflows.card import Card
from workflows.types import ClassifyText, Labels, Usage

__all__ = ["Embedder", "Sorter", "Teller", "Writer"]


class Embedder(BaseInferenceWorkflow[Embed, Embedding]):
    def do_run_model(self, preprocessed_data: Embed) -> Embedding:
        return Embedding(embedding=np.zeros(2, np.float32), tokens=1)


class Writer(BaseInferenceWorkflow[Generate, Generated]):
    """Does not stream."""

    def do_run_model(self, preprocessed_data: Generate) -> Generated:
        return Generated(text="", finish_reason="stop", usage=Usage(prompt_tokens=0, completion_tokens=0))


class Teller(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    def do_stream(self, preprocessed_data: Generate) -> Iterator[TextChunk]:
        yield TextChunk(text="", finish_reason="stop", usage=Usage(prompt_tokens=0, completion_tokens=0))


class Sorter(BaseInferenceWorkflow[ClassifyText, Labels]):
    def __init__(self, task: str | None = "text-classification") -> None:
        self._task = task

    def do_run_model(self, preprocessed_data: ClassifyText) -> Labels:
        return Labels(labels=[], tokens=0)

    def card(self, name: str, summary: str = "") -> Card:
        return super().card(name, summary).model_copy(update={"task": self._task})
