"""What a streamed token costs beside the model: CPU time of a replica and of a router, in processes of their own, without Ray.

    python -m scripts.benchmarks.token_cost --streams 16 --tokens 400
    py-spy record -d 10 -r 500 -o replica.svg -p PID            while it runs; the ids are printed

The replica has the demo's language model with an engine whose steps compute nothing (`token_steps`). All else is what serves:
the engine's socket, text, lane, router, protocol, HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from subprocess import PIPE, Popen
from typing import Any, Final

import uvloop

from deployments.collector import expect_parked_calls
from deployments.config import RouterArgs
from deployments.lanes.address import LaneAddress
from deployments.lanes.chooser import LaneChooser
from deployments.lanes.server import LaneServer
from deployments.router.app import build_app
from deployments.router.directory import Directory, Entry
from deployments.router.dispatch import Dispatcher
from deployments.router.keys import Keys
from deployments.router.listeners import HttpListener
from deployments.router.metrics import Metrics
from deployments.runner import Runner
from scripts.benchmarks import token_steps
from scripts.benchmarks.measure import family
from scripts.benchmarks.payloads import json_request
from scripts.benchmarks.streams import Reader
from scripts.benchmarks.token_steps import STEP_MS
from workflows import TransformersTextGenerationWorkflow
from workflows.card import Card
from workflows.inference.generation import engine_process

_HOST: Final = "127.0.0.1"
_MODEL: Final = "tiny-gpt"
_PATIENCE_S: Final = 60.0
_END: Final = b"data: [DONE]\n\n\r\n0\r\n\r\n"

# ---- the replica -----------------------------------------------------------------------------------------------------


async def _replica(step_ms: float) -> None:
    """Prints where its lane is and its card."""
    expect_parked_calls()
    os.environ[STEP_MS] = str(step_ms)
    engine_process.HOST = token_steps.__name__
    runner = Runner(TransformersTextGenerationWorkflow(root="package:workflows.demo", model="tiny_gpt"), _MODEL)
    await runner.start()
    lane = LaneServer(runner, "replica")
    await lane.start()
    address = lane.address("node")
    assert address is not None
    print(json.dumps([asdict(address), runner.card.model_dump(mode="json")]), flush=True)
    await asyncio.Event().wait()


# ---- the router ------------------------------------------------------------------------------------------------------


async def _router(told: str) -> None:
    """Prints its port."""
    expect_parked_calls()
    address, plain_card = json.loads(told)
    handle: Any = None  # nothing goes that way
    client: Any = LaneChooser(handle)
    client.count(1)
    await client.adopt([LaneAddress(**address)])
    card = Card.model_validate(plain_card)
    directory, dispatcher = Directory(), Dispatcher(client)
    dispatcher.configure(card, 1)
    directory.put(Entry(_MODEL, dispatcher, "ready", card=card, replicas=1))
    args = RouterArgs()
    app = build_app(directory, args, Keys(), Metrics(entries=directory))
    listener = HttpListener(app, _HOST, 0, limits=args.limits, owner="bench", send_away=lambda: None)
    await listener.start(drain_s=0.0)
    print(listener.address[1], flush=True)
    await asyncio.Event().wait()


# ---- the callers -----------------------------------------------------------------------------------------------------


async def _read(port: int, request: bytes) -> None:
    _, reader = await asyncio.get_running_loop().create_connection(Reader, _HOST, port)
    reader.begin(request)
    async with asyncio.timeout(_PATIENCE_S):
        await reader.ended
    reader.transport.abort()
    if b'"finish_reason":"length"' not in reader.data or not reader.data.endswith(_END):
        raise RuntimeError(f"no whole stream: {bytes(reader.data[:200])!r}")


async def _measure(port: int, pids: dict[str, int], streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    body = {"model": _MODEL, "messages": [{"role": "user", "content": "Go on."}], "stream": True, "max_tokens": tokens}
    request = json_request("/v1/chat/completions", {**body, "temperature": 0})
    costs: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(rounds + 1):
        before = {name: family(pid)[pid] for name, pid in pids.items()}
        await asyncio.gather(*(_read(port, request) for _ in range(streams)))
        for name, pid in pids.items():
            costs[name].append((family(pid)[pid] - before[name]) / (streams * tokens) * 1e6)
    return {
        "streams": streams,
        "tokens": streams * tokens * rounds,
        "us_per_token": {name: round(median(found[1:]), 1) for name, found in costs.items()},
        "of_rounds": {name: [round(cost, 1) for cost in found[1:]] for name, found in costs.items()},
    }


@contextmanager
def _part(*arguments: str) -> Iterator[tuple[int, str]]:
    """A process of this module: its id, and the line that it says when it is ready."""
    command = [sys.executable, "-m", __spec__.name, *arguments]
    with Popen(command, stdout=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, process.stdout.readline()
        finally:
            process.kill()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmarks.token_cost")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=8.0)
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--router", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.replica:
        uvloop.run(_replica(options.step_ms))
    elif options.router:
        uvloop.run(_router(options.router))
    else:
        with _part("--replica", f"--step-ms={options.step_ms}") as (replica, told), _part("--router", told) as routing:
            router, port = routing
            print(f"replica {replica}, router {router}", file=sys.stderr, flush=True)
            pids = {"replica": replica, "router": router}
            found = uvloop.run(_measure(int(port), pids, options.streams, options.tokens, options.rounds))
        print(json.dumps({**found, "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
