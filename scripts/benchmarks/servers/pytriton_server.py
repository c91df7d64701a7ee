"""NVIDIA PyTriton: Triton's C++ front with its dynamic batcher, the model in a Python process."""

import os
import sysconfig

import common
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def tensor_model(name: str):
    session = common.open_session(name)

    @batch
    def run(x):
        return {"y": session.run(None, {"x": x})[0]}

    return run


def text_model():
    embedder = common.Embedder()

    @batch
    def run(text):
        return {"embedding": embedder([value.decode() for value in text.reshape(-1)])}

    return run


def stream_model(requests):
    (request,) = requests
    tokens, delay_ms = int(request["tokens"].reshape(-1)[0]), float(request["delay_ms"].reshape(-1)[0])
    for token in common.slow_tokens(tokens, delay_ms):
        yield [{"token": np.array([token.encode()])}]


def main() -> None:
    # Triton's Python backend loads libpython: this interpreter's, not one of the same name that the system has.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=common.PORT,
        grpc_address="127.0.0.1",
        grpc_port=common.PORTS[1],
        metrics_port=common.PORTS[2],
        log_verbose=0,
        exit_on_error=True,
    )
    with Triton(config=config) as triton:
        for name in common.ONNX:
            width_in, width_out = common.WIDTHS[name]
            triton.bind(
                model_name=name,
                infer_func=tensor_model(name),
                inputs=[Tensor(name="x", dtype=np.float32, shape=(width_in,))],
                outputs=[Tensor(name="y", dtype=np.float32, shape=(width_out,))],
                config=ModelConfig(max_batch_size=common.MAX_ROWS[name], batcher=DynamicBatcher()),
                strict=False,
            )
        if common.TEXT:
            triton.bind(
                model_name="minilm",
                infer_func=text_model(),
                inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
                outputs=[Tensor(name="embedding", dtype=np.float32, shape=(384,))],
                config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher()),
                strict=False,
            )
        if common.STREAM:
            triton.bind(
                model_name="stream",
                infer_func=stream_model,
                inputs=[
                    Tensor(name="tokens", dtype=np.int32, shape=(1,)),
                    Tensor(name="delay_ms", dtype=np.float32, shape=(1,)),
                ],
                outputs=[Tensor(name="token", dtype=bytes, shape=(1,))],
                config=ModelConfig(batching=False, decoupled=True),
                strict=False,
            )
        triton.serve()


if __name__ == "__main__":
    main()
