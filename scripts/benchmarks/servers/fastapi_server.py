"""FastAPI with pydantic bodies, on uvicorn with uvloop and httptools: no batching. The baseline."""

import os

import common
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Body(BaseModel):
    inputs: list[Tensor]


class Answer(BaseModel):
    model_name: str
    model_version: str
    outputs: list[Tensor]


class Text(BaseModel):
    text: str


class Embedding(BaseModel):
    embedding: list[float]


class Wanted(BaseModel):
    tokens: int
    delay_ms: float


app = FastAPI()
sessions = {name: common.open_session(name) for name in common.ONNX}
embedder = common.Embedder() if common.TEXT else None


@app.post("/v2/models/{name}/infer")
async def infer(name: str, body: Body) -> Answer:
    tensor = body.inputs[0]
    array = common.np.asarray(tensor.data, common.np.float32).reshape(tensor.shape)
    result = sessions[name].run(None, {"x": array})[0]
    output = Tensor(name="y", datatype="FP32", shape=list(result.shape), data=result.reshape(-1).tolist())
    return Answer(model_name=name, model_version="1", outputs=[output])


@app.post("/embed")
async def embed(body: Text) -> Embedding:
    return Embedding(embedding=embedder([body.text])[0].tolist())


@app.post("/stream")
async def stream(body: Wanted) -> StreamingResponse:
    return StreamingResponse(common.events(body.tokens, body.delay_ms), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_server:app",
        host="127.0.0.1",
        port=common.PORT,
        workers=int(os.environ.get("BENCH_WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
