"""Workflows that wait: for remote models, or for an engine that batches by itself. Their hooks are coroutines.

The async names (`asetup`, `ainference`, `astream`, ...) run on the caller's event loop. The sync names work too: they
drive a private loop on a thread of its own, so `setup(); inference(x)` holds for every workflow. One or the other: a
workflow belongs to the loop that set it up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any, ClassVar, Self, cast, final

from anyio.from_thread import BlockingPortal, start_blocking_portal

from workflows import types
from workflows.base import BaseInferenceWorkflow, Chunk, In, Out
from workflows.batch import as_error, working_for
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import NotReady, Unsupported, WorkflowError
from workflows.pump import Pump

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
    long as they do not block: hooks of several requests run interleaved on one event loop.

    Attributes:
        concurrency: How many requests one replica works on at once.
    """

    concurrency: ClassVar[int] = 64
    _loop: asyncio.AbstractEventLoop | None = None
    _portal: BlockingPortal | None = None
    _portal_exit: AbstractContextManager[BlockingPortal] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, hook in _FINAL.items():
            if getattr(cls, name) is not getattr(AsyncInferenceWorkflow, name):
                raise TypeError(f"{cls.__name__}.{name} is final: define {hook} instead")

    async def do_run_model(self, preprocessed_data: Any) -> Any:
        """Run the model on one preprocessed input. Default: the fold of `do_stream`."""
        async with aclosing(self._aopen(preprocessed_data)) as chunks:
            return types.fold(self._types[1], [chunk async for chunk in chunks])

    @final
    async def asetup(self) -> Self:
        """As `setup()`, on this event loop, to which the workflow then belongs."""
        self._require_hooks()
        if not self._ready:
            self._loop = asyncio.get_running_loop()
            await _value(self.do_setup())
            self._ready = True
            try:
                await _value(self.do_warm_up())
            except BaseException:
                self._ready = False
                try:
                    await _value(self.do_teardown())
                except Exception:  # what went wrong first is what asetup() says
                    log.exception("teardown after a failed warm-up failed as well")
                raise
        return self

    @final
    async def ainference(self, input_data: In | Any) -> Out:
        """As `inference()`."""
        self._require_this_loop()
        parsed = self._once_parsed(input_data)
        prepared = await _value(self.do_preprocessing(parsed))
        output = await _value(self.do_run_model(prepared))
        return cast("Out", await _value(self.do_postprocessing(parsed, output)))

    @final
    async def ainference_batch(
        self, inputs: Sequence[In | Any], calls: Sequence[CallContext] | None = None
    ) -> list[Out | WorkflowError]:
        """As `inference_batch()`: all inputs at once, at most `concurrency` of them at a time."""
        self._require_this_loop()
        gate = asyncio.Semaphore(self.concurrency)

        async def one(value: Any, call: CallContext) -> Out | WorkflowError:
            async with gate:
                try:
                    with working_for(call):
                        return await self.ainference(value)
                except Exception as error:  # noqa: BLE001 - becomes this item's outcome
                    return as_error(error, call.request_id)

        each = calls or [CallContext()] * len(inputs)
        return list(await asyncio.gather(*(one(value, call) for value, call in zip(inputs, each, strict=True))))

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
        if self._ready:
            self._require_this_loop()
            self._ready = False
            await _value(self.do_teardown())

    def card(self, name: str, summary: str = "") -> Card:
        return super().card(name, summary).model_copy(update={"concurrency": self.concurrency})

    async def _astream(self, input_data: Any) -> AsyncGenerator[Chunk]:
        prepared = await _value(self.do_preprocessing(self._once_parsed(input_data)))
        async with aclosing(self._aopen(prepared)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _aopen(self, prepared: Any) -> AsyncGenerator[Chunk]:
        chunks = self.do_stream(prepared)
        if not isinstance(chunks, AsyncGenerator):
            raise TypeError(f"{type(self).__name__}.do_stream must be an async generator")
        return chunks

    def _require_hooks(self, *hooks: str) -> None:
        super()._require_hooks(*(hooks or ("do_run_model", "do_stream")))

    def _require_this_loop(self) -> None:
        self._require_ready()
        if asyncio.get_running_loop() is not self._loop:
            raise NotReady("set up on another event loop: use asetup() here, or the sync names", retry_after_s=None)

    # ---- the sync names, on a private loop ----------------------------------------------------------------------------

    def _setup(self) -> None:
        self._portal_exit = start_blocking_portal("asyncio")
        self._portal = self._portal_exit.__enter__()
        try:
            self._portal.call(self.asetup)
        except BaseException:
            self._close_portal()
            raise

    def _inference(self, input_data: Any) -> Out:
        return cast("Out", self._require_portal().call(self.ainference, input_data))

    def _inference_batch(self, inputs: Sequence[Any], calls: Sequence[CallContext]) -> list[Out | WorkflowError]:
        return self._require_portal().call(self.ainference_batch, inputs, calls)

    def _stream(self, input_data: Any) -> Generator[Chunk]:
        portal = self._require_portal()
        pump = portal.call(self._pump, input_data)
        try:
            while self._require_portal().call(pump.next):
                yield pump.chunk
        finally:
            if self._portal is portal:  # else its loop is gone, and the stream with it
                portal.call(pump.close)

    async def _pump(self, input_data: Any) -> Pump:
        return Pump(self.astream(input_data))

    def _teardown(self) -> None:
        self._ready = True  # ateardown() clears it again
        portal = self._require_portal()
        try:
            portal.call(self.ateardown)
        finally:
            self._ready = False
            self._close_portal()

    def _require_portal(self) -> BlockingPortal:
        self._require_ready()
        if self._portal is None:
            raise NotReady("set up with asetup(): use the async names", retry_after_s=None)
        return self._portal

    def _close_portal(self) -> None:
        if self._portal_exit is not None:
            self._portal_exit.__exit__(None, None, None)
        self._portal = self._portal_exit = None


async def _value(result: Any) -> Any:
    """A hook's result, whether it was a coroutine or not."""
    return await result if inspect.isawaitable(result) else result
