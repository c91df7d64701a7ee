"""Runs a transformers model for many requests at once: continuous batching over a paged cache. No text, no tokenizer.

The manager of transformers does the steps, on a thread of its own. What it does not do is here: requests are let in only
while the cache has room for all that they may become, so that it never has to give one up; each has its own sampling;
one that is closed is forgotten at once; and a manager that died is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from workflows.errors import NotReady, WorkflowError
from workflows.inference.generation.buffered_answer import BufferedAnswer
from workflows.inference.generation.cache_size import CacheSize
from workflows.inference.generation.engine import Made, News, Order
from workflows.inference.generation.manager import Manager
from workflows.inference.generation.rows import Row
from workflows.inference.generation.sampling import TokenChooser

__all__ = ["ContinuousEngine", "Running"]

log = logging.getLogger(__name__)


class ContinuousEngine:
    """See `Engine`.

    Args:
        torch: The module, as `transformers`.
        model: A causal language model of transformers, on its device. Nobody else may use it meanwhile.
        size: Of the cache.
        ends: See `Engine`.
        context: What the model was made for. Less where the cache is smaller, see `context_tokens`.
        concurrency: How many requests are in one step at most; others wait their turn.
        share_prefixes: Whether prompts that begin alike are read once.
    """

    def __init__(
        self,
        torch: Any,
        transformers: Any,
        model: Any,
        size: CacheSize,
        *,
        ends: frozenset[int],
        context: int,
        concurrency: int,
        share_prefixes: bool,
    ) -> None:
        self.context_tokens = context
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self.ends = ends
        self._torch = torch
        self._transformers = transformers
        self._model = model
        self.device = str(model.device)
        self._size = size
        self._concurrency = concurrency
        self._share_prefixes = share_prefixes
        self._ids = count()
        self._waiting: deque[Running] = deque()
        self._running: dict[str, Running] = {}
        self._manager: Manager | None = None
        self._opening: asyncio.Task[None] | None = None
        self._stopped = False
        self._wanted_at = 0.0
        self._silent_before_s = 0.0  # when the last answer was given up

    @property
    def silent_s(self) -> float:
        if not self._running or self._manager is None:
            return 0.0
        return time.monotonic() - max(self._wanted_at, self._manager.step_at)

    async def start(self) -> None:
        """Once. Raises WorkflowError where the model cannot be run like this."""
        self._loop = asyncio.get_running_loop()
        self._manager = await asyncio.to_thread(self._open)
        context = self._manager.rooms.longest(self.context_tokens)
        if context < self.context_tokens:
            log.warning("the cache is too small for the whole context of %d tokens: %d", self.context_tokens, context)
        self.context_tokens = context

    def answer(self, order: Order) -> BufferedAnswer:
        """See `Engine.answer`. Raises NotReady once stopped."""

        def left() -> None:
            running.close()

        answer = BufferedAnswer(left)
        running = self.begin(order, answer.receive)
        return answer

    def begin(self, order: Order, told: Callable[[News], None]) -> Running:
        """As `answer`, for who wants to be told what became of it, on this event loop."""
        if self._stopped:
            raise NotReady(retry_after_s=None)
        running = Running(self, f"{next(self._ids)}", order, told)
        self._waiting.append(running)
        self._let_in()
        return running

    async def stop(self) -> None:
        self._stopped = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
        manager, self._manager = self._manager, None
        self._fail_all("this workflow is being taken down")
        if manager is not None:
            await asyncio.to_thread(manager.close)
        manager = self._model = None
        if self.device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    def forget(self, answer: Running) -> None:
        """Nobody is told more of this answer: it ended, failed or was closed."""
        silent_s = self.silent_s
        if self._running.pop(answer.id, None) is None:
            if answer in self._waiting:
                self._waiting.remove(answer)
        elif self._manager is not None:
            self._manager.forget(answer.id, cancel=not answer.finished)
            if not self._running:
                self._silent_before_s = 0.0 if answer.finished else silent_s
        self._let_in()

    def _let_in(self) -> None:
        """Hand waiting requests to the manager, first come first served, as far as there is room."""
        if self._stopped:
            return
        if self._waiting and self._manager is None and self._opening is None:
            self._reopen(None)
        while self._waiting and self._manager is not None and len(self._running) < self._concurrency:
            answer = self._waiting[0]
            order = answer.order
            if not self._manager.rooms.take(answer.id, len(order.prompt) + order.max_tokens):
                return
            self._waiting.popleft()
            try:  # which takes memory, on the model's device too
                answer.row = Row(TokenChooser(self._torch, order, self.vocabulary, self.device))
            except Exception:
                log.exception("a request could not be begun")
                self._manager.rooms.give(answer.id)
                answer.fail(WorkflowError())
                continue
            if not self._running:
                self._wanted_at = time.monotonic() - self._silent_before_s
            self._running[answer.id] = answer
            if not self._manager.add(answer.id, answer.row, order):
                del self._running[answer.id]
                answer.row = None
                self._waiting.appendleft(answer)  # it goes to the next manager
                self._died(self._manager)

    def _delivered(self, outputs: Sequence[Any]) -> None:
        """What one step made."""
        for output in outputs:
            answer = self._running.get(output.request_id)
            if answer is not None:
                answer.receive(output)

    def _died(self, manager: Manager) -> None:
        """The manager's thread ended, and with it everything that it held."""
        if manager is not self._manager:
            return
        self._manager = None
        self._silent_before_s = 0.0
        log.error("the engine died with %d requests, and is started anew", len(self._running))
        running, self._running = self._running, {}
        for answer in running.values():
            answer.fail(NotReady("the engine failed and is being restarted", may_have_run=True))
        self._reopen(manager)

    def _reopen(self, dead: Manager | None) -> None:
        self._opening = asyncio.create_task(self._replace(dead))

    async def _replace(self, dead: Manager | None) -> None:
        try:
            if dead is not None:
                await asyncio.to_thread(dead.close)
            self._manager = await asyncio.to_thread(self._open)
        except Exception:
            log.exception("the engine could not be started again")
            self._fail_all("the engine failed and could not be restarted")
        finally:
            self._opening = None
        self._let_in()

    def _open(self) -> Manager:
        """On any thread but the loop's."""
        return Manager(
            self._torch,
            self._transformers,
            self._model,
            self._size,
            self._concurrency,
            self._share_prefixes,
            self._loop,
            self._delivered,
            self._died,
        )

    def _fail_all(self, why: str) -> None:
        failed = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for answer in failed:
            answer.fail(NotReady(why, may_have_run=answer.row is not None))


