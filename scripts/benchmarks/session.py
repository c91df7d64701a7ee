"""One session: one peer's server, started for one workload, with everything that is measured of it, in order."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from scripts.benchmarks.closed_loop import run_wrk, start_wrk, wrk_result
from scripts.benchmarks.environments import BENCH, Uninstallable, python_of
from scripts.benchmarks.grpc_loop import closed_grpc
from scripts.benchmarks.measure import Meter, pss_mb
from scripts.benchmarks.models import Truth
from scripts.benchmarks.open_loop import closed_and_checked, run_open
from scripts.benchmarks.payloads import Target, stream_request, target
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.serving import NotServing, Server, serving, wait_for_answer
from scripts.benchmarks.streams import run_streams
from scripts.benchmarks.texts import Prompt, chat_prompts, run_texts

__all__ = ["WORKLOADS", "run_session"]

Cell = dict[str, Any]

WORKLOADS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small",),
    "mid": ("mid",),
    "minilm": ("minilm",),
    "tensors": ("rowmean",),
    "infer": ("small", "rowmean"),
    "streams": ("stream",),
    "text": ("text",),
    "mixed": ("small", "mid", "minilm", "rowmean", "stream"),
}
_CONNECTIONS: Final = {"small": (1, 8, 32, 128), "mid": (1, 8, 32, 128), "mid-32": (1, 8, 32), "minilm": (1, 8, 32)}
_OPEN_SHARE: Final = 0.6
_WARM_UP_S: Final = 1.0
_IDLE_S: Final = 2.0
_TEXTS_S: Final = 8.0
_FLAT_TOKENS: Final = 2000
_FLAT_TIMES: Final = 5
_TOKEN_MS: Final = 5.0
_PATIENCE: Final = 5.0  # how many times as long as it should a stream may take


def _rest() -> Cell:
    time.sleep(_IDLE_S)
    return {}


def run_session(peer: Peer, workload: str, truth: Truth, seconds: float) -> Cell:
    """All cells by name, or why there are none."""
    try:
        python = python_of(peer, with_text=workload in {"minilm", "mixed"})
    except Uninstallable as error:
        return {"error": str(error), "cells": {}}
    with serving(peer, python, list(WORKLOADS[workload]), workload) as server:
        session = _Session(server, workload, truth, seconds)
        try:
            session.run()
        except NotServing as error:
            return {"error": str(error), "cells": session.cells}
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            return {"error": f"broke: {type(error).__name__}: {error}"[:160], "cells": session.cells}
        return {"cells": session.cells}


class _Session:
    def __init__(self, server: Server, workload: str, truth: Truth, seconds: float) -> None:
        self._server = server
        self._peer = server.peer
        self._port = server.port
        self._workload = workload
        self._truth = truth
        self._seconds = seconds
        self._scratch: Path = BENCH / "scratch"
        self.cells: dict[str, Cell] = {}

    def run(self) -> None:
        {
            "tensors": self._tensors,
            "infer": self._infer,
            "streams": self._streams,
            "text": self._text,
            "mixed": self._mixed,
        }.get(self._workload, self._requests)()

    def _target(self, name: str) -> Target:
        return target(self._peer, name, self._truth)

    def _cell(self, name: str, measured: Callable[[], Cell]) -> Cell:
        """Measure one cell, with the CPU used meanwhile. One that fails says why, and the next ones are measured."""
        meter = Meter(self._server.root)
        try:
            cell = measured()
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            cell = {"failed": f"{type(error).__name__}: {error}"[:160]}
        cell |= meter.read()
        if cell.get("requests"):
            cell["cpu_s_per_1000"] = 1000 * cell["server_cpu_s"] / cell["requests"]
        self.cells[name] = cell
        shown = {key: cell[key] for key in ("failed", "errors", "wrong", "whole") if cell.get(key)}
        rate = cell.get("rate", cell.get("tokens_per_s", 0.0))
        print(f"  {self._peer.name:15} {name:22} {rate:10.1f}/s  {shown or ''}", file=sys.stderr, flush=True)
        return cell

    # ---- requests: small, mid, minilm -----------------------------------------------------------------------------------

    def _requests(self) -> None:
        names = [self._workload]
        if self._workload == "mid":
            names += ["mid-32", *(["mid-32-binary"] if self._peer.binary else [])]
        self._start(self._target(names[0]))
        for name in names:
            asked = self._target(name)
            if asked.payloads[0].head:  # wrk's script has lines of JSON
                self._cell(f"{name} in process", partial(self._in_process, asked))
                for connections in (1, 8, 32):
                    self._cell(f"{name} c={connections}", partial(self._few_and_large, asked, connections))
            else:
                self._closed_and_open(asked)

    def _start(self, first: Target) -> None:
        """Until it answers, and what it costs when nobody asks."""
        start_s, _ = wait_for_answer(self._server, first)
        time.sleep(1.0)
        cell = self._cell("idle", _rest)
        pids = self._server.pids()
        cell |= {"start_s": start_s, "processes": len(pids), "pss_mb": pss_mb(pids)}
        cell["idle_cores"] = cell["server_cpu_s"] / cell["wall_s"]

    def _closed_and_open(self, asked: Target) -> None:
        length = self._length(asked)
        # wrk does not count what is still out at the end, and a peer may take seconds for 32 texts.
        seconds = max(2 * self._seconds, _TEXTS_S) if asked.name == "minilm" else self._seconds
        run_wrk(self._port, asked, 16, _WARM_UP_S, length, self._scratch)
        peak = 0.0
        for connections in _CONNECTIONS[asked.name]:
            cell = self._cell(
                f"{asked.name} c={connections}",
                partial(run_wrk, self._port, asked, connections, seconds, length, self._scratch),
            )
            peak = max(peak, cell.get("rate", 0.0))
        self.cells[f"{asked.name} c={_CONNECTIONS[asked.name][-1]}"]["pss_mb"] = pss_mb(self._server.pids())
        if peak and asked.name != "mid-32":
            self._cell(
                f"{asked.name} open",
                lambda: uvloop.run(run_open(self._port, asked, _OPEN_SHARE * peak, max(seconds, 2.0))),
            )
        self._cell(f"{asked.name} checked c=32", lambda: uvloop.run(closed_and_checked(self._port, asked, 32, seconds)))

    def _length(self, asked: Target) -> int:
        """Of a right answer. Raises NotServing where there is none."""
        status, body = self._server.post(asked.requests()[0], 60)
        if not asked.is_right(0, status, body):
            raise NotServing(f"{asked.name}: wrong answer: status {status}: {body[:80]!r}")
        return len(body)

    def _in_process(self, asked: Target) -> Cell:
        """The model alone, called in this process, one call after the other."""
        bodies = [(payload.body[payload.head :], payload.expected) for payload in asked.payloads]
        inputs = [np.frombuffer(body, np.float32).reshape(len(expected), -1) for body, expected in bodies]
        model, calls, began = asked.path.split("/")[3], 0, time.perf_counter()
        while time.perf_counter() < began + self._seconds:
            self._truth.run(model, inputs[calls % len(inputs)])
            calls += 1
        return {"rate": calls / (time.perf_counter() - began), "calls": calls}

    # ---- tensors --------------------------------------------------------------------------------------------------------

    def _tensors(self) -> None:
        names = ["tensor-1mb", "tensor-10mb", *(("binary-1mb", "binary-10mb") if self._peer.binary else ())]
        self._start(self._target(names[0]))
        for name in names:
            asked = self._target(name)
            for connections in (1, 4):
                self._cell(
                    f"{name} c={connections}",
                    partial(self._few_and_large, asked, connections),
                )

    def _few_and_large(self, asked: Target, connections: int) -> Cell:
        least = 3 * connections
        return uvloop.run(closed_and_checked(self._port, asked, connections, self._seconds, at_least=least))

    # ---- one protocol over JSON, binary and gRPC -------------------------------------------------------------------------

    def _infer(self) -> None:
        self._start(self._target("small"))
        for name, binary, connections in (
            ("small", "small-binary", (1, 32)),
            ("tensor-10mb", "binary-10mb", (1,)),
        ):
            for count in connections:
                self._cell(f"{name} json c={count}", partial(self._few_and_large, self._target(name), count))
                if self._peer.binary:
                    self._cell(f"{name} binary c={count}", partial(self._few_and_large, self._target(binary), count))
                if self._peer.grpc:
                    self._cell(f"{name} grpc c={count}", partial(self._grpc, self._target(binary), count))

    def _grpc(self, asked: Target, connections: int) -> Cell:
        least = 3 * connections
        return uvloop.run(closed_grpc(self._server.grpc_port, asked, connections, self._seconds, at_least=least))

    # ---- streams --------------------------------------------------------------------------------------------------------

    def _streams(self) -> None:
        self._wait_for_stream()
        flat = stream_request(self._peer, _FLAT_TOKENS, 0)
        for number in range(_FLAT_TIMES):
            self._cell(f"flat {number}", partial(self._stream, flat, 1, _FLAT_TOKENS))
        for streams in (32, 256):
            tokens = self._paced_tokens()
            paced = stream_request(self._peer, tokens, _TOKEN_MS)
            self._cell(f"paced {streams}", partial(self._stream, paced, streams, tokens))

    def _paced_tokens(self) -> int:
        return round(max(1.0, self._seconds) * 1000 / _TOKEN_MS)

    def _stream(self, request: bytes, streams: int, tokens: int) -> Cell:
        patience_s = 10 + _PATIENCE * tokens * _TOKEN_MS / 1000
        return uvloop.run(run_streams(self._port, request, streams, tokens, patience_s))

    def _wait_for_stream(self) -> None:
        request, until, cell = stream_request(self._peer, 3, 0), self._server.began + self._peer.start_s, Cell()
        while time.monotonic() < until:
            try:
                cell = uvloop.run(run_streams(self._port, request, 1, 3, 5.0))
            except OSError:
                cell = {}
            if cell.get("whole"):
                return
            if not self._server.pids():
                raise NotServing("does not start: see its log")
            time.sleep(0.1)
        raise NotServing(f"no whole stream in {self._peer.start_s:.0f} s (tokens seen: {cell.get('tokens', 0)})")

    # ---- texts of a language model -------------------------------------------------------------------------------------

    def _text(self) -> None:
        prompts = chat_prompts(self._peer, self._truth)
        self._wait_for_text(prompts)
        if self._peer.is_ours:
            self._cell("text alone", lambda: self._truth.generation(self._seconds))
        for connections in (1, 16):
            uvloop.run(run_texts(self._port, prompts, connections, _WARM_UP_S))
            self._cell(f"text c={connections}", partial(self._texts, prompts, connections))

    def _texts(self, prompts: Sequence[Prompt], connections: int) -> Cell:
        return uvloop.run(run_texts(self._port, prompts, connections, 2 * self._seconds))

    def _wait_for_text(self, prompts: Sequence[Prompt]) -> None:
        until, cell = self._server.began + self._peer.start_s, Cell()
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                cell = uvloop.run(run_texts(self._port, prompts[:1], 1, 0.0))
            if cell.get("requests") and not cell["wrong"]:
                return
            if not self._server.pids():
                raise NotServing("does not start: see its log")
            time.sleep(0.2)
        raise NotServing(f"no right text in {self._peer.start_s:.0f} s")

    # ---- mixed ----------------------------------------------------------------------------------------------------------

    def _mixed(self) -> None:
        """All at once: three kinds of requests from wrk, large tensors and paced streams from here."""
        for name in ("minilm", "mid", "small", "tensor-1mb"):
            wait_for_answer(self._server, self._target(name))
        self._wait_for_stream()
        self._cell("mixed", self._all_at_once)

    def _all_at_once(self) -> Cell:
        seconds = max(4.0, self._seconds)
        tokens = round(seconds * 1000 / _TOKEN_MS)
        request, large = stream_request(self._peer, tokens, _TOKEN_MS), self._target("tensor-1mb")
        plan = {
            name: (self._target(name), connections) for name, connections in (("small", 8), ("mid", 8), ("minilm", 2))
        }
        lengths = {name: self._length(asked) for name, (asked, _) in plan.items()}
        running = {
            name: start_wrk(self._port, asked, connections, seconds, lengths[name], self._scratch)
            for name, (asked, connections) in plan.items()
        }

        async def here() -> tuple[Cell, Cell]:
            return await asyncio.gather(
                closed_and_checked(self._port, large, 1, seconds),
                run_streams(self._port, request, 32, tokens, 10 + _PATIENCE * seconds),
            )

        tensors, streams = uvloop.run(here())
        parts: dict[str, Cell] = {name: wrk_result(process) for name, process in running.items()}
        parts |= {"tensor-1mb": tensors, "streams": streams}
        return {"parts": parts, "rate": sum(part.get("rate", 0.0) for part in parts.values())}
