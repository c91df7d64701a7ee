"""Kind `task`: one question about a text, and the answer that a model trained for this kind of question gives.

Each input names its task as Hugging Face's hub does (`task`). Positions in texts count characters. How many tokens a model
has read is None where nobody can tell: of a remote model that does not say it, and whose tokenizer is not at hand.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workflows.types.exchange import Exchange
from workflows.types.text import MAX_TOKENS, Usage

__all__ = [
    "Answer",
    "AnswerQuestion",
    "Answers",
    "ClassifyText",
    "ClassifyTokens",
    "ClassifyZeroShot",
    "Decoding",
    "Entities",
    "Entity",
    "FillMask",
    "Filled",
    "Filling",
    "Label",
    "Labels",
    "Rewritten",
    "Summarize",
    "Translate",
]

MAX_LABELS: Final = 1024
MAX_BEAMS: Final = 16

_Label = Annotated[str, Field(min_length=1, max_length=1024)]
_Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
_TopK = Annotated[int, Field(ge=1, le=MAX_LABELS)]
_Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8})*$")]


class _Task(Exchange):
    kind: ClassVar[str] = "task"


# ---- text-classification, zero-shot-classification ----------------------------------------------------------------------


class ClassifyText(_Task):
    """A text to put into one of the model's own classes, or two texts, where the model compares them.

    Attributes:
        function_to_apply: Makes scores of what the model says; None is as the model was trained: `softmax` over classes
            that exclude each other, `sigmoid` for those that do not and for a single one, `none` for a regression.
        top_k: How many classes to give, the best first; None is all.
        truncate: Read the beginning of a text that is too long; None is as the workflow is configured.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a text"}]})
    task: ClassVar[str] = "text-classification"
    text: str
    text_pair: str | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: _TopK | None = None
    truncate: bool | None = None


class ClassifyZeroShot(_Task):
    """A text, and classes that the model has never heard of: it says how much the text entails each of them.

    Attributes:
        hypothesis_template: A sentence with one `{}`, where a label is put.
        multi_label: Score each label by itself; otherwise the scores of all add up to 1.
        truncate: Read the beginning of a text that is too long; None is as the workflow is configured.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "The match ended in a draw.", "candidate_labels": ["sport", "politics"]}]
        }
    )
    task: ClassVar[str] = "zero-shot-classification"
    text: str
    candidate_labels: list[_Label] = Field(min_length=1, max_length=MAX_LABELS)
    hypothesis_template: Annotated[str, Field(max_length=1024)] = "This example is {}."
    multi_label: bool = False
    truncate: bool | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.hypothesis_template.count("{}") != 1:
            raise ValueError("hypothesis_template must have one {}")
        return self


class Label(_Task):
    """A class, and how sure the model is of it; for a regression, the number that it gives."""

    label: str
    score: float


class Labels(_Task):
    """The best first. `tokens` counts what the model read."""

    labels: list[Label]
    tokens: int | None = Field(default=None, ge=0)


# ---- token-classification -----------------------------------------------------------------------------------------------


class ClassifyTokens(_Task):
    """A text in which to find what the model knows: names, parts of speech, ...

    Attributes:
        aggregation_strategy: `none` gives tokens. The others join neighbours of one kind, where `B-` in a class's name
            begins another one: `simple` token by token; `first`, `average` and `max` let no word have two classes, and
            take that of its first token, of its mean scores, or of its surest token.
        ignore_labels: Classes that are not given.
        stride: Read a text that is too long in windows that share so many tokens.
        truncate: Read the beginning of it only; None is as the workflow is configured.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Ada was born in London."}]})
    task: ClassVar[str] = "token-classification"
    text: str
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"
    ignore_labels: list[Annotated[str, Field(max_length=1024)]] = Field(default=["O"], max_length=MAX_LABELS)
    stride: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _windows_of_groups(self) -> Self:
        if self.stride is not None and self.aggregation_strategy == "none":
            raise ValueError("stride needs an aggregation_strategy other than none")
        return self


class Entity(_Task):
    """What was found at `start` to `end`; `index` is the token's place, None where tokens were joined."""

    label: str
    score: float
    word: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    index: int | None = None


class Entities(_Task):
    """In the text's order. `tokens` counts what the model read."""

    entities: list[Entity]
    tokens: int | None = Field(default=None, ge=0)


# ---- fill-mask ----------------------------------------------------------------------------------------------------------