class Running:
    """A request that the engine has, until its end. Everything here runs on the engine's event loop.

    Attributes:
        id: What the manager knows it by.
        row: Its place in the batches, once it was let in.
        finished: Whether the manager has ended it by itself.
    """

    def __init__(self, engine: ContinuousEngine, name: str, order: Order, told: Callable[[News], None]) -> None:
        self.id = name
        self.order = order
        self.row: Row | None = None
        self.finished = False
        self._engine = engine
        self._told = told
        self._received = 0
        self._ended = False

    def close(self) -> None:
        """Nobody wants to be told any more."""
        if not self._ended:
            self._ended = True
            self._engine.forget(self)

    def receive(self, output: Any) -> None:
        """What the manager made for this answer: all its tokens so far, of which the last ones are new."""
        row = self.row
        assert row is not None  # it was let in
        tokens = output.generated_tokens
        good = min(len(tokens), row.good)
        made = [Made(token) if row.choose.plain else row.made.popleft() for token in tokens[self._received : good]]
        self._received = good
        self.finished = output.is_finished()
        error = row.error if good < len(tokens) else None
        self._ended = self.finished or error is not None
        if self._ended:
            self._engine.forget(self)
        self._told(News(made, row.cached, self._ended, error))

    def fail(self, error: WorkflowError) -> None:
        self._ended = True
        self._told(News((), None if self.row is None else self.row.cached, ended=True, error=error))
