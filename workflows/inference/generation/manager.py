"""One continuous batching manager of transformers, from its start to its end. Knows no text, and no requests but by id.

Its thread is a daemon, and stopped when the interpreter ends: a process that forgot to tear down ends all the same.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from workflows.errors import WorkflowError
from workflows.inference.generation.attention import SDPA, takes_own_keys, use_own_keys
from workflows.inference.generation.cache_size import CacheSize
from workflows.inference.generation.engine import Order
from workflows.inference.generation.rooms import Rooms
from workflows.inference.generation.rows import Row, Rows

__all__ = ["Manager"]

_JOIN_S: Final = 60.0
_SPARE: Final = 0.15
_MOST_SPARE: Final = 0.5


class Manager:
    """Starts with its making, which is not for an event loop's thread: it takes memory and waits for a thread.

    Args:
        loop: Where `delivered` and `died` are called.
        delivered: Gets what one step made, transformers' `GenerationOutput`s.
        died: Called at least once when the manager's thread has ended by itself.

    Raises WorkflowError: transformers cannot run this model like this.
    """

    def __init__(
        self,
        torch: Any,
        transformers: Any,
        model: Any,
        size: CacheSize,
        concurrency: int,
        share_prefixes: bool,
        loop: asyncio.AbstractEventLoop,
        delivered: Callable[[Sequence[Any]], None],
        died: Callable[[Manager], None],
    ) -> None:
        config = transformers.ContinuousBatchingConfig(
            page_size=size.page_tokens,
            num_blocks=size.pages,
            max_batch_tokens=size.step_tokens,
            max_requests_per_batch=concurrency,
            allow_block_sharing=share_prefixes,
            # With less than this share free, what is kept of earlier prompts is given up: a whole step must find room.
            safety_margin=min(max(_SPARE, size.step_tokens / (size.pages * size.page_tokens)), _MOST_SPARE),
            max_memory_percent=1.0,  # `size` has its own bounds
            # Tokens are chosen by Python code between two steps, which a graph would not run.
            use_cuda_graph=False,
            use_async_batching=False,
            auto_switch_to_flash=False,  # which may fetch its code from elsewhere
        )
        # Every request brings its own end tokens; -1 is none.
        plain = transformers.GenerationConfig(do_sample=False, eos_token_id=-1)
        self._rows = Rows()
        try:
            if _can_flash(transformers, model):
                model.set_attn_implementation("flash_attention_2")
            own_keys = takes_own_keys(model)
            if own_keys:  # the manager looks at this name when it is made, and would refuse ours
                model.set_attn_implementation(SDPA)
            self._manager = model.init_continuous_batching(plain, config)
            if own_keys:
                use_own_keys(torch, transformers, model)
            self._manager.logit_processor = self._rows
            self._manager.output_router = _Outputs(loop, delivered, self, died)
            self._manager.warmup()  # makes the cache, here, where what is wrong with it can be raised
            self.rooms = Rooms(self._manager.batch_processor.cache)
        except Exception as cause:
            raise WorkflowError(f"{type(model).__name__} cannot be batched continuously; the log says why") from cause
        self._close = weakref.finalize(self, _stop, self._manager)
        # A thread is a daemon where the one that starts it is.
        starter = threading.Thread(target=self._manager.start, name="engine-starter", daemon=True)
        starter.start()
        starter.join()

    @property
    def step_at(self) -> float:
        """When it was last at work, as `time.monotonic`; 0 for never."""
        return self._rows.step_at

    def add(self, name: str, row: Row, order: Order) -> bool:
        """Begin a request, for which `rooms` has room. False where the thread has ended."""
        # Asked beforehand, because a manager that takes no more logs what it was given.
        if self._manager.background_thread_status.can_accept_new_requests() is not None:
            return False
        self._rows.by_id[name] = row
        taken = self._manager.add_request(
            order.prompt,
            request_id=name,
            max_new_tokens=order.max_tokens,
            streaming=True,
            eos_token_id=sorted(order.ends) or None,
        )
        return taken is not None

    def forget(self, name: str, *, cancel: bool) -> None:
        """The request has ended, or is ended before its next step."""
        if cancel:
            self._manager.cancel_request(name)
        self._rows.by_id.pop(name, None)
        self.rooms.give(name)

    def close(self) -> None:
        """Stop the thread and wait for it. What still runs is given up."""
        self._close()


def _can_flash(transformers: Any, model: Any) -> bool:
    """Whether the attention that reads pages as they lie is installed and takes this model."""
    return (
        model.device.type == "cuda"
        and model.dtype.itemsize == 2
        and getattr(model, "_supports_flash_attn", False)
        and transformers.utils.is_flash_attn_2_available()
    )


def _stop(manager: Any) -> None:
    manager.output_router.muted = True
    manager.stop(block=True, timeout=_JOIN_S, hard_stop=True)


class _Outputs:
    """Has the members of transformers' `OutputRouter` that a manager uses: brings all outputs to one event loop.

    Attributes:
        muted: Whether nobody is to hear any more: what the manager gives up when it is stopped is no news.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delivered: Callable[[Sequence[Any]], None],
        manager: Manager,
        died: Callable[[Manager], None],
    ) -> None:
        self._loop = loop
        self._delivered = delivered
        self._manager = weakref.ref(manager)
        self._died = died
        self.muted = False

    def deliver(self, output: Any) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        self._post(self._delivered, outputs)

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """The manager fails requests only when it ends."""
        manager = self._manager()
        if manager is not None:
            self._post(self._died, manager)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        if self.muted:
            return
        with suppress(RuntimeError):  # a loop that was closed: nobody waits for this any more
            self._loop.call_soon_threadsafe(call, *args)
