"""The committed models are what their reports say, through the workflows that serve them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflows import BaseInferenceWorkflow, Tensors, TensorsResult
from workflows import demo as demo_package
from workflows.card import TensorSpec
from workflows.demo.train_digits import LEAST_ACCURACY, Split, load_split
from workflows.demo.train_tiny_gpt import VOCABULARY, corpus, holdout_loss
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.inference.torch import TorchInferenceWorkflow

DEMO = Path(demo_package.__file__).parent
ROOT = "package:workflows.demo"
IMAGE = TensorSpec(name="image", dtype="float32", shape=[-1, 64])

Digits = BaseInferenceWorkflow[Tensors, TensorsResult]


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split()


@pytest.fixture(scope="module")
def onnx_digits() -> Iterator[Digits]:
    workflow = ONNXInferenceWorkflow(root=ROOT, model="digits.onnx").setup()
    yield workflow
    workflow.teardown()


@pytest.fixture(scope="module")
def torch_digits() -> Iterator[Digits]:
    workflow = TorchInferenceWorkflow(
        root=ROOT,
        module="workflows.demo.digits:DigitsNet",
        weights="digits.safetensors",
        inputs=[IMAGE],
        output_names=["logits"],
    ).setup()
    yield workflow
    workflow.teardown()


def logits(workflow: Digits, images: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = workflow.inference(Tensors(inputs={"image": images})).outputs["logits"]
    return result


def report(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEMO / name).read_text(encoding="utf-8"))
    return content


def test_digits_reads_the_held_out_images(onnx_digits: Digits, split: Split) -> None:
    accuracy = float((logits(onnx_digits, split.test_images).argmax(axis=1) == split.test_labels).mean())

    assert len(split.test_labels) == report("digits_report.json")["test_images"] > 300
    assert accuracy >= LEAST_ACCURACY
    assert accuracy == pytest.approx(report("digits_report.json")["test_accuracy"], abs=1e-4)


def test_held_out_images_were_not_trained_on(split: Split) -> None:
    trained = {image.tobytes() for image in split.train_images}

    assert not any(image.tobytes() in trained for image in split.test_images)


def test_torch_and_onnx_weights_are_the_same(onnx_digits: Digits, torch_digits: Digits, split: Split) -> None:
    from_onnx, from_torch = logits(onnx_digits, split.test_images), logits(torch_digits, split.test_images)

    assert (from_onnx.argmax(axis=1) == from_torch.argmax(axis=1)).all()
    np.testing.assert_allclose(from_onnx, from_torch, rtol=1e-4, atol=1e-4)


def test_sample_is_a_native_request_with_a_known_answer(
    onnx_digits: Digits, torch_digits: Digits, split: Split
) -> None:
    request = report("digits_sample.json")

    for workflow in (onnx_digits, torch_digits):
        answer = workflow.inference(request).outputs["logits"]
        assert answer.shape == (1, 10)
        assert answer.argmax() == report("digits_report.json")["sample_label"] == split.test_labels[0]


def test_both_samples_show_the_same_image() -> None:
    native = report("digits_sample.json")["inputs"]["image"]
    (open_inference,) = report("digits_sample_v2.json")["inputs"]

    assert (open_inference["data"], open_inference["shape"]) == (native["data"], native["shape"])


def unigram_loss(tokenizer: Any, training: list[list[str]], holdout: list[list[str]]) -> float:
    """Nats per held-out token for one who knows only how frequent each token is."""

    def tokens(documents: list[list[str]]) -> list[int]:
        return [token for document in documents for token in tokenizer("\n\n".join(document), verbose=False).input_ids]

    known = Counter(tokens(training))
    total = known.total() + VOCABULARY  # every token once more, so that unseen ones have a chance
    unseen = tokens(holdout)
    return -sum(math.log((known[token] + 1) / total) for token in unseen) / len(unseen)


def test_tiny_gpt_learned_more_than_which_tokens_are_frequent() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "tiny_gpt", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(DEMO / "tiny_gpt", local_files_only=True, dtype="float32").eval()
    training, holdout = corpus()

    seen = {paragraph for document in training for paragraph in document}
    assert not any(paragraph in seen for document in holdout for paragraph in document)
    loss = holdout_loss(model, tokenizer, holdout)
    assert loss < unigram_loss(tokenizer, training, holdout) - 1.0
    assert loss < math.log(VOCABULARY) - 2.0  # all tokens alike


def test_tiny_gpt_continues_a_prompt_and_a_conversation() -> None:
    sampling = {"max_tokens": 12, "temperature": 0.0}
    generator = TransformersTextGenerationWorkflow(root=ROOT, model="tiny_gpt").setup()

    for request in (
        {"prompt": 'The "with" statement is used to', "sampling": sampling},
        {"messages": [{"role": "user", "content": "How are classes defined?"}], "sampling": sampling},
    ):
        answer = generator.inference(request)
        assert answer.text.strip()
        assert answer == generator.inference(request)
    generator.teardown()


def test_artefacts_are_small_and_name_no_machine() -> None:
    artefacts = [path for path in DEMO.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]

    assert {"digits.onnx", "digits.safetensors", "model.safetensors"} <= {path.name for path in artefacts}
    assert sum(path.stat().st_size for path in artefacts) < 10_000_000
    assert not [path.name for path in artefacts if b"site-packages" in path.read_bytes()]
