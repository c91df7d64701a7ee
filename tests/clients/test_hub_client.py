"""`huggingface_hub.InferenceClient` and its async twin, pointed at workflows: each task gives what the workflow gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, ValidationError
from transformers import AutoTokenizer

from tests.clients.system import System, running
from tests.workflows.tiny_tasks import LONG_TEXT, TEXTS, save_tiny_task, save_tiny_translator
from tests.workflows.tiny_transformers import save_tiny_llama
from workflows import TransformersPipelineWorkflow, TransformersTextGenerationWorkflow

pytestmark = pytest.mark.usefixtures("online")

TEXT = TEXTS[1]
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
PROMPT = "The for statement"
FEW: dict[str, Any] = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A tiny model for every task, and one to talk to."""
    root = tmp_path_factory.mktemp("models")
    named: dict[Any, str] = {"zero-shot-classification": "text-classification", "translation": "translation"}
    for task in ("fill-mask", "question-answering", "summarization", "text-classification", "token-classification"):
        save_tiny_task(root / task, task)
        named[task] = task
    save_tiny_translator(root / "translation")
    options: dict[str, Any] = {"root": str(root), "threads": 1, "max_new_tokens": 8}
    workflows: dict[str, Any] = {
        task: TransformersPipelineWorkflow(model, task=task, **options) for task, model in named.items()
    }
    workflows["chat"] = TransformersTextGenerationWorkflow(_talking(root), root=str(root), threads=1)
    with running(workflows) as made:
        yield made


def _talking(root: Path) -> str:
    save_tiny_llama(root / "chat")
    load: Any = AutoTokenizer.from_pretrained
    tokenizer = load(root / "chat")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "chat")
    return "chat"


def client(system: System, name: str) -> Any:
    """Its many overloads say less than the tests do."""
    return InferenceClient(model=f"http://{system.http}/hf/{name}", timeout=30)


# ---- tasks ---------------------------------------------------------------------------------------------------------------


def test_classes_of_a_text(tasks: System) -> None:
    got = client(tasks, "text-classification").text_classification(TEXT, top_k=2, function_to_apply="sigmoid")
    alone = tasks.direct("text-classification", {"text": TEXT, "top_k": 2, "function_to_apply": "sigmoid"})
    assert [(each.label, each.score) for each in got] == [(each.label, each.score) for each in alone.labels]
    assert len(got) == 2


@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_of_the_callers_own(tasks: System, multi_label: bool) -> None:
    name, labels = "zero-shot-classification", ["sport", "politics", "dog"]
    got = client(tasks, name).zero_shot_classification(
        TEXT, labels, multi_label=multi_label, hypothesis_template="a {} example"
    )
    asked = {"text": TEXT, "candidate_labels": labels, "hypothesis_template": "a {} example"}
    alone = tasks.direct(name, asked | {"multi_label": multi_label})
    assert [(each.label, each.score) for each in got] == [(each.label, each.score) for each in alone.labels]


@pytest.mark.parametrize("more", [{}, {"aggregation_strategy": "none", "ignore_labels": []}, {"stride": 4}])
def test_what_is_in_a_text(tasks: System, more: dict[str, Any]) -> None:
    text = LONG_TEXT if "stride" in more else TEXT
    got = client(tasks, "token-classification").token_classification(text, **more)
    alone = tasks.direct("token-classification", {"text": text, **more})
    whole = [(each.label, each.word, each.start, each.end, each.score) for each in alone.entities]
    assert [(each.entity or each.entity_group, each.word, each.start, each.end, each.score) for each in got] == whole
    assert all((each.entity is None) is ("aggregation_strategy" not in more) for each in got)
    assert got


def test_masked_words(tasks: System) -> None:
    got = client(tasks, "fill-mask").fill_mask("a <mask> fox", top_k=2, targets=["dog", "lazy", "quick"])
    asked = {"text": "a <mask> fox", "top_k": 2, "targets": ["dog", "lazy", "quick"]}
    (alone,) = tasks.direct("fill-mask", asked).masks
    assert [(each.token_str, each.token, each.score, each.sequence) for each in got] == [
        (each.token_str, each.token, each.score, each.sequence) for each in alone
    ]


@pytest.mark.parametrize("more", [{}, {"top_k": 3, "handle_impossible_answer": True, "max_answer_len": 4}])
def test_questions(tasks: System, more: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"question": "is this a fox", "context": LONG_TEXT, "doc_stride": 4, **more}
    got: Any = client(tasks, "question-answering").question_answering(**asked)
    alone = tasks.direct("question-answering", asked).answers
    told = got if more else [got]
    assert [(each.answer, each.score, each.start, each.end) for each in told] == [
        (each.answer, each.score, each.start, each.end) for each in alone
    ]
    assert len(told) == more.get("top_k", 1)


def test_summaries(tasks: System) -> None:
    decoding = {"max_new_tokens": 5, "num_beams": 2}
    got = client(tasks, "summarization").summarization(
        LONG_TEXT, generate_parameters=decoding, truncation="longest_first", clean_up_tokenization_spaces=True
    )
    more = {"decoding": decoding, "truncate": True, "clean_up_tokenization_spaces": True}
    assert got.summary_text == tasks.direct("summarization", {"text": LONG_TEXT, **more}).text
    assert got.summary_text


def test_translations(tasks: System) -> None:
    languages: dict[str, Any] = {"src_lang": "eng_Latn", "tgt_lang": "fra_Latn"}
    got = client(tasks, "translation").translation("a fox", **languages)
    assert got.translation_text == tasks.direct("translation", {"text": "a fox", **languages}).text
    assert got.translation_text != client(tasks, "translation").translation("a dog", **languages).translation_text


