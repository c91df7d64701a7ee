"""An engine's process: opens what it is told to, and answers what it is asked for until nobody is there any more.

    python -P -m workflows.inference.generation.engine_host FD

FD is the number of its end of a socket, which `EngineProcess` has left open for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import Any, Final

import torch
import transformers

from workflows.errors import WorkflowError
from workflows.inference.generation.continuous import ContinuousEngine, Running
from workflows.inference.generation.engine import News
from workflows.inference.generation.engine_wire import (
    Asked,
    Begin,
    Close,
    EngineSocket,
    Failed,
    Heard,
    Opened,
    Stop,
)
from workflows.inference.generation.opening import EngineSpec, open_engine

__all__ = ["main"]

log = logging.getLogger(__name__)

SIGN_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h


class _Host:
    """Between a socket and an engine that has started."""

    def __init__(self, line: EngineSocket, engine: ContinuousEngine) -> None:
        self._line = line
        self._engine = engine
        self._running: dict[int, Running] = {}
        self._news: list[tuple[int, News]] = []
        self._signs: asyncio.TimerHandle | None = None

    async def serve(self, asked: asyncio.Queue[Any]) -> None:
        """Until it is told to stop, and then stop the engine."""
        while not isinstance(message := await asked.get(), Stop):
            match message:
                case Begin():
                    self._begin(message)
                case Close():
                    self._say_whether_alive()
                    running = self._running.pop(message.number, None)
                    if running is not None:
                        running.close()
        if self._signs is not None:
            self._signs.cancel()
        await self._engine.stop()

    def _begin(self, message: Begin) -> None:
        self._running[message.number] = self._engine.begin(message.order, partial(self._told, message.number))
        if self._signs is None:
            self._signs = asyncio.get_running_loop().call_later(SIGN_S, self._sign)

    def _sign(self) -> None:
        """Steps may have nothing to tell for long, as while a long prompt is read: that there are some is told as well."""
        self._signs = None
        if self._running:
            self._say_whether_alive()
            self._signs = asyncio.get_running_loop().call_later(SIGN_S, self._sign)

    def _say_whether_alive(self) -> None:
        if self._engine.silent_s < 2 * SIGN_S:  # a look may be late, and a step just before the last one
            self._line.send(Heard([]))

    def _told(self, number: int, news: News) -> None:
        """News of one turn of the loop, which are those of one step, leave together."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._say)
        self._news.append((number, news))

    def _say(self) -> None:
        news, self._news = self._news, []
        for number, one in news:
            if one.ended:
                self._running.pop(number, None)
        self._line.send(Heard(news))


async def _listen(line: EngineSocket, asked: asyncio.Queue[Any]) -> None:
    """Also while the model is being opened: whom nobody waits for any more does not finish that first."""
    try:
        while (message := await line.read()) is not None:
            asked.put_nowait(message)
    except ValueError:
        log.exception("what the workflow says cannot be read")
    os._exit(1)


def _end_with_parent() -> None:
    """Also where this process hangs, or a fork of the workflow's keeps the socket open.

    Of the workflow's process, it is the thread that counts that has started this one, which is its event loop's.
    """
    with suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _open(spec: EngineSpec) -> ContinuousEngine | WorkflowError:
    try:
        engine = await asyncio.to_thread(open_engine, torch, transformers, spec)
        await engine.start()
    except Exception as error:
        if error.__cause__ is not None or not isinstance(error, WorkflowError):  # what it says itself is told
            log.exception("the engine could not be started")
        return error if isinstance(error, WorkflowError) else WorkflowError()
    # What is there by now stays, and steps leave no cycles: the collector's walks were 4 % of their time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    return engine


async def _serve(end: int) -> None:
    _end_with_parent()
    line, asked = EngineSocket(Asked), asyncio.Queue[Any]()
    await line.open(socket.socket(fileno=end))
    listening = asyncio.create_task(_listen(line, asked))
    opened = await _open((await asked.get()).spec)
    if isinstance(opened, WorkflowError):
        line.send(Failed(opened))
    else:
        line.send(Opened(opened.context_tokens, opened.vocabulary, opened.ends, opened.device))
        await _Host(line, opened).serve(asked)
    listening.cancel()
    await line.close()


def main() -> None:
    logging.basicConfig(format="%(asctime)s engine %(process)d %(levelname)s %(name)s: %(message)s")
    for ending in (signal.SIGINT, signal.SIGTERM):  # whoever sends them to all means the workflow, which ends this
        signal.signal(ending, signal.SIG_IGN)
    asyncio.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