class FillMask(_Task):
    """A text with the model's own mask token in it, once or several times.

    Attributes:
        targets: Score these words only; of one that is no token of the model, its first token.
        top_k: How many tokens to give for each mask, the best first; of all masks together no more than 100.
        truncate: Read the beginning of a text that is too long; None is as the workflow is configured.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Paris is the [MASK] of France."}]})
    task: ClassVar[str] = "fill-mask"
    text: str
    targets: list[_Label] | None = Field(default=None, min_length=1, max_length=MAX_LABELS)
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    truncate: bool | None = None


class Filling(_Task):
    """A token for a mask, and the text with it; the text's other masks are still there."""

    score: float
    token: int = Field(ge=0)
    token_str: str
    sequence: str


class Filled(_Task):
    """For each mask in the text's order its fillings, the best first. `tokens` counts what the model read."""

    masks: list[list[Filling]]
    tokens: int | None = Field(default=None, ge=0)


# ---- question-answering -------------------------------------------------------------------------------------------------


class AnswerQuestion(_Task):
    """A question, and a text that holds the answer.

    A text that does not fit in one window with the question is read in several.

    Attributes:
        top_k: How many answers to give at most, the best first.
        max_answer_len: No answer has more tokens.
        doc_stride: Tokens that neighbouring windows share; where windows are short, half of one at most.
        max_seq_len: Tokens of one window, with the question; None is 384, or what the model takes if that is less.
        max_question_len: Read no more than so many tokens of the question; None refuses one that leaves no room.
        handle_impossible_answer: Give an empty answer where that is the most likely.
        align_to_words: Answers begin and end with whole words.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "Where was Ada born?", "context": "Ada was born in London."}]}
    )
    task: ClassVar[str] = "question-answering"
    question: str
    context: str
    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    max_answer_len: Annotated[int, Field(ge=1, le=4096)] = 15
    doc_stride: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 128
    max_seq_len: _Count | None = None
    max_question_len: _Count | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class Answer(_Task):
    """A part of the context, from `start` to `end`; empty where there is no answer in it."""

    answer: str
    score: float
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Answers(_Task):
    """The best first, and at least one. `tokens` counts what the model read."""

    answers: list[Answer]
    tokens: int | None = Field(default=None, ge=0)


# ---- summarization, translation -----------------------------------------------------------------------------------------


class Decoding(Exchange):
    """How text is made. Never at random; None is as the model's own files say.

    Attributes:
        max_new_tokens: The answer's longest; the workflow's own limit holds in any case.
        num_beams: How many answers are followed at once, to give the best of them; 1 is greedy.
        length_penalty: With beams: above 0 favours long answers, below short ones.
        no_repeat_ngram_size: No so many tokens stand in the answer twice.
        repetition_penalty: Divides the scores of tokens that the answer has already.
        early_stopping: With beams: stop as soon as there are enough whole answers.
    """

    kind: ClassVar[str] = "task"
    max_new_tokens: _Count | None = None
    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    length_penalty: Annotated[float, Field(ge=-10.0, le=10.0)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100.0)] | None = None
    early_stopping: bool | None = None


class Summarize(_Task):
    """A text to say in fewer words.

    Attributes:
        clean_up_tokenization_spaces: Take out the spaces that tokens leave before punctuation; None is as the tokenizer
            has it.
        truncate: Read the beginning of a text that is too long; None is as the workflow is configured.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a long text"}]})
    task: ClassVar[str] = "summarization"
    text: str
    decoding: Decoding = Field(default_factory=Decoding)
    clean_up_tokenization_spaces: bool | None = None
    truncate: bool | None = None


class Translate(_Task):
    """A text to say in another language.

    Attributes:
        src_lang: Its language, as the model calls it (`eng_Latn`, `en_XX`, `en`); for models that know several.
        tgt_lang: The other language.
        clean_up_tokenization_spaces, truncate: As for `Summarize`.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a text"}]})
    task: ClassVar[str] = "translation"
    text: str
    src_lang: _Language | None = None
    tgt_lang: _Language | None = None
    decoding: Decoding = Field(default_factory=Decoding)
    clean_up_tokenization_spaces: bool | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _both_languages(self) -> Self:
        if (self.src_lang is None) != (self.tgt_lang is None):
            raise ValueError("give both src_lang and tgt_lang, or neither")
        return self


class Rewritten(_Task):
    """The new text. `usage` counts the tokens that were read and made."""

    text: str
    usage: Usage | None = None
