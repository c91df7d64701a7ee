"""What is found in texts, and what answers a question in them: against transformers' own pipeline where it has one, and
against every possible answer tried by hand where it has none any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertForQuestionAnswering, PreTrainedTokenizerFast

from tests.workflows.tiny_tasks import CONTEXT, LONG_TEXT, TEXTS, reference, save_tiny_task, word_tokenizer
from workflows.errors import InvalidInput
from workflows.inference.pipeline import TransformersPipelineWorkflow
from workflows.inference.tasks.spans import likely_spans
from workflows.types import Answers, Entities

STRATEGIES = ["none", "simple", "first", "average", "max"]
QUESTION = "is this about a fox"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_task(root / "token-classification", "token-classification")
    save_tiny_task(root / "question-answering", "question-answering")
    save_tiny_task(root / "bytes", "token-classification", vocab_size=320)
    _byte_tokenizer().save_pretrained(root / "bytes")
    return root


def _byte_tokenizer() -> Any:
    """One that does not say where words begin, but for the space that they begin with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=CONTEXT)


def made(root: Path, task: Any, model: str = "", **options: Any) -> TransformersPipelineWorkflow:
    return TransformersPipelineWorkflow(model or task, task=task, root=str(root), threads=1, **options).setup()


@pytest.fixture(scope="module")
def finder(root: Path) -> Iterator[TransformersPipelineWorkflow]:
    workflow = made(root, "token-classification")
    yield workflow
    workflow.teardown()


@pytest.fixture(scope="module")
def answerer(root: Path) -> Iterator[TransformersPipelineWorkflow]:
    workflow = made(root, "question-answering")
    yield workflow
    workflow.teardown()


# ---- token-classification --------------------------------------------------------------------------------------------


def same_entities(got: Any, expected: list[dict[str, Any]]) -> None:
    assert isinstance(got, Entities)
    found = [(each.label, each.word, each.start, each.end, each.index) for each in got.entities]
    assert found == [
        (each.get("entity") or each["entity_group"], each["word"], each["start"], each["end"], each.get("index"))
        for each in expected
    ]
    np.testing.assert_allclose(
        [each.score for each in got.entities], [float(each["score"]) for each in expected], atol=1e-5
    )


@pytest.mark.parametrize("more", [{}, {"ignore_labels": []}, {"ignore_labels": ["O", "PER", "B-PER"]}])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_those_of_the_pipeline(
    root: Path, finder: TransformersPipelineWorkflow, strategy: str, more: dict[str, Any]
) -> None:
    theirs = reference("token-classification", root / "token-classification")
    asked = [{"text": text, "aggregation_strategy": strategy, **more} for text in TEXTS]
    found = 0
    for text, outcome in zip(TEXTS, finder.inference_batch(asked), strict=True):
        expected = theirs(text, aggregation_strategy=strategy, **more)
        same_entities(outcome, expected)
        found += len(expected)
    assert found or more.get("ignore_labels")


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_also_with_tokens_of_bytes(root: Path, strategy: str) -> None:
    theirs = reference("token-classification", root / "bytes")
    workflow = made(root, "token-classification", "bytes")
    for text in TEXTS:
        same_entities(
            workflow.inference({"text": text, "aggregation_strategy": strategy}),
            theirs(text, aggregation_strategy=strategy),
        )


@pytest.mark.parametrize("stride", [0, 7, 30])
@pytest.mark.parametrize("strategy", ["simple", "max"])
def test_a_long_text_is_read_in_windows(
    root: Path, finder: TransformersPipelineWorkflow, strategy: str, stride: int
) -> None:
    theirs = reference("token-classification", root / "token-classification")
    got: Any = finder.inference({"text": LONG_TEXT, "aggregation_strategy": strategy, "stride": stride})
    same_entities(got, theirs(LONG_TEXT, aggregation_strategy=strategy, stride=stride))
    assert got.tokens > len(word_tokenizer()(LONG_TEXT)["input_ids"])
    assert got.entities[-1].end > len(LONG_TEXT) - 80


