"""TransformersPipelineWorkflow: classes of texts and masked words are those of transformers' own pipelines, at any size
of batch; what all tasks have in common."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2ForSequenceClassification

from tests.workflows.tiny_tasks import CLASSES, CONTEXT, LONG_TEXT, TEXTS, reference, save_tiny_task, word_tokenizer
from workflows.errors import BadOutput, InvalidInput, WorkflowError
from workflows.inference.embedding import EmbeddingWorkflow
from workflows.inference.pipeline import TransformersPipelineWorkflow
from workflows.testing import check_workflow
from workflows.types import ClassifyText, Filled, Labels

LABELS = ["dog", "sport", "politics"]
MASKED = ["a <mask> fox", "<mask> brown fox jumps over <mask> lazy dogs", "this <mask>"]
EXAMPLES: dict[str, Any] = {
    "text-classification": {"text": TEXTS[0]},
    "zero-shot-classification": {"text": TEXTS[0], "candidate_labels": LABELS},
    "token-classification": {"text": TEXTS[0]},
    "fill-mask": {"text": MASKED[0]},
    "question-answering": {"question": "a fox", "context": TEXTS[1]},
}


def folder(task: str) -> str:
    return "text-classification" if task == "zero-shot-classification" else task


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for task in EXAMPLES:
        if folder(task) == task:
            save_tiny_task(root / task, task)
    return root


def made(root: Path, task: Any, model: str = "", **options: Any) -> TransformersPipelineWorkflow:
    return TransformersPipelineWorkflow(model or folder(task), task=task, root=str(root), threads=1, **options)


@pytest.fixture(scope="module")
def ready(root: Path) -> Iterator[dict[str, TransformersPipelineWorkflow]]:
    workflows = {task: made(root, task).setup() for task in EXAMPLES}
    yield workflows
    for workflow in workflows.values():
        workflow.teardown()


def same_labels(got: Any, expected: list[dict[str, Any]]) -> None:
    assert isinstance(got, Labels)
    assert [label.label for label in got.labels] == [label["label"] for label in expected]
    np.testing.assert_allclose([label.score for label in got.labels], [label["score"] for label in expected], atol=1e-5)


# ---- every task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", EXAMPLES)
def test_it_conforms(root: Path, task: str) -> None:
    example = EXAMPLES[task]
    name = "context" if task == "question-answering" else "text"
    other = example | {name: f"{example[name]} over dogs"}
    longer = example | {name: f"quick {example[name]} is about the lazy example, jumping over politics"}
    check_workflow(made(root, task), example, more=[other, longer])


@pytest.mark.parametrize("task", EXAMPLES)
def test_the_card_says_what_is_served(ready: dict[str, TransformersPipelineWorkflow], task: str) -> None:
    card = ready[task].card("x")
    assert (card.kind, card.task, card.model, card.context_tokens) == ("task", task, folder(task), CONTEXT)
    assert set(EXAMPLES[task]) <= set(card.input_schema["properties"])
    (shown,) = card.input_schema["examples"]
    assert isinstance(ready[task].inference(shown), ready[task]._asks.output)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """transformers would make up the missing layer, at random."""
    word_tokenizer().save_pretrained(tmp_path)
    BertModel(BertConfig(vocab_size=80, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    for task in ("text-classification", "fill-mask", "question-answering"):
        with pytest.raises(WorkflowError, match="are not those of an AutoModelFor"):
            made(tmp_path, task, ".").setup()
    encoder: Any = AutoModel.from_config(BertConfig(vocab_size=80, hidden_size=8, num_attention_heads=1))
    encoder.encoder.layer[1] = torch.nn.Identity()
    encoder.save_pretrained(tmp_path / "gaps")
    word_tokenizer().save_pretrained(tmp_path / "gaps")
    with pytest.raises(WorkflowError, match="are not those of an AutoModel"):
        EmbeddingWorkflow("gaps", root=str(tmp_path), threads=1).setup()
    save_tiny_task(tmp_path / "other", "text-classification", id2label={0: "A", 1: "B"}, label2id={"A": 0, "B": 1})
    with pytest.raises(WorkflowError, match="needs a model with a class called `entailment`"):
        made(tmp_path, "zero-shot-classification", "other").setup()


@pytest.mark.parametrize(
    ("task", "asked", "message", "param"),
    [
        ("text-classification", {"text": LONG_TEXT}, "context length exceeded: .* and 40 fit", "text"),
        ("text-classification", {"text": "a " * 100_000}, "context length exceeded", "text"),
        ("text-classification", {"text": "a", "topk": 1}, "Extra inputs are not permitted", "topk"),
        ("text-classification", {"text": "a", "function_to_apply": "tanh"}, "Input should be", "function_to_apply"),
        ("text-classification", {"text": "a", "text_pair": LONG_TEXT}, "context length exceeded", "text"),
        ("zero-shot-classification", {"text": LONG_TEXT, "candidate_labels": ["a"]}, "context length", "text"),
        ("zero-shot-classification", {"text": "a", "candidate_labels": []}, "at least 1 item", "candidate_labels"),
        ("zero-shot-classification", {"text": " ", "candidate_labels": ["a"]}, "the text is empty", "text"),
        ("zero-shot-classification", {"text": "a", "candidate_labels": ["a"] * 129}, "128 labels", "candidate_labels"),
        (
            "zero-shot-classification",
            {"text": "a", "candidate_labels": ["a"], "hypothesis_template": "b"},
            "must have one",
            None,
        ),
        (
            "zero-shot-classification",
            {"text": "a", "candidate_labels": ["a " * 50], "truncate": True},
            "a label leaves no room",
            "candidate_labels",
        ),
        ("fill-mask", {"text": "a fox"}, r"1 to 16 mask tokens, each '<mask>' for this model, and has 0", "text"),
        ("fill-mask", {"text": "<mask>" * 17}, "1 to 16 mask tokens", "text"),
        ("fill-mask", {"text": "<mask> fox <mask>", "top_k": 51}, "at most 50 for 2 masks", "top_k"),
        ("fill-mask", {"text": "<mask>", "targets": [" "]}, "none of the targets has a token", "targets"),
    ],
)
def test_what_is_refused(
    ready: dict[str, TransformersPipelineWorkflow], task: str, asked: Any, message: str, param: str | None
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        ready[task].inference(asked)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("task", "asked", "param"),
    [
        ("text-classification", {"text": "a <more>"}, "text"),
        ("zero-shot-classification", {"text": "a fox", "candidate_labels": ["dog", "<more>"]}, "text"),
        ("token-classification", {"text": "a <more>"}, "text"),
        ("token-classification", {"text": "a <more>", "stride": 2}, "text"),
        ("fill-mask", {"text": "<mask> <more>"}, "text"),
        ("fill-mask", {"text": "<mask>", "targets": ["fox", "<more>"]}, "targets"),
        ("question-answering", {"question": "<more>", "context": "a fox"}, "question"),
        ("question-answering", {"question": "a fox", "context": "<more>"}, "context"),
    ],
)
def test_a_token_that_only_the_tokenizer_knows_fails_alone(root: Path, task: str, asked: Any, param: str) -> None:
    name = f"{folder(task)}-more"
    shutil.copytree(root / folder(task), root / name, dirs_exist_ok=True)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([*(f"<more{place}>" for place in range(100)), "<more>"], special_tokens=True)
    tokenizer.save_pretrained(root / name)
    workflow = made(root, task, name).setup()
    refused, answered = workflow.inference_batch([asked, EXAMPLES[task]])
    assert isinstance(refused, InvalidInput)
    assert refused.param == param
    assert "a token that this model does not know" in refused.message
    assert not isinstance(answered, WorkflowError)
    workflow.teardown()


def test_texts_are_cut_where_somebody_says_so(root: Path, ready: dict[str, TransformersPipelineWorkflow]) -> None:
    task = "text-classification"
    cut: Any = ready[task].inference({"text": LONG_TEXT, "truncate": True})
    same = reference(task, root / task)(LONG_TEXT, top_k=None, truncation=True)
    assert cut.tokens == CONTEXT
    same_labels(cut, same)
    cutting = made(root, task, truncate=True, max_tokens=10).setup()
    assert cutting.inference({"text": "a " * 100_000}).tokens == 10  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="18 tokens, and 10 fit"):
        cutting.inference({"text": TEXTS[1], "truncate": False})
    hypothesis = {"text": LONG_TEXT, "candidate_labels": LABELS, "truncate": True}
    asked: Any = ready["zero-shot-classification"].inference(hypothesis)
    expected = reference("zero-shot-classification", root / task)(LONG_TEXT, candidate_labels=LABELS)
    same_labels(asked, [{"label": k, "score": v} for k, v in zip(expected["labels"], expected["scores"], strict=True)])


def test_what_is_no_number_fails_alone(root: Path) -> None:
    broken = made(root, "text-classification").setup()
    with torch.no_grad():
        vocabulary = broken._task.model.tokenizer.get_vocab()
        broken._task.model.model.bert.embeddings.word_embeddings.weight[vocabulary["lazy"]] = float("nan")
    outcomes = broken.inference_batch([{"text": text} for text in ("a fox", "a lazy fox", "quick")])
    assert [type(outcome) for outcome in outcomes] == [Labels, BadOutput, Labels]


def test_load_grows_with_what_the_model_reads(ready: dict[str, TransformersPipelineWorkflow]) -> None:
    def cost(task: str, **asked: Any) -> float:
        return ready[task].load_of(ready[task].parse_input(asked)).cost

    assert cost("text-classification", text="a") < cost("text-classification", text=TEXTS[1])
    assert cost("text-classification", text="\u4e16" * 1000) == CONTEXT
    few, many = (cost("zero-shot-classification", text="a", candidate_labels=["x"] * n) for n in (2, 20))
    assert many == 10 * few
    short = ready["text-classification"].load_of(ClassifyText(text="a")).bucket
    assert short != ready["text-classification"].load_of(ClassifyText(text=TEXTS[1] * 4)).bucket


# ---- classes of texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["softmax", "sigmoid", "none", None])
@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
def test_classes_are_those_of_the_pipeline(root: Path, how: str | None, problem: str | None) -> None:
    model = f"classes-{problem}"
    if not (root / model).exists():
        save_tiny_task(root / model, "text-classification", problem_type=problem)
    workflow = made(root, "text-classification", model).setup()
    theirs = reference("text-classification", root / model)(
        TEXTS, top_k=None, **({} if how is None else {"function_to_apply": how})
    )
    outcomes = workflow.inference_batch([{"text": text, "function_to_apply": how} for text in TEXTS])
    for outcome, expected in zip(outcomes, theirs, strict=True):
        same_labels(outcome, expected)
    best: Any = workflow.inference({"text": TEXTS[0], "function_to_apply": how, "top_k": 1})
    same_labels(best, theirs[0][:1])
    assert len({outcome.labels[0].score for outcome in outcomes if isinstance(outcome, Labels)}) == len(TEXTS)


def test_two_texts_are_one_input(root: Path, ready: dict[str, TransformersPipelineWorkflow]) -> None:
    task = "text-classification"
    theirs = reference(task, root / task)
    got: Any = ready[task].inference({"text": TEXTS[0], "text_pair": TEXTS[1]})
    same_labels(got, theirs({"text": TEXTS[0], "text_pair": TEXTS[1]}, top_k=None))
    assert got != ready[task].inference({"text": TEXTS[0]})


def test_a_decoder_that_knows_no_padding_is_not_shown_any(tmp_path: Path) -> None:
    word_tokenizer(pairs=False).save_pretrained(tmp_path)
    names = dict(enumerate(CLASSES["text-classification"]))
    config = GPT2Config(vocab_size=80, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, id2label=names)
    config.initializer_range = 0.7
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    workflow = made(tmp_path, "text-classification", ".").setup()
    theirs = reference("text-classification", tmp_path)
    for text, outcome in zip(TEXTS, workflow.inference_batch([{"text": text} for text in TEXTS]), strict=True):
        same_labels(outcome, theirs(text, top_k=None))


@pytest.mark.parametrize("template", ["This example is {}.", "a {} fox"])
@pytest.mark.parametrize(("multi_label", "labels"), [(False, LABELS), (True, LABELS), (False, ["sport"])])
def test_labels_nobody_has_trained_for(
    root: Path,
    ready: dict[str, TransformersPipelineWorkflow],
    template: str,
    multi_label: bool,
    labels: list[str],
) -> None:
    theirs = reference("zero-shot-classification", root / "text-classification")
    more = {"hypothesis_template": template, "multi_label": multi_label}
    asked = [{"text": text, "candidate_labels": labels, **more} for text in TEXTS]
    for text, outcome in zip(TEXTS, ready["zero-shot-classification"].inference_batch(asked), strict=True):
        expected = theirs(text, candidate_labels=labels, **more)
        pairs = zip(expected["labels"], expected["scores"], strict=True)
        same_labels(outcome, [{"label": label, "score": score} for label, score in pairs])


@pytest.mark.parametrize("classes", [["entailment", "neutral", "contradiction"], ["entailment", "not_entailment"]])
def test_the_class_that_denies_may_be_the_last(root: Path, tmp_path: Path, classes: list[str]) -> None:
    named = {"id2label": dict(enumerate(classes)), "label2id": {name: place for place, name in enumerate(classes)}}
    save_tiny_task(tmp_path, "text-classification", **named)
    theirs = reference("zero-shot-classification", tmp_path)
    got: Any = (
        made(tmp_path, "zero-shot-classification", ".")
        .setup()
        .inference({"text": TEXTS[0], "candidate_labels": LABELS, "multi_label": True})
    )
    expected = theirs(TEXTS[0], candidate_labels=LABELS, multi_label=True)
    assert [label.score for label in got.labels] == pytest.approx(expected["scores"], abs=1e-5)


# ---- masked words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"targets": ["dog", "fox", "zzz", "dog"]}, {"targets": ["fox"]}])
def test_fillings_are_those_of_the_pipeline(
    root: Path, ready: dict[str, TransformersPipelineWorkflow], more: dict[str, Any]
) -> None:
    theirs = reference("fill-mask", root / "fill-mask")
    outcomes = ready["fill-mask"].inference_batch([{"text": text, **more} for text in MASKED])
    for text, outcome in zip(MASKED, outcomes, strict=True):
        expected = theirs(text, **more)
        assert isinstance(outcome, Filled)
        for mask, wanted in zip(outcome.masks, expected if text.count("<mask>") > 1 else [expected], strict=True):
            got = [filling.model_dump() for filling in mask]
            assert [each.pop("score") for each in got] == pytest.approx(
                [each.pop("score") for each in wanted], abs=1e-5
            )
            assert got == wanted


def test_a_tokenizer_without_a_mask_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "fill-mask", tmp_path, dirs_exist_ok=True)
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(WorkflowError, match="has no mask token"):
        made(tmp_path, "fill-mask", ".").setup()