async def test_the_async_client_gives_the_same(tasks: System) -> None:
    def twin(name: str) -> AsyncInferenceClient:
        return AsyncInferenceClient(model=f"http://{tasks.http}/hf/{name}", timeout=30)

    async with twin("text-classification") as one, twin("question-answering") as other:
        labels = await one.text_classification(TEXT)
        assert labels == client(tasks, "text-classification").text_classification(TEXT)
        answer = await other.question_answering("is this a fox", TEXT)
        assert answer == client(tasks, "question-answering").question_answering("is this a fox", TEXT)
    async with twin("fill-mask") as masks, twin("summarization") as texts:
        assert (await masks.fill_mask("a <mask>"))[0].token_str
        assert (await texts.summarization(TEXT)).summary_text
        with pytest.raises(BadRequestError, match="1 to 16 mask tokens"):
            await masks.fill_mask("a fox")


def test_errors_are_the_clients_own(tasks: System) -> None:
    with pytest.raises(BadRequestError, match=r"context length exceeded: .* tokens, and 40 fit"):
        client(tasks, "text-classification").text_classification(LONG_TEXT)
    with pytest.raises(BadRequestError, match="does not know that language"):
        client(tasks, "translation").translation("a", src_lang="eng_Latn", tgt_lang="ita_Latn")
    with pytest.raises(HfHubHTTPError, match="model not found") as caught:
        client(tasks, "nowhere").text_classification("a")
    assert caught.value.response.status_code == 404


# ---- vectors -------------------------------------------------------------------------------------------------------------


def test_vectors(system: System) -> None:
    embedding = client(system, "text-embedding")
    alone = [system.direct("text-embedding", {"text": text}).embedding for text in ("hello", "A longer text.")]
    np.testing.assert_allclose(embedding.feature_extraction("hello"), alone[0], atol=1e-6)
    both = embedding.feature_extraction(["hello", "A longer text."])
    assert both.shape == (2, 384)
    np.testing.assert_allclose(both, alone, atol=1e-6)
    short = embedding.feature_extraction("hello", dimensions=8, normalize=True)
    np.testing.assert_allclose(short, alone[0][:8] / np.linalg.norm(alone[0][:8]), atol=1e-5)
    with pytest.raises(BadRequestError, match="no prompt of that name"):
        embedding.feature_extraction("hello", prompt_name="query")
    with pytest.raises(BadRequestError, match="context length exceeded"):
        embedding.feature_extraction("hello " * 600)
    left, right = (
        embedding.feature_extraction("hello " + "fox " * 600, truncate=True, truncation_direction=direction)
        for direction in ("left", "right")
    )
    assert not np.allclose(left, right, atol=1e-4)


def test_how_near_sentences_are(system: System) -> None:
    near, far = client(system, "text-embedding").sentence_similarity(
        "A man is eating food.", ["A man is eating a piece of bread.", "The girl is carrying a baby."]
    )
    assert (near, far) == (pytest.approx(0.75534, abs=1e-4), pytest.approx(-0.10496, abs=1e-4))


# ---- text ----------------------------------------------------------------------------------------------------------------


def test_text_whole_and_streamed(system: System) -> None:
    writer = client(system, "tiny-gpt")
    sampling = {"max_tokens": 6, "temperature": 0}
    alone = system.direct("tiny-gpt", {"prompt": PROMPT, "sampling": sampling})
    assert writer.text_generation(PROMPT, **FEW) == alone.text
    with client(system, "tiny-gpt") as streaming:
        pieces = [piece for piece in streaming.text_generation(PROMPT, stream=True, **FEW) if piece]
    assert "".join(pieces) == alone.text
    assert len(pieces) == 6
    told = writer.text_generation(PROMPT, details=True, **FEW)
    assert (told.generated_text, told.details.generated_tokens) == (alone.text, 6)


async def test_text_from_the_async_client(system: System) -> None:
    async with AsyncInferenceClient(model=f"http://{system.http}/hf/tiny-gpt", timeout=30) as writer:
        whole = await writer.text_generation(PROMPT, **FEW)
        pieces = [piece async for piece in await writer.text_generation(PROMPT, stream=True, **FEW)]
    assert "".join(pieces) == whole
    assert whole == client(system, "tiny-gpt").text_generation(PROMPT, **FEW)


def test_text_that_is_refused(system: System) -> None:
    writer = client(system, "tiny-gpt")
    with pytest.raises(ValidationError, match="context length exceeded"):
        writer.text_generation("for " * 5000)
    with pytest.raises(ValidationError, match="temperature"):
        writer.text_generation(PROMPT, temperature=5.0)


def test_conversations(tasks: System) -> None:
    talker = client(tasks, "chat")
    messages: list[Any] = [{"role": "user", "content": "the quick brown"}]
    sampling = {"max_tokens": 5, "temperature": 0.0}
    alone = tasks.direct("chat", {"messages": messages, "sampling": sampling})
    got = talker.chat_completion(messages, **sampling)
    assert (got.choices[0].message.content, got.choices[0].finish_reason) == (alone.text, alone.finish_reason)
    assert got.usage.completion_tokens == alone.usage.completion_tokens
    with client(tasks, "chat") as streaming:
        chunks = list(streaming.chat_completion(messages, stream=True, **sampling))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone.text
    with pytest.raises(BadRequestError, match="max_tokens"):
        talker.chat_completion(messages, max_tokens=-1)


async def test_conversations_with_the_async_client(tasks: System) -> None:
    messages: list[Any] = [{"role": "user", "content": "the lazy dog"}]
    async with AsyncInferenceClient(model=f"http://{tasks.http}/hf/chat", timeout=30) as talker:
        whole = await talker.chat_completion(messages, max_tokens=4, temperature=0.0)
        stream = await talker.chat_completion(messages, max_tokens=4, temperature=0.0, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content