@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        ({"text": LONG_TEXT}, "context length exceeded: .* and 40 fit", "text"),
        ({"text": "a", "stride": 38}, "stride must be less than 38", "stride"),
        ({"text": "a", "stride": 1, "aggregation_strategy": "none"}, "stride needs an aggregation_strategy", None),
        ({"text": LONG_TEXT * 40, "stride": 7}, "windows, and 128 are read", "text"),
        ({"text": "a", "aggregation_strategy": "all"}, "Input should be", "aggregation_strategy"),
    ],
)
def test_what_is_refused(finder: TransformersPipelineWorkflow, asked: Any, message: str, param: str | None) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        finder.inference(asked)
    assert caught.value.param == param


def test_or_its_beginning_is(finder: TransformersPipelineWorkflow) -> None:
    cut: Any = finder.inference({"text": LONG_TEXT, "truncate": True})
    assert cut.tokens == CONTEXT
    assert cut.entities[-1].end < len(LONG_TEXT) // 2


# ---- question-answering ----------------------------------------------------------------------------------------------


Scored = dict[tuple[int, int], float]


def by_hand(
    root: Path, context: str, *, longest: int = 15, words: bool = False, room: int = CONTEXT, step: int = CONTEXT
) -> tuple[list[tuple[tuple[int, int], float]], float]:
    """Every span of tokens tried in every window; the best first, and the least chance of no answer."""
    tokenizer = word_tokenizer()
    question = tokenizer(QUESTION)["input_ids"]
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    network: Any = BertForQuestionAnswering.from_pretrained(root / "question-answering")
    found: Scored = {}
    none = 1.0
    for begin in range(0, len(whole["input_ids"]), step):
        if begin and begin - step + room >= len(whole["input_ids"]):
            break
        window = whole["input_ids"][begin : begin + room]
        types = torch.tensor([[0] * len(question) + [1] * (len(window) + 1)])
        with torch.inference_mode():
            output = network(input_ids=torch.tensor([[*question, *window, 2]]), token_type_ids=types)
        places = range(len(question), len(question) + len(window))
        counted = [0, *places]  # the first token stands for "no answer"
        starts, ends = (
            dict(zip(counted, logits[0, counted].softmax(0).tolist(), strict=True))
            for logits in (output.start_logits, output.end_logits)
        )
        none = min(none, starts[0] * ends[0])
        for first, last in product(places, places):
            if first <= last < first + longest:
                at = [whole["offset_mapping"][begin + place - len(question)] for place in (first, last)]
                place = _words(context, at[0][0], at[1][1]) if words else (at[0][0], at[1][1])
                found[place] = max(found.get(place, 0.0), starts[first] * ends[last])
    return sorted(found.items(), key=lambda each: -each[1]), none


def _words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end


def spans_of(answers: Any) -> list[tuple[int, int]]:
    assert isinstance(answers, Answers)
    return [(each.start, each.end) for each in answers.answers]


@pytest.mark.parametrize("longest", [1, 3, 15])
@pytest.mark.parametrize("context", TEXTS)
def test_answers_are_the_likeliest_of_all(
    root: Path, answerer: TransformersPipelineWorkflow, context: str, longest: int
) -> None:
    expected = by_hand(root, context, longest=longest)[0][:4]
    asked = {"question": QUESTION, "context": context, "top_k": 4, "max_answer_len": longest, "align_to_words": False}
    got: Any = answerer.inference(asked)
    assert spans_of(got) == [place for place, _ in expected]
    assert [each.score for each in got.answers] == pytest.approx([score for _, score in expected], rel=1e-4)
    assert [each.answer for each in got.answers] == [context[start:end] for (start, end), _ in expected]


@pytest.mark.parametrize("context", TEXTS)
def test_answers_are_whole_words(root: Path, answerer: TransformersPipelineWorkflow, context: str) -> None:
    best, score = by_hand(root, context, words=True)[0][0]
    got: Any = answerer.inference({"question": QUESTION, "context": context})
    assert spans_of(got) == [best]
    assert got.answers[0].score == pytest.approx(score, rel=1e-4)


def test_there_may_be_no_answer(root: Path, answerer: TransformersPipelineWorkflow) -> None:
    asked = {"question": QUESTION, "context": TEXTS[0], "top_k": 100, "handle_impossible_answer": True}
    _, none = by_hand(root, TEXTS[0])
    answers: Any = answerer.inference(asked)
    (empty,) = [each for each in answers.answers if not each.answer]
    assert (empty.score, empty.start, empty.end) == (pytest.approx(none, rel=1e-4), 0, 0)
    scores = [each.score for each in answers.answers]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("window", "stride"), [(None, 128), (24, 4), (20, 0), (40, 10)])
