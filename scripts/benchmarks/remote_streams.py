"""Many slow streams of a remote model through one replica: what it takes, and by how much each token is late.

    python -m scripts.benchmarks.remote_streams --streams 500 --seconds 60

The remote model is a process of its own, which writes into each token when it sent it. The replica is this process: the
workflow with the official SDK, in the runner and with the collector's settings that a Ray replica has, without Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Final

from deployments.client import Item
from deployments.collector import expect_parked_calls
from deployments.config import WorkflowSettings
from deployments.runner import Runner
from scripts.benchmarks.open_loop import percentile
from workflows import CSSInferenceWorkflow
from workflows.context import CallContext
from workflows.remote.policy import UpstreamPolicy

_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PERIOD_S: Final = 1.0


# ---- the remote model ------------------------------------------------------------------------------------------------


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "slow",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    if finish is not None:
        told["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _slow_model(streams: int, tokens: int) -> None:
    """Prints its port. Streams begin evenly over a period, and then send a token each period."""
    numbers = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        due = time.monotonic() + _PERIOD_S * (1 + next(numbers) % streams / streams)
        for _ in range(tokens):
            await asyncio.sleep(due - time.monotonic())
            writer.write(_chunked(_event({"role": "assistant", "content": f"{time.monotonic_ns()} "})))
            await writer.drain()
            due += _PERIOD_S
        writer.write(_chunked(_event({}, "stop")) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=streams)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _started(streams: int, tokens: int) -> Iterator[int]:
    command = [sys.executable, "-m", __spec__.name, "--slow-model", f"--streams={streams}", f"--seconds={tokens}"]
    with Popen(command, stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


# ---- the replica -----------------------------------------------------------------------------------------------------


async def _read(runner: Runner, late_ms: list[float]) -> None:
    asked = {"messages": [{"role": "user", "content": "hello"}]}
    async with aclosing(runner.stream(Item(asked, CallContext()))) as groups:
        async for group in groups:
            now = time.monotonic_ns()
            late_ms.extend((now - int(chunk["text"])) / 1e6 for chunk in group if chunk["text"].strip())


async def _measure(port: int, streams: int, tokens: int) -> dict[str, Any]:
    workflow = CSSInferenceWorkflow(
        "openai-compatible",
        "slow",
        base_url=f"http://127.0.0.1:{port}/v1",
        upstream=UpstreamPolicy(max_concurrent=streams, total_s=86_400.0),
    )
    runner = Runner(workflow, "slow", settings=WorkflowSettings(max_streams=streams))
    expect_parked_calls()
    await runner.start()
    gc.collect()
    gc.freeze()  # as Serve does
    late_ms: list[float] = []
    reading = [asyncio.create_task(_read(runner, late_ms)) for _ in range(streams)]
    await asyncio.sleep(min(10.0, tokens / 3))  # opened, and running evenly
    gc.collect()
    await asyncio.sleep(_PERIOD_S)  # so that what this has made late is not counted
    began, cpu, skipped = time.monotonic(), time.process_time(), len(late_ms)
    memory = [_rss_mb()]
    while len(late_ms) < streams * (tokens - 2) and not any(task.done() for task in reading):
        await asyncio.sleep(1.0)
        memory.append(_rss_mb())
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    await asyncio.gather(*reading)
    await runner.stop()
    steady = sorted(late_ms[skipped:])
    return {
        "streams": streams,
        "seconds": round(took, 1),
        "tokens": len(late_ms),
        "cpu_cores": round(cpu / took, 3),
        "late_ms": {
            name: round(percentile(steady, share), 2) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        "rss_mb": {"begin": memory[0], "end": memory[-1], "most": max(memory)},
    }


def _rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=60, help="how many tokens each stream has, one a second")
    parser.add_argument("--slow-model", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.slow_model:
        asyncio.run(_slow_model(options.streams, options.seconds))
        return
    with _started(options.streams, options.seconds) as port:
        print(json.dumps(asyncio.run(_measure(port, options.streams, options.seconds)), indent=2))


if __name__ == "__main__":
    main()
