"""An engine in a process of its own: its steps and the serving of its tokens do not take turns with one interpreter.

order -> Begin -> EngineProcess ~ socket ~ engine_host -> ContinuousEngine, and the same way back as Heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from itertools import count
from typing import Final

from workflows.errors import NotReady, WorkflowError
from workflows.inference.generation.buffered_answer import BufferedAnswer
from workflows.inference.generation.engine import News, Order
from workflows.inference.generation.engine_process import EngineProcess
from workflows.inference.generation.engine_wire import Begin, Close, Heard, Opened
from workflows.inference.generation.opening import EngineSpec

__all__ = ["ProcessEngine"]

log = logging.getLogger(__name__)

RESTART_S: Final = 600.0


class ProcessEngine:
    """See `Engine`. A process that ends by itself is replaced: at once, or when somebody asks if it had been of no use.

    What it had been asked for then fails, also what had not begun: the request that has ended one process, which nobody can
    know, must not end the next one. One that hangs is not replaced: whoever looks at `silent_s` ends the whole.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._numbers = count()
        self._answers: dict[int, BufferedAnswer] = {}
        self._waiting: dict[int, Order] = {}
        self._opened: Opened | None = None
        self._process: EngineProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._of_use = False
        self._stopped = False
        self._sign_at = 0.0
        self._silent_before_s = 0.0  # when the last answer was given up

    @property
    def context_tokens(self) -> int:
        return self._known.context_tokens

    @property
    def vocabulary(self) -> int:
        return self._known.vocabulary

    @property
    def ends(self) -> frozenset[int]:
        return self._known.ends

    @property
    def device(self) -> str:
        return self._known.device

    @property
    def silent_s(self) -> float:
        if self._process is None or not self._answers:
            return 0.0
        return time.monotonic() - self._sign_at

    @property
    def _known(self) -> Opened:
        assert self._opened is not None  # it has started
        return self._opened

    async def start(self) -> None:
        """Once. Raises what `open_engine` does, and WorkflowError where there can be no process."""
        await self._start_process()

    def answer(self, order: Order) -> BufferedAnswer:
        """See `Engine.answer`. Raises NotReady once stopped."""
        if self._stopped:
            raise NotReady(retry_after_s=None)
        if not self._answers:
            self._sign_at = time.monotonic() - self._silent_before_s
        number = next(self._numbers)
        answer = self._answers[number] = BufferedAnswer(partial(self._close, number))
        self._waiting[number] = order
        self._ask()
        return answer

    async def stop(self) -> None:
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        process, self._process = self._process, None
        self._fail(list(self._answers), "this workflow is being taken down")
        if process is not None:
            await process.stop()

    def _ask(self) -> None:
        """Say what is wanted to the process, as soon as there is one."""
        if self._process is not None:
            while self._waiting:
                number = next(iter(self._waiting))
                self._begin(self._process, number, self._waiting.pop(number))
        elif self._waiting and self._starting is None:
            self._restart()

    def _begin(self, process: EngineProcess, number: int, order: Order) -> None:
        try:
            process.send(Begin(number, order))
        except (TypeError, ValueError, OverflowError):
            log.exception("a request could not be told to the engine")
            self._answers.pop(number).receive(News((), ended=True, error=WorkflowError()))

    def _close(self, number: int) -> None:
        """The reader of an answer has left."""
        silent_s = self.silent_s
        self._answers.pop(number, None)
        if not self._answers:
            self._silent_before_s = silent_s
        if self._waiting.pop(number, None) is None and self._process is not None:
            self._process.send(Close(number))

    def _heard(self, message: Heard) -> None:
        self._sign_at, self._silent_before_s = time.monotonic(), 0.0
        self._of_use = True
        for number, news in message.news:
            answer = self._answers.get(number)
            if answer is not None:
                if news.ended:
                    del self._answers[number]
                answer.receive(news)

    def _lost(self, process: EngineProcess) -> None:
        if process is self._process:
            self._process = None
            self._fail(list(self._answers), "the engine failed and is being restarted")
            if self._of_use:
                self._restart()

    def _restart(self) -> None:
        self._starting = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        try:
            async with asyncio.timeout(RESTART_S):
                await self._start_process()
        except Exception:
            log.exception("the engine could not be started again")
            self._fail(list(self._waiting), "the engine failed and could not be restarted")
        finally:
            self._starting = None
        self._ask()

    async def _start_process(self) -> None:
        process = EngineProcess(self._heard, self._lost)
        opened = await process.start(self._spec)
        if self._opened is None:
            self._opened = opened
        elif opened.context_tokens < self._opened.context_tokens:  # prompts are measured by what the first one said
            await process.stop()
            raise WorkflowError("the engine has less memory than before")
        self._of_use = False
        self._sign_at, self._silent_before_s = time.monotonic(), 0.0
        self._process = process

    def _fail(self, numbers: list[int], why: str) -> None:
        """What no process was asked for has not run, the rest may have."""
        for number in numbers:
            waited = self._waiting.pop(number, None) is not None
            error = NotReady(why, may_have_run=not waited)
            self._answers.pop(number).receive(News((), ended=True, error=error))
