"""Stands in for an engine's process, with steps that compute nothing: each answer gets its next token every few milliseconds.

    python -P -m scripts.benchmarks.token_steps FD

It says what `workflows.inference.generation.engine_host` says.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from workflows.inference.generation.engine import Made, News
from workflows.inference.generation.engine_wire import Asked, Begin, Close, EngineSocket, Heard, Open, Opened, Stop

__all__ = ["STEP_MS", "main"]

STEP_MS: Final = "TOKEN_STEPS_MS"
"""The environment's word for how long a step takes, in milliseconds."""
_TEXT: Final = "The for statement is used to iterate over the elements of a sequence, such as a string, tuple or list. "


class _Steps:
    def __init__(self, line: EngineSocket, text: list[int]) -> None:
        self._line = line
        self._text = text
        self._left: dict[int, int] = {}
        self._place = 0

    async def run(self, step_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._step()
            await asyncio.sleep(max(0.0, began + step_s - loop.time()))

    def heard(self, message: Begin | Close) -> None:
        match message:
            case Begin():
                self._left[message.number] = message.order.max_tokens
            case Close():
                self._left.pop(message.number, None)

    def _step(self) -> None:
        made = [Made(self._text[self._place % len(self._text)])]
        self._place += 1
        news = [(number, News(made, ended=left == 1)) for number, left in self._left.items()]
        self._left = {number: left - 1 for number, left in self._left.items() if left > 1}
        if news:
            self._line.send(Heard(news))


async def _serve(end: int) -> None:
    line = EngineSocket(Asked)
    await line.open(socket.socket(fileno=end))
    first = await line.read()
    assert isinstance(first, Open)
    tokenizer = Tokenizer.from_file(str(Path(first.spec.directory) / "tokenizer.json"))
    steps = _Steps(line, tokenizer.encode(_TEXT, add_special_tokens=False).ids)
    line.send(Opened(context_tokens=1 << 20, vocabulary=tokenizer.get_vocab_size(), ends=frozenset(), device="cpu"))
    running = asyncio.create_task(steps.run(float(os.environ[STEP_MS]) / 1e3))
    while not isinstance(message := await line.read(), Stop | None):
        steps.heard(message)
    running.cancel()


def main() -> None:
    asyncio.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
