"""Closed loop over gRPC: so many connections, each with one ModelInfer at a time; contents are compared afterwards.

The generator is Python's own gRPC client, which costs more than any server here for one row: such rates are a lower bound
of what servers can do, and their ratios nearer to one than the servers are. It sends and keeps bytes, unparsed.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import numpy as np
from grpc import aio

from deployments.router.protocols.open_inference.grpc_proto import message_class
from scripts.benchmarks.open_loop import percentile
from scripts.benchmarks.payloads import Target

__all__ = ["closed_grpc"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_KEPT: Final = 20_000
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
]


async def closed_grpc(
    port: int, target: Target, connections: int, seconds: float, *, at_least: int = 1
) -> dict[str, Any]:
    """`target` has binary payloads, whose tensors are sent raw."""
    requests = [_request(target, number) for number in range(len(target.payloads))]
    kept, times = list[tuple[int, bytes]](), list[float]()
    failed, turn = 0, 0
    channels = [aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) for _ in range(connections)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    began = time.monotonic()
    until = began + seconds

    async def ask(channel: aio.Channel) -> None:
        nonlocal failed, turn
        call = channel.unary_unary(_METHOD)
        while time.monotonic() < until or turn < at_least:
            number = turn % len(requests)
            turn += 1
            sent = time.monotonic()
            try:
                answer = await call(requests[number])
            except aio.AioRpcError:
                failed += 1
                continue
            times.append(time.monotonic() - sent)
            if len(kept) < _KEPT:
                kept.append((number, answer))

    async with asyncio.timeout(seconds + 60 + at_least):
        await asyncio.gather(*map(ask, channels))
    took = time.monotonic() - began
    await asyncio.gather(*(channel.close() for channel in channels))
    times.sort()
    wrong = sum(not target.is_near(number, _numbers(answer)) for number, answer in kept)
    return {
        "requests": len(times),
        "errors": failed,
        "checked": len(kept),
        "wrong": wrong,
        "rate": len(times) / took,
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
    }


def _request(target: Target, number: int) -> bytes:
    payload = target.payloads[number]
    raw = payload.body[payload.head :]
    message = message_class("ModelInferRequest")(model_name=target.path.split("/")[3])
    rows = len(payload.expected)
    message.inputs.add(name="x", datatype="FP32", shape=[rows, len(raw) // 4 // rows])
    message.raw_input_contents.append(raw)
    data: bytes = message.SerializeToString()
    return data


def _numbers(answer: bytes) -> Any:
    message = message_class("ModelInferResponse").FromString(answer)
    if message.raw_output_contents:
        return np.frombuffer(message.raw_output_contents[0], np.float32)
    return message.outputs[0].contents.fp32_contents
