"""Which part of a text answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from workflows.errors import ContextTooLong, InvalidInput, WorkflowError
from workflows.inference.local_transformer import check_tokens
from workflows.inference.tasks.encoder import EncoderTask, Row
from workflows.inference.tasks.spans import Span, likely_spans
from workflows.inference.tasks.task import Bounds, TaskModel, about_tokens
from workflows.inference.tasks.windows import windows_of
from workflows.tensors import Array
from workflows.types.tasks import Answer, AnswerQuestion, Answers

__all__ = ["QuestionAnswering"]

_USUAL_WINDOW: Final = 384
_MIN_ROOM: Final = 8
"""Tokens of the text that a window must have room for beside the question."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with each part of its text; `encoded` knows where in the text tokens and words are."""

    rows: list[Row]
    encoded: Any


class QuestionAnswering(EncoderTask[AnswerQuestion, _Asked, Answers]):
    """Answers that stand in a text. Chances are those within one window; what two windows have found counts once."""

    name = "question-answering"
    opens = "AutoModelForQuestionAnswering"
    input = AnswerQuestion
    output = Answers

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        if not model.tokenizer.is_fast:
            raise WorkflowError("the tokenizer cannot say where in the text its tokens are: a fast one is needed")
        # Models that are padded in front, XLNet for example, were trained with the question behind the text.
        self._question_first = model.tokenizer.padding_side == "right"

    def picked(self, output: Any, rows: Sequence[Row]) -> list[Any]:
        both = self.model.torch.stack([output.start_logits, output.end_logits], dim=1)
        return [both[place, :, : len(row.ids)] for place, row in enumerate(rows)]

    def read(self, asked: AnswerQuestion) -> _Asked:
        bounds = self.model.bounds
        window = min(asked.max_seq_len or _USUAL_WINDOW, bounds.max_tokens)
        question = self._question(asked)
        context = self.model.checked(asked.context, "context", rows=bounds.max_rows)
        if not context.strip():
            raise InvalidInput("the context is empty", param="context")
        count = len(self.model.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
        room = window - count - self.model.tokenizer.num_special_tokens_to_add(pair=True)
        if room < _MIN_ROOM:
            raise ContextTooLong(
                f"context length exceeded: {count} tokens leave no room for the text", param="question"
            )
        first, second = (question, context) if self._question_first else (context, question)
        encoded, rows = windows_of(
            self.model,
            first,
            second,
            stride=min(asked.doc_stride, room // 2),
            tokens=window,
            cut="only_second" if self._question_first else "only_first",
            param="context",
            return_offsets_mapping=True,
        )
        if int(self._question_first) not in encoded.sequence_ids(0):  # tokenizers leave out more than spaces
            raise InvalidInput("the context is empty", param="context")
        return _Asked(rows, encoded)

    def answer(self, asked: AnswerQuestion, read: _Asked, said: list[Array]) -> Answers:
        found: dict[tuple[int, int], float] = {}
        no_answer = 1.0
        for row, (starts, ends) in enumerate(said):
            ids = read.rows[row].ids
            mark = self.model.tokenizer.cls_token_id
            null = ids.index(mark) if mark in ids else None
            ours = int(self._question_first)
            allowed = [each == ours for each in read.encoded.sequence_ids(row)]
            spans, none_here = likely_spans(starts, ends, allowed, null, most=asked.top_k, longest=asked.max_answer_len)
            no_answer = min(no_answer, none_here)
            for span in spans:
                place = self._place(read.encoded, row, span, words=asked.align_to_words)
                found[place] = max(span.score, found.get(place, 0.0))
        answers = [
            Answer(answer=asked.context[start:end], score=score, start=start, end=end)
            for (start, end), score in found.items()
        ]
        if asked.handle_impossible_answer:
            answers.append(Answer(answer="", score=no_answer, start=0, end=0))
        answers.sort(key=lambda each: each.score, reverse=True)
        return Answers(answers=answers[: asked.top_k], tokens=sum(len(row.ids) for row in read.rows))

    @staticmethod
    def cost(asked: AnswerQuestion, bounds: Bounds) -> float:
        text = about_tokens(asked.context, bounds.max_tokens * bounds.max_rows)
        return text + about_tokens(asked.question, bounds.max_tokens) * (1 + text // bounds.max_tokens)

    def _question(self, asked: AnswerQuestion) -> str:
        """The question, or as much of it as is read."""
        most = asked.max_question_len
        question = self.model.checked(asked.question, "question", truncate=most is not None)
        if not question.strip():
            raise InvalidInput("the question is empty", param="question")
        encoded = self.model.tokenizer(
            question, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        check_tokens(encoded["input_ids"], self.model.vocabulary, "question")
        offsets = encoded["offset_mapping"]
        return question if most is None or len(offsets) <= most else question[: offsets[most - 1][1]]

    def _place(self, encoded: Any, row: int, span: Span, *, words: bool) -> tuple[int, int]:
        """Where in the text a span is, in characters."""
        if words:
            first, last = encoded.token_to_word(row, span.first), encoded.token_to_word(row, span.last)
            if first is not None and last is not None:
                ours = int(self._question_first)
                start = encoded.word_to_chars(row, first, sequence_index=ours).start
                return start, encoded.word_to_chars(row, last, sequence_index=ours).end
        offsets = encoded["offset_mapping"][row]
        return offsets[span.first][0], offsets[span.last][1]
