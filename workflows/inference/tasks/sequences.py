"""Which class a text is in: one of the model's own (text-classification), or one that it never heard of (zero-shot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from workflows.errors import ContextTooLong, InvalidInput, WorkflowError
from workflows.inference.tasks.encoder import EncoderTask, Row, row_of
from workflows.inference.tasks.task import Bounds, TaskModel, about_tokens
from workflows.tensors import Array
from workflows.types.tasks import ClassifyText, ClassifyZeroShot, Label, Labels

__all__ = ["TextClassification", "ZeroShotClassification"]

_HYPOTHESIS_TOKENS: Final = 12


@dataclass(frozen=True, slots=True)
class _Texts:
    rows: list[Row]

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)


class _OneLogitPerClass:
    """How models of this kind answer: one number per class for each row."""

    @staticmethod
    def picked(output: Any, rows: Sequence[Row]) -> list[Any]:
        return list(output.logits)


class TextClassification(_OneLogitPerClass, EncoderTask[ClassifyText, _Texts, Labels]):
    """Scores of the model's own classes."""

    name = "text-classification"
    opens = "AutoModelForSequenceClassification"
    input = ClassifyText
    output = Labels

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        config = model.model.config
        self._names: dict[int, str] = config.id2label
        if config.problem_type == "regression":
            self._default = "none"
        elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
            self._default = "sigmoid"
        else:
            self._default = "softmax"

    def read(self, asked: ClassifyText) -> _Texts:
        text = self.model.checked(asked.text, truncate=asked.truncate)
        pair = asked.text_pair
        if pair is not None:
            pair = self.model.checked(pair, "text_pair", truncate=asked.truncate)
        return _Texts([row_of(self.model.encoded(text, pair, truncate=asked.truncate))])

    def answer(self, asked: ClassifyText, read: _Texts, said: list[Array]) -> Labels:
        (logits,) = said
        how = asked.function_to_apply or self._default
        scores = logits if how == "none" else _softmax(logits) if how == "softmax" else 1 / (1 + np.exp(-logits))
        best = np.argsort(-scores, kind="stable")[: asked.top_k]
        labels = [Label(label=self._names[int(place)], score=float(scores[place])) for place in best]
        return Labels(labels=labels, tokens=read.tokens)

    @staticmethod
    def cost(asked: ClassifyText, bounds: Bounds) -> float:
        return min(sum(about_tokens(text, bounds.max_tokens) for text in _both(asked)), bounds.max_tokens)


class ZeroShotClassification(_OneLogitPerClass, EncoderTask[ClassifyZeroShot, _Texts, Labels]):
    """Scores of the caller's own classes, by a model that says whether one text follows from another."""

    name = "zero-shot-classification"
    opens = "AutoModelForSequenceClassification"
    input = ClassifyZeroShot
    output = Labels

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        places = {name.lower(): place for name, place in model.model.config.label2id.items()}
        entails = [place for name, place in places.items() if name.startswith("entail")]
        if not entails or len(places) < 2:
            raise WorkflowError("zero-shot classification needs a model with a class called `entailment`, and another")
        # Which class denies it: by its name, or the first or the last one, whichever is not the one that affirms.
        denies = [place for name, place in places.items() if name.startswith(("contra", "not_entail"))]
        self._entails = entails[0]
        self._denies = denies[0] if denies else len(places) - 1 if self._entails == 0 else 0

    def read(self, asked: ClassifyZeroShot) -> _Texts:
        if len(asked.candidate_labels) > self.model.bounds.max_rows:
            raise InvalidInput(f"at most {self.model.bounds.max_rows} labels are taken", param="candidate_labels")
        text = self.model.checked(asked.text, truncate=asked.truncate)
        if not text.strip():
            raise InvalidInput("the text is empty", param="text")
        rows = []
        for label in asked.candidate_labels:
            hypothesis = self.model.checked(asked.hypothesis_template.replace("{}", label), "candidate_labels")
            if self.model.cuts(asked.truncate):
                self._check_leaves_room(hypothesis)
            encoded = self.model.encoded(text, hypothesis, truncate=asked.truncate, only_first=True)
            rows.append(row_of(encoded))
        return _Texts(rows)

    def answer(self, asked: ClassifyZeroShot, read: _Texts, said: list[Array]) -> Labels:
        logits = np.stack(said)
        if asked.multi_label or len(said) == 1:
            scores = _softmax(logits[:, [self._denies, self._entails]])[:, 1]
        else:
            scores = _softmax(logits[:, self._entails])
        best = np.argsort(-scores, kind="stable")
        labels = [Label(label=asked.candidate_labels[place], score=float(scores[place])) for place in best]
        return Labels(labels=labels, tokens=read.tokens)

    @staticmethod
    def cost(asked: ClassifyZeroShot, bounds: Bounds) -> float:
        one = min(about_tokens(asked.text, bounds.max_tokens) + _HYPOTHESIS_TOKENS, bounds.max_tokens)
        return one * min(len(asked.candidate_labels), bounds.max_rows)

    def _check_leaves_room(self, hypothesis: str) -> None:
        tokens = len(self.model.tokenizer("", hypothesis, verbose=False)["input_ids"])
        if tokens >= self.model.bounds.max_tokens:
            raise ContextTooLong(
                "context length exceeded: a label leaves no room for the text", param="candidate_labels"
            )


def _both(asked: ClassifyText) -> list[str]:
    return [asked.text] if asked.text_pair is None else [asked.text, asked.text_pair]


def _softmax(logits: Array) -> Array:
    """Along the last axis."""
    grown: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Array = grown / grown.sum(axis=-1, keepdims=True)
    return shares
