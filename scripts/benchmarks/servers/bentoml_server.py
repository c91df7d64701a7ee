"""BentoML with its adaptive batching. A batchable API takes and gives a list, so the answer is the list of outputs."""

import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import bentoml
import common
import numpy as np

BATCH = {"batchable": True, "max_batch_size": 32, "max_latency_ms": 60_000}


def tensor_api(name: str):
    def infer(self, inputs: list[dict]) -> list[dict]:
        arrays = [common.array_of(tensor) for tensor in inputs]
        output = self.sessions[name].run(None, {"x": np.concatenate(arrays)})[0]
        parts = np.split(output, np.cumsum([len(array) for array in arrays])[:-1])
        return [common.answer(name, part)["outputs"][0] for part in parts]

    infer.__name__ = f"infer_{name}"
    return bentoml.api(infer, route=f"/v2/models/{name}/infer", **BATCH)


def load(self) -> None:
    self.sessions = {name: common.open_session(name) for name in common.ONNX}
    self.embedder = common.Embedder() if common.TEXT else None


def embed(self, text: list[str]) -> list[list[float]]:
    return self.embedder(text).tolist()


async def stream(self, tokens: int, delay_ms: float) -> AsyncGenerator[str, None]:
    async for event in common.events(tokens, delay_ms):
        yield event


members = {"__init__": load, "__module__": __name__}
members |= {f"infer_{name}": tensor_api(name) for name in common.ONNX}
if common.TEXT:
    members["embed"] = bentoml.api(embed, route="/embed", **BATCH)
if common.STREAM:
    members["stream"] = bentoml.api(stream, route="/stream")
options = {"workers": 1, "traffic": {"timeout": 300, "max_concurrency": 4096}, "metrics": {"enabled": False}}
Bench = bentoml.service(type("Bench", (), members), **options)

if __name__ == "__main__":
    command = str(Path(sys.executable).with_name("bentoml"))
    address = ["--host", "127.0.0.1", "--port", str(common.PORT)]
    os.execv(command, [command, "serve", "bentoml_server:Bench", *address])
