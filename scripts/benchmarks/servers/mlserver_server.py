"""MLServer, one process (`parallel_workers: 0`), with its adaptive batching or without."""

import asyncio
import json
import os
import sys
from pathlib import Path

import common
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

BATCHING = os.environ.get("BENCH_BATCHING") == "1"
STREAMED = [name for name in common.MODELS if name == "stream"]


class TensorModel(MLModel):
    async def load(self) -> bool:
        self.session = common.open_session(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        array = NumpyCodec.decode_input(payload.inputs[0])
        output = self.session.run(None, {"x": np.ascontiguousarray(array, dtype=np.float32)})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", output)])


class TextModel(MLModel):
    async def load(self) -> bool:
        self.embedder = common.Embedder()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        output = self.embedder(list(StringCodec.decode_input(payload.inputs[0])))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", output)])


class StreamModel(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        raise NotImplementedError

    async def predict_stream(self, payloads):
        async for payload in payloads:
            tokens, delay_ms = NumpyCodec.decode_input(payload.inputs[0]).reshape(-1)
            for number in range(int(tokens)):
                if delay_ms:
                    await asyncio.sleep(delay_ms / 1000)
                output = StringCodec.encode_output("token", [f"t{number}_"])
                yield InferenceResponse(model_name=self.name, outputs=[output])


def write_folder(folder: Path) -> None:
    classes = {"minilm": "TextModel", "stream": "StreamModel"}
    settings = {
        "host": "127.0.0.1",
        "http_port": common.PORT,
        "grpc_port": common.PORTS[1],
        "metrics_port": common.PORTS[2],
        "grpc_max_message_length": 128 << 20,
        "parallel_workers": 0,
        "gzip_enabled": False,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in common.MODELS:
        model = {"name": name, "implementation": f"mlserver_server.{classes.get(name, 'TensorModel')}"}
        if BATCHING and name != "stream":
            model |= {"max_batch_size": 32, "max_batch_time": 0.001}
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    work = Path(os.environ["BENCH_SCRATCH"])
    write_folder(work)
    command = Path(sys.executable).with_name("mlserver")
    os.execv(command, [str(command), "start", str(work)])
