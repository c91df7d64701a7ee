"""Ray Serve as its documentation has it: a router deployment, a model deployment with `@serve.batch`, all defaults."""

import signal
import time

import common
import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse


@serve.deployment(max_ongoing_requests=512)
class Model:
    def __init__(self, name: str) -> None:
        self.name = name
        if name == "minilm":
            self.embedder = common.Embedder()
        elif name != "stream":
            self.session = common.open_session(name)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def infer(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        output = self.session.run(None, {"x": np.concatenate(arrays)})[0]
        return np.split(output, np.cumsum([len(array) for array in arrays])[:-1])

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def embed(self, texts: list[str]) -> list[list[float]]:
        return self.embedder(texts).tolist()

    async def stream(self, tokens: int, delay_ms: float):
        async for event in common.events(tokens, delay_ms):
            yield event


@serve.deployment(max_ongoing_requests=512)
class Router:
    def __init__(self, **models) -> None:
        self.models = models

    async def __call__(self, request: Request):
        body, path = await request.json(), request.url.path
        if path == "/embed":
            return JSONResponse({"embedding": await self.models["minilm"].embed.remote(body["text"])})
        if path == "/stream":
            chunks = self.models["stream"].options(stream=True).stream.remote(body["tokens"], body["delay_ms"])
            return StreamingResponse(chunks, media_type="text/event-stream")
        name = path.split("/")[3]
        output = await self.models[name].infer.remote(common.array_of(body["inputs"][0]))
        return JSONResponse(common.answer(name, output))


def main() -> None:
    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=common.PORT))
    models = {name: Model.options(name=name, ray_actor_options={"num_cpus": 0.2}).bind(name) for name in common.MODELS}
    serve.run(Router.options(ray_actor_options={"num_cpus": 0.2}).bind(**models))
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, frame: stopped.append(got))
    while not stopped:
        time.sleep(0.2)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
