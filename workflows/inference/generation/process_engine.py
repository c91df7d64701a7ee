"""An engine in a process of its own: its steps and the serving of its tokens do not take turns with one interpreter.

order -> Begin -> EngineProcess ~ socket ~ engine_host -> ContinuousEngine, and the same way back as Heard.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from itertools import count

from workflows.errors import NotReady, WorkflowError
from workflows.inference.generation.buffered_answer import BufferedAnswer
from workflows.inference.generation.engine import News, Order
from workflows.inference.generation.engine_process import EngineProcess
from workflows.inference.generation.engine_wire import Begin, Close, Heard
from workflows.inference.generation.opening import EngineSpec

__all__ = ["ProcessEngine"]

log = logging.getLogger(__name__)


class ProcessEngine:
    """See `Engine`. A process that ends by itself is replaced.

    What it had been asked for then fails, also what had not begun: the request that has ended one process, which nobody can
    know, must not end the next one.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._numbers = count()
        self._answers: dict[int, BufferedAnswer] = {}
        self._waiting: dict[int, Order] = {}
        self._process: EngineProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self) -> None:
        """Raises what `open_engine` does."""
        self._stopped = False
        await self._start_process()

    def answer(self, order: Order) -> BufferedAnswer:
        """See `Engine.answer`. Raises NotReady once stopped."""
        if self._stopped:
            raise NotReady(retry_after_s=None)
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
            for number, order in self._waiting.items():
                self._process.send(Begin(number, order))
            self._waiting.clear()
        elif self._waiting and self._starting is None:
            self._restart()

    def _close(self, number: int) -> None:
        """The reader of an answer has left."""
        self._answers.pop(number, None)
        if self._waiting.pop(number, None) is None and self._process is not None:
            self._process.send(Close(number))

    def _heard(self, message: Heard) -> None:
        for number, news in message.news:
            answer = self._answers.get(number)
            if answer is not None:
                if news.ended:
                    del self._answers[number]
                answer.receive(news)

    def _lost(self, process: EngineProcess) -> None:
        if process is self._process:
            self._process = None
            self._fail([*self._answers], "the engine failed and is being restarted", may_have_run=True)
            self._restart()

    def _restart(self) -> None:
        self._starting = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        try:
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
        self.context_tokens, self.vocabulary, self.ends = opened.context_tokens, opened.vocabulary, opened.ends
        self._process = process

    def _fail(self, numbers: list[int], why: str, *, may_have_run: bool | None = None) -> None:
        for number in numbers:
            waited = self._waiting.pop(number, None) is not None
            error: WorkflowError = NotReady(why, may_have_run=not waited if may_have_run is None else may_have_run)
            self._answers.pop(number).receive(News((), ended=True, error=error))