def test_a_long_context_is_read_in_windows(
    root: Path, answerer: TransformersPipelineWorkflow, window: int | None, stride: int
) -> None:
    """What neighbouring windows find at one place is one answer."""
    context = f"{LONG_TEXT} {LONG_TEXT}"
    asked = {"question": QUESTION, "context": context, "doc_stride": stride, "max_seq_len": window, "top_k": 20}
    room = min(window or 384, CONTEXT) - len(word_tokenizer()(QUESTION)["input_ids"]) - 1
    step = room - min(stride, room // 2)
    expected, none = by_hand(root, context, room=room, step=step)
    more = {"handle_impossible_answer": True, "align_to_words": False}
    found: Any = answerer.inference(asked | more)
    got = [((each.start, each.end), each.score) for each in found.answers if each.answer]
    assert [place for place, _ in got] == [place for place, _ in expected[: len(got)]]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected[: len(got)]], rel=1e-4)
    assert len(got) >= 19
    assert none == pytest.approx(next((each.score for each in found.answers if not each.answer), none), rel=1e-4)


def test_a_long_question_is_cut_or_refused(answerer: TransformersPipelineWorkflow) -> None:
    question: str = (
        "is this about a fox or a dog or a lazy example of sport and politics or about jumping over dogs"
        + " or a dog" * 5
    )
    with pytest.raises(InvalidInput, match="leave no room for the text") as caught:
        answerer.inference({"question": question, "context": TEXTS[1]})
    assert caught.value.param == "question"
    cut = answerer.inference({"question": question, "context": TEXTS[1], "max_question_len": 5})
    assert cut == answerer.inference({"question": "is this about a fox", "context": TEXTS[1]})


@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        ({"question": "a", "context": " \n"}, "the context is empty", "context"),
        ({"question": "", "context": "a"}, "the question is empty", "question"),
        ({"question": "a", "context": LONG_TEXT * 50}, "windows, and 128 are read", "context"),
        ({"question": "a", "context": "a", "max_seq_len": 8}, "leave no room", "question"),
        ({"question": "a", "context": "a", "top_k": 0}, "greater than or equal to 1", "top_k"),
    ],
)
def test_what_cannot_be_answered(answerer: TransformersPipelineWorkflow, asked: Any, message: str, param: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        answerer.inference(asked)
    assert caught.value.param == param


@pytest.mark.parametrize("context", ["\x00", "\x01 \x02", "\ufffd"])
def test_what_a_tokenizer_leaves_out_is_no_context(root: Path, context: str) -> None:
    shutil.copytree(root / "question-answering", root / "cleaning", dirs_exist_ok=True)
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.save_pretrained(root / "cleaning")
    workflow = made(root, "question-answering", "cleaning")
    with pytest.raises(InvalidInput, match="the context is empty") as caught:
        workflow.inference({"question": QUESTION, "context": context})
    assert caught.value.param == "context"
    assert spans_of(workflow.inference({"question": context, "context": "a fox"}))
    workflow.teardown()


def test_spans_of_random_scores_are_the_best_of_all() -> None:
    random = np.random.default_rng(5)
    for trial in range(50):
        count, longest, most = int(random.integers(1, 12)), int(random.integers(1, 6)), int(random.integers(1, 8))
        starts, ends = random.normal(size=(2, count)) * 4
        allowed = random.random(count) < 0.7
        null = None if trial % 2 or allowed[0] else 0
        counted = np.flatnonzero(allowed | (np.arange(count) == (-1 if null is None else null)))
        begins, finishes = (
            {int(place): np.exp(logits[place]) / np.exp(logits[counted]).sum() for place in counted}
            for logits in (starts, ends)
        )
        within = np.flatnonzero(allowed).tolist()
        expected = sorted(
            (begins[a] * finishes[b] for a in within for b in within if a <= b < a + longest), reverse=True
        )
        spans, none = likely_spans(starts, ends, list(allowed), null, most=most, longest=longest)
        assert [span.score for span in spans] == pytest.approx(expected[:most])
        assert all(
            span.score == pytest.approx(begins[span.first] * finishes[span.last]) and span.last < span.first + longest
            for span in spans
        )
        if within:
            assert none == pytest.approx(0.0 if null is None else begins[0] * finishes[0])
