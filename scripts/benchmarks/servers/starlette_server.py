"""Bare Starlette with orjson, one process, no validation and no batching: what Python's HTTP stack can do."""

import common
import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

sessions = {name: common.open_session(name) for name in common.ONNX}
embedder = common.Embedder() if common.TEXT else None


def render(value: object) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


async def infer(request: Request) -> Response:
    name = request.path_params["name"]
    content = await request.body()
    head = request.headers.get("inference-header-content-length")
    if head is None:
        array = common.array_of(orjson.loads(content)["inputs"][0])
    else:
        shape = orjson.loads(content[: int(head)])["inputs"][0]["shape"]
        array = np.frombuffer(content, np.float32, offset=int(head)).reshape(shape)
    return render(common.answer(name, sessions[name].run(None, {"x": array})[0], as_list=False))


async def embed(request: Request) -> Response:
    body = orjson.loads(await request.body())
    return render({"embedding": embedder([body["text"]])[0]})


async def stream(request: Request) -> Response:
    body = orjson.loads(await request.body())
    return StreamingResponse(common.events(body["tokens"], body["delay_ms"]), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/v2/models/{name}/infer", infer, methods=["POST"]),
        Route("/embed", embed, methods=["POST"]),
        Route("/stream", stream, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=common.PORT,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
