"""What the words of a text are: names, parts of speech, or whatever else the model was trained to find in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.tasks.encoder import EncoderTask, Row
from workflows.inference.tasks.entities import Found, Piece, found_in, without_overlaps
from workflows.inference.tasks.task import Bounds, TaskModel, about_tokens
from workflows.inference.tasks.windows import windows_of
from workflows.tensors import Array
from workflows.types.tasks import ClassifyTokens, Entities, Entity

__all__ = ["TokenClassification"]


@dataclass(frozen=True, slots=True)
class _Windows:
    """A text in as many rows as it takes.

    Attributes:
        offsets: Of each row's tokens, their first character and the one after the last.
        special: For each row, which tokens are none of the text.
    """

    rows: list[Row]
    offsets: list[list[tuple[int, int]]]
    special: list[list[int]]


class TokenClassification(EncoderTask[ClassifyTokens, _Windows, Entities]):
    """Classes of tokens, joined to words and entities."""

    name = "token-classification"
    opens = "AutoModelForTokenClassification"
    input = ClassifyTokens
    output = Entities

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        if not model.tokenizer.is_fast:
            raise WorkflowError("the tokenizer cannot say where in the text its tokens are: a fast one is needed")
        self._names: dict[int, str] = model.model.config.id2label
        backend = model.tokenizer.backend_tokenizer
        self._marks_subwords = bool(getattr(backend.model, "continuing_subword_prefix", None))

    def picked(self, output: Any, rows: Sequence[Row]) -> list[Any]:
        return [output.logits[place, : len(row.ids)] for place, row in enumerate(rows)]

    def read(self, asked: ClassifyTokens) -> _Windows:
        wanted: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        if asked.stride is None:
            text = self.model.checked(asked.text, truncate=asked.truncate)
            encoded = self.model.encoded(text, truncate=asked.truncate, **wanted)
            row = Row(list(encoded["input_ids"]), encoded.get("token_type_ids"))
            return _Windows([row], [encoded["offset_mapping"]], [encoded["special_tokens_mask"]])
        self._check_stride(asked.stride)
        text = self.model.checked(asked.text, rows=self.model.bounds.max_rows)
        encoded, rows = windows_of(self.model, text, stride=asked.stride, **wanted)
        return _Windows(rows, encoded["offset_mapping"], encoded["special_tokens_mask"])

    def answer(self, asked: ClassifyTokens, read: _Windows, said: list[Array]) -> Entities:
        found: list[Found] = []
        joined = self.model.tokenizer.convert_tokens_to_string
        for row, logits in enumerate(said):
            pieces = self._pieces(asked.text, read, row, logits)
            strategy = asked.aggregation_strategy
            found += [
                each
                for each in found_in(pieces, self._names, strategy, joined)
                if each.label not in asked.ignore_labels
            ]
        if len(said) > 1:
            found = without_overlaps(found)
        entities = [
            Entity(
                label=each.label,
                score=each.score,
                word=each.tokens[0] if each.index is not None else joined(list(each.tokens)),
                start=each.start,
                end=each.end,
                index=each.index,
            )
            for each in found
        ]
        return Entities(entities=entities, tokens=sum(len(row.ids) for row in read.rows))

    @staticmethod
    def cost(asked: ClassifyTokens, bounds: Bounds) -> float:
        return about_tokens(asked.text, bounds.max_tokens * (1 if asked.stride is None else bounds.max_rows))

    def _pieces(self, text: str, read: _Windows, row: int, logits: Array) -> list[Piece]:
        """A window's tokens but those that mark its beginning and end."""
        grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = grown / grown.sum(axis=-1, keepdims=True)
        ids = read.rows[row].ids
        tokens = self.model.tokenizer.convert_ids_to_tokens(ids)
        pieces = []
        for place, special in enumerate(read.special[row]):
            if special:
                continue
            start, end = read.offsets[row][place]
            token = tokens[place]
            if self._marks_subwords:
                continues = len(token) != end - start
            else:  # not after a space, as far as that can be told
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            if ids[place] == self.model.tokenizer.unk_token_id:
                token, continues = text[start:end], False
            pieces.append(Piece(token, scores[place], start, end, place, continues))
        return pieces

    def _check_stride(self, stride: int) -> None:
        room = self.model.bounds.max_tokens - self.model.tokenizer.num_special_tokens_to_add()
        if stride >= room:
            raise InvalidInput(f"stride must be less than {room}, the tokens of text in a window", param="stride")
