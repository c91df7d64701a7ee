"""Summaries and translations: what `generate` writes for each text alone is what it gets in company."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from tests.workflows.tiny_tasks import LONG_TEXT, PAIRS, TEXTS, save_tiny_task, save_tiny_translator
from workflows.context import CallContext
from workflows.errors import Cancelled, InvalidInput, WorkflowError
from workflows.inference.pipeline import TransformersPipelineWorkflow
from workflows.testing import check_workflow
from workflows.types import Rewritten

BEAMS = {"num_beams": 3, "length_penalty": 1.5, "early_stopping": True, "no_repeat_ngram_size": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_task(root / "plain", "summarization")
    save_tiny_task(root / "pairs", "summarization", task_specific_params=PAIRS)
    save_tiny_translator(root / "languages")
    return root


def made(root: Path, model: str, task: Any = "summarization", **options: Any) -> TransformersPipelineWorkflow:
    return TransformersPipelineWorkflow(
        model, task=task, root=str(root), threads=1, **{"max_new_tokens": 20} | options
    ).setup()


@pytest.fixture(scope="module")
def plain(root: Path) -> Iterator[TransformersPipelineWorkflow]:
    workflow = made(root, "plain")
    yield workflow
    workflow.teardown()


def written(root: Path, model: str, text: str, workflow: TransformersPipelineWorkflow, **options: Any) -> list[int]:
    """By transformers itself."""
    network: Any = T5ForConditionalGeneration.from_pretrained(root / model)
    ids = torch.tensor([workflow._task.model.tokenizer(text)["input_ids"]])
    tokens: list[int] = network.generate(input_ids=ids, do_sample=False, **options)[0].tolist()
    return tokens


def text_of(workflow: TransformersPipelineWorkflow, tokens: list[int]) -> str:
    text: str = workflow._task.model.tokenizer.decode(tokens, skip_special_tokens=True)
    return text


def test_it_conforms(root: Path) -> None:
    workflow = TransformersPipelineWorkflow("plain", task="summarization", root=str(root), threads=1, max_new_tokens=8)
    check_workflow(workflow, {"text": TEXTS[0]}, more=[{"text": text} for text in TEXTS[1:]])


@pytest.mark.parametrize("options", [{}, {"max_new_tokens": 7}, {"min_new_tokens": 9, "max_new_tokens": 9}, BEAMS])
def test_company_changes_nothing(root: Path, plain: TransformersPipelineWorkflow, options: dict[str, Any]) -> None:
    answers = plain.inference_batch([{"text": text, "decoding": options} for text in TEXTS])
    for text, answer in zip(TEXTS, answers, strict=True):
        assert isinstance(answer, Rewritten)
        expected = written(root, "plain", text, plain, **{"max_new_tokens": 20, "min_new_tokens": 0} | options)
        assert answer.text == text_of(plain, expected)
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= options.get("max_new_tokens", 20)
    assert len({answer.text for answer in answers if isinstance(answer, Rewritten)}) > 1


def test_different_ways_of_writing_are_told_apart_in_one_batch(plain: TransformersPipelineWorkflow) -> None:
    asked = [{"text": TEXTS[1], "decoding": options} for options in ({}, {"max_new_tokens": 3}, BEAMS)]
    prepared = [plain.do_preprocessing(plain.parse_input(each)) for each in asked]
    together = [said for _, said in plain.do_run_batch(prepared)]  # type: ignore[misc]
    alone = [plain.do_run_batch([each])[0][1] for each in prepared]  # type: ignore[index]
    assert together == alone
    assert len(together[1]) == 3


def test_the_models_files_say_how_a_task_is_done(root: Path) -> None:
    workflow = made(root, "pairs")
    expected = written(
        root, "pairs", "summarize: " + TEXTS[1], workflow, max_new_tokens=11, min_new_tokens=3, num_beams=2
    )
    answer: Any = workflow.inference({"text": TEXTS[1]})
    assert answer.text == text_of(workflow, expected)
    own: Any = made(root, "pairs", prefix="").inference({"text": "summarize: " + TEXTS[1]})
    assert own == answer


def test_a_pair_of_languages_is_a_prefix(root: Path) -> None:
    workflow = made(root, "pairs", "translation")
    for target, prefix, most in (("fr", "translate a : ", 20), ("de", "translate is : ", 4)):
        answer: Any = workflow.inference({"text": TEXTS[0], "src_lang": "en", "tgt_lang": target})
        expected = written(root, "pairs", prefix + TEXTS[0], workflow, max_new_tokens=most, min_new_tokens=0)
        assert answer.text == text_of(workflow, expected)
    with pytest.raises(InvalidInput, match="does not translate between these languages"):
        workflow.inference({"text": "a", "src_lang": "fr", "tgt_lang": "en"})
    with pytest.raises(InvalidInput, match="knows several languages"):
        workflow.inference({"text": "a"})


def test_or_a_token_that_the_answer_begins_with(root: Path) -> None:
    workflow = made(root, "languages", "translation")
    tokenizer = workflow._task.model.tokenizer
    asked = [
        {"text": "a fox", "src_lang": source, "tgt_lang": target}
        for source, target in (("eng_Latn", "fra_Latn"), ("deu_Latn", "fra_Latn"), ("eng_Latn", "deu_Latn"))
    ]
    sources, answers = [], workflow.inference_batch(asked)
    for each, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, Rewritten)
        tokenizer.src_lang = each["src_lang"]
        sources.append(tokenizer("a fox")["input_ids"])
        network: Any = T5ForConditionalGeneration.from_pretrained(root / "languages")
        begin = tokenizer.convert_tokens_to_ids(each["tgt_lang"])
        tokens = network.generate(
            input_ids=torch.tensor([sources[-1]]), forced_bos_token_id=begin, max_new_tokens=20, do_sample=False
        )[0].tolist()
        assert tokens[1] == begin
        assert answer.text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert sources[0] != sources[1]
    for bad in ({"src_lang": "eng_Latn", "tgt_lang": "ita_Latn"}, {"src_lang": "fox", "tgt_lang": "eng_Latn"}):
        with pytest.raises(InvalidInput, match="does not know that language"):
            workflow.inference({"text": "a", **bad})
    with pytest.raises(InvalidInput, match="give src_lang and tgt_lang"):
        workflow.inference({"text": "a"})


def test_who_leaves_is_not_written_for(plain: TransformersPipelineWorkflow, monkeypatch: pytest.MonkeyPatch) -> None:
    stays, leaves = CallContext(request_id="stays"), CallContext(request_id="leaves")
    network, steps = plain._task.model.model, []
    forward = network.forward

    def step(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        leaves.cancel()
        return forward(*args, **kwargs)

    decoding = {"min_new_tokens": 15, "max_new_tokens": 15}
    asked: list[Any] = [{"text": text, "decoding": decoding} for text in TEXTS[:2]]
    alone = plain.inference(asked[0])
    monkeypatch.setattr(network, "forward", step)
    answer, gone = plain.inference_batch(asked, [stays, leaves])
    assert answer == alone
    assert isinstance(gone, Cancelled)
    assert len(steps) == 15
    steps.clear()
    (gone,) = plain.inference_batch(asked[:1], [CallContext(cancelled=False, deadline=None, request_id="x")])
    assert isinstance(gone, Rewritten)
    leaves = CallContext()
    steps.clear()
    (gone,) = plain.inference_batch(asked[:1], [leaves])
    assert isinstance(gone, Cancelled)
    assert len(steps) == 1


@pytest.mark.parametrize(
    ("asked", "message", "param"),
    [
        ({"text": LONG_TEXT}, "context length exceeded: .* tokens, and 40 fit", "text"),
        ({"text": "a " * 100_000}, "context length exceeded", "text"),
        ({"text": " "}, "the text is empty", "text"),
        ({"text": "a", "decoding": {"min_new_tokens": 21}}, "no answer is longer than 20", "decoding.min_new_tokens"),
        ({"text": "a", "decoding": {"do_sample": True}}, "Extra inputs", "decoding.do_sample"),
        ({"text": "a", "decoding": {"num_beams": 17}}, "less than or equal to 16", "decoding.num_beams"),
    ],
)
def test_what_is_refused(plain: TransformersPipelineWorkflow, asked: Any, message: str, param: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        plain.inference(asked)
    assert caught.value.param == param


def test_a_text_may_be_cut(plain: TransformersPipelineWorkflow) -> None:
    cut: Any = plain.inference({"text": LONG_TEXT, "truncate": True})
    assert cut.usage.prompt_tokens == 40
    assert isinstance(cut, Rewritten)
    assert not isinstance(cut, WorkflowError)
