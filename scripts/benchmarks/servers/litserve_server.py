"""LitServe with its batching: one API per model, each with a worker of its own."""

import common
import litserve as ls
import numpy as np


class TensorAPI(ls.LitAPI):
    def __init__(self, model: str, **options) -> None:
        super().__init__(**options)
        self.model_name = model

    def setup(self, device) -> None:
        self.session = common.open_session(self.model_name)

    def decode_request(self, request):
        return common.array_of(request["inputs"][0])

    def batch(self, inputs):
        self.rows = [len(array) for array in inputs]
        return np.concatenate(inputs)

    def predict(self, x):
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output):
        return np.split(output, np.cumsum(self.rows)[:-1])

    def encode_response(self, output):
        return common.answer(self.model_name, output)


class TextAPI(ls.LitAPI):
    def setup(self, device) -> None:
        self.embedder = common.Embedder()

    def decode_request(self, request):
        return request["text"]

    def predict(self, texts):
        return self.embedder(texts)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"embedding": output.tolist()}


class StreamAPI(ls.LitAPI):
    async def asetup(self, device) -> None:
        pass

    def setup(self, device) -> None:
        pass

    async def decode_request(self, request):
        return request

    async def predict(self, wanted):
        async for event in common.events(wanted["tokens"], wanted["delay_ms"]):
            yield event

    async def encode_response(self, output):
        async for event in output:
            yield event


def apis() -> list[ls.LitAPI]:
    made: list[ls.LitAPI] = [
        TensorAPI(name, api_path=f"/v2/models/{name}/infer", max_batch_size=32, batch_timeout=0.001)
        for name in common.ONNX
    ]
    if common.TEXT:
        made.append(TextAPI(api_path="/embed", max_batch_size=32, batch_timeout=0.001))
    if common.STREAM:
        made.append(StreamAPI(api_path="/stream", stream=True, enable_async=True))
    return made


if __name__ == "__main__":
    served = apis()
    server = ls.LitServer(
        served if len(served) > 1 else served[0], accelerator="cpu", workers_per_device=1, timeout=120
    )
    server.run(host="127.0.0.1", port=common.PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
