"""Stands in for an engine's process: its answers go on for ever, and say who was closed.

It speaks as `workflows.inference.generation.engine_host` does. Each answer begins with token 0; when answer N is closed, all
others get the token N + 1. An answer that may have one token only ends with it; one with a prompt of `NONSENSE` is told
nothing that can be read; one with a prompt of `LEAVE` ends the process, and of one with `MUTE` nothing is said. A `Stop` is
not heeded. `SCRIPTED_CONTEXT`, in the environment, is how long its context is, or a word that it says instead;
where it is empty, it hangs instead.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Final

from workflows.inference.generation.engine import Made, News
from workflows.inference.generation.engine_wire import Asked, Begin, Close, EngineSocket, Heard, Opened

LEAVE: Final = [7, 7, 7]
NONSENSE: Final = [8, 8, 8]
MUTE: Final = [9, 9, 9]


async def _serve(end: int) -> None:
    line = EngineSocket(Asked)
    await line.open(socket.socket(fileno=end))
    await line.read()
    context = os.environ.get("SCRIPTED_CONTEXT", "96")
    if not context:
        await asyncio.Event().wait()
    line.send(Opened(int(context), vocabulary=290, ends=frozenset(), device="cpu") if context.isdigit() else context)
    running: list[int] = []
    while (message := await line.read()) is not None:
        match message:
            case Begin():
                prompt = list(message.order.prompt)
                if prompt == LEAVE:
                    return
                if prompt == MUTE:
                    continue
                if prompt == NONSENSE:
                    line.send("nonsense")
                ends = message.order.max_tokens == 1
                line.send(Heard([(message.number, News([Made(0)], ended=ends))]))
                if not ends:
                    running.append(message.number)
            case Close():
                if message.number not in running:
                    continue
                running.remove(message.number)
                line.send(Heard([(number, News([Made(message.number + 1)])) for number in running]))


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
