"""Workflows that wait: for remote models, or for an engine that batches by itself. Their hooks are coroutines.

The async names (`asetup`, `ainference`, `astream`, ...) run on the caller's event loop. The sync names work too: they
drive a private loop on a thread of its own, so `setup(); inference(x)` holds for every workflow. One or the other: a
workflow belongs to the loop that set it up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, Self, cast, final

from workflows import types
from workflows.base import BaseInferenceWorkflow, Chunk, In, Out
from workflows.batch import as_error, working_for
from workflows.card import Card
from workflows.chunks import achunks, awhile_wanted
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import NotReady, Unsupported, WorkflowError
from workflows.executions import Execution
from workflows.pump import pumped
from workflows.side_loop import SideLoop

__all__ = ["AsyncInferenceWorkflow"]

log = logging.getLogger(__name__)

# As in `workflows.base`: final, with the hook to define instead.
_FINAL = {
    "asetup": "do_setup",
    "ainference": "do_run_model",
    "ainference_batch": "do_run_model",
    "astream": "do_stream",
    "ateardown": "do_teardown",
}


class AsyncInferenceWorkflow(BaseInferenceWorkflow[In, Out, Chunk]):
    """A workflow whose hooks are coroutines, and `do_stream` an async generator. Sync hooks are accepted as well, as
    long as they do not block: hooks of several requests run interleaved on one event loop. It forms no batches.

    Attributes:
        concurrency: How many requests one replica works on at once.
    """

    concurrency: int = 64
    _hooks_may_wait: ClassVar[bool] = True
    _loop: asyncio.AbstractEventLoop | None = None
    _turn: asyncio.Lock | None = None
    _turn_loop: asyncio.AbstractEventLoop | None = None
    _side: SideLoop | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, hook in _FINAL.items():
            if getattr(cls, name) is not getattr(AsyncInferenceWorkflow, name):
                raise TypeError(f"{cls.__name__}.{name} is final: define {hook} instead")
        if cls.prerequisite is not BaseInferenceWorkflow.prerequisite:
            raise TypeError(f"{cls.__name__}: an async workflow has no `prerequisite`: it waits in its hooks")
        if cls.do_run_batch is not BaseInferenceWorkflow.do_run_batch or cls.batching is not None:
            raise TypeError(
                f"{cls.__name__}: an async workflow forms no batches: define do_run_model, which runs for up to "
                "`concurrency` requests at once, instead of do_run_batch and `batching`"
            )

    def busy_s(self) -> float:
        """Seconds for which a model of its own has been at work without any sign; 0 where it rests, or there is none.

        One that never returns is noticed by this. To be overridden; called on the event loop, at any time.
        """
        return 0.0

    async def do_run_model(self, preprocessed_data: Any) -> Any:
        """Run the model on one preprocessed input. Default: the fold of `do_stream`."""
        async with aclosing(achunks(self.do_stream, preprocessed_data)) as chunks:
            return types.fold(self._types[1], [chunk async for chunk in awhile_wanted(chunks)])

    @final
    async def asetup(self) -> Self:
        """As `setup()`, on this event loop, to which the workflow then belongs."""
        self._require_hooks()
        async with self._own_turn():
            if not self._ready:
                self._loop = asyncio.get_running_loop()
                await self._set_up()
        return self

    async def _set_up(self) -> None:
        await self._live(self.do_setup)
        self._ready = True
        try:
            await self._live(self.do_warm_up)
        except BaseException:
            self._ready = False
            try:
                await self._live(self.do_teardown)
            except Exception:  # what went wrong first is what asetup() says
                log.exception("teardown after a failed warm-up failed as well")
            raise

    @final
    async def ainference(self, input_data: In | Any, execution: Execution | None = None) -> Out:
        """As `inference()`. Into `execution`, what it took is filled in as far as it came."""
        self._require_this_loop()
        noted = Execution([0]) if execution is None else execution
        came = time.monotonic()
        parsed = self._once_parsed(input_data)
        prepared = await _value(self.do_preprocessing(parsed))
        began = time.monotonic()
        noted.input_s = began - came
        output = await _value(self.do_run_model(prepared))
        ended = time.monotonic()
        noted.model_s = ended - began
        answer = await _value(self.do_postprocessing(parsed, output))
        noted.output_s = time.monotonic() - ended
        return cast("Out", answer)

    @final
    async def ainference_batch(
        self,
        inputs: Sequence[In | Any],
        calls: Sequence[CallContext] | None = None,
        executions: list[Execution] | None = None,
    ) -> list[Out | WorkflowError]:
        """As `inference_batch()`: all inputs at once, at most `concurrency` of them at a time."""
        self._require_this_loop()
        gate = asyncio.Semaphore(self.concurrency)

        async def one(place: int, value: Any, call: CallContext) -> Out | WorkflowError:
            async with gate:
                late = given_up(call)
                if late is not None:
                    return late
                execution = Execution([place])
                outcome: Out | WorkflowError
                try:
                    with working_for(call):
                        outcome = await self.ainference(value, execution)
                except Exception as error:  # noqa: BLE001 - becomes this item's outcome
                    outcome = as_error(error, call.request_id)
                if executions is not None and execution.model_s:
                    executions.append(execution)
                return outcome

        each = calls or [CallContext()] * len(inputs)
        return list(await asyncio.gather(*map(one, range(len(inputs)), inputs, each)))

    @final
    def astream(self, input_data: In | Any) -> AsyncGenerator[Chunk]:
        """As `stream()`. Close it with `aclose()` when you leave early: an abandoned one is closed late."""
        self._require_this_loop()
        if not self.streams:
            raise Unsupported("this workflow does not stream")
        return self._astream(input_data)

    @final
    async def ateardown(self) -> None:
        """As `teardown()`."""
        async with self._own_turn():
            if self._ready:
                self._require_this_loop()
                self._ready = False
                await self._live(self.do_teardown)

    def card(self, name: str, summary: str = "") -> Card:
        return super().card(name, summary).model_copy(update={"concurrency": self.concurrency})

    async def _astream(self, input_data: Any) -> AsyncGenerator[Chunk]:
        prepared = await _value(self.do_preprocessing(self._once_parsed(input_data)))
        async with aclosing(achunks(self.do_stream, prepared)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _live(self, hook: Callable[[], Any]) -> None:
        """Run one of do_setup, do_warm_up and do_teardown, here or where a family of workflows has its model."""
        await _value(hook())

    def _own_turn(self) -> asyncio.Lock:
        """For setting up and tearing down, one after the other: of this loop, because a lock serves one loop only."""
        loop = asyncio.get_running_loop()
        if self._turn is None or self._turn_loop is not loop:
            self._turn, self._turn_loop = asyncio.Lock(), loop
        return self._turn

    def _require_hooks(self, *hooks: str) -> None:
        super()._require_hooks(*(hooks or ("do_run_model", "do_stream")))

    def _require_this_loop(self) -> None:
        self._require_ready()
        if asyncio.get_running_loop() is not self._loop:
            raise NotReady("set up on another event loop: use asetup() here, or the sync names", retry_after_s=None)

    # ---- the sync names, on a private loop ----------------------------------------------------------------------------

    def _setup(self) -> None:
        self._side = SideLoop()
        try:
            self._side.call(self.asetup)
        except BaseException:
            self._close_side()
            raise

    def _inference(self, input_data: Any) -> Out:
        return self._require_side().call(self.ainference, input_data)

    def _inference_batch(
        self, inputs: Sequence[Any], calls: Sequence[CallContext], executions: list[Execution]
    ) -> list[Out | WorkflowError]:
        return self._require_side().call(self.ainference_batch, inputs, calls, executions)

    def _stream(self, input_data: Any) -> Generator[Chunk]:
        yield from pumped(self._require_side(), partial(self.astream, input_data))

    def _teardown(self) -> None:
        self._ready = True  # ateardown() clears it again
        side = self._require_side()
        try:
            side.call(self.ateardown)
        finally:
            self._ready = False
            self._close_side()

    def _require_side(self) -> SideLoop:
        self._require_ready()
        if self._side is None:
            raise NotReady("set up with asetup(): use the async names", retry_after_s=None)
        return self._side

    def _close_side(self) -> None:
        if self._side is not None:
            self._side.close()
        self._side = None


async def _value(result: Any) -> Any:
    """A hook's result, whether it was a coroutine or not."""
    return await result if inspect.isawaitable(result) else result
