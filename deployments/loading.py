"""Takes a workflow out of memory and back while its replica lives on: one change at a time, whoever asks for it.

    loaded -> unloading -> unloaded -> loading -> loaded        new work is taken in while loaded, and only then
      ^---------'  (still busy when the time is up)  `-> unloaded, with a reason   (its setup has failed)

A change belongs to the replica: who asked for it may leave, and it goes on. Knows no queue and no thread (the drive does).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from deployments.standing import LoadState, Standing
from workflows.errors import DeadlineExceeded, NotReady, ReplicaLost, Unloaded, WorkflowError

__all__ = ["Loading", "why_setup_failed"]

log = logging.getLogger(__name__)

ROLLBACK_S: Final = 1.0
"""A change that keeps a time of its own answers so much later at most; who asked waits for that answer."""
BACK_SOON_S: Final = 2.0

Aim = Literal["load", "unload"]


class Drive(Protocol):
    """What a change needs of a drive."""

    async def load(self, setup_timeout_s: float) -> None:
        """Set the workflow up again. Raises what its setup raises."""
        ...

    async def drain(self, streams_ended: asyncio.Event) -> None:
        """Return once everything that was taken in has been answered."""
        ...

    async def unload(self) -> None:
        """Tear the workflow down, if it is set up. Raises what its teardown raises."""
        ...


@dataclass(slots=True)
class _Change:
    aim: Aim
    task: asyncio.Task[WorkflowError | None]


class Loading:
    """The standing of one replica. Belongs to the event loop of its runner.

    Args:
        loaded: Called after each setup, before any work is taken in; what it raises fails the setup.
        streams_ended: Set while no stream is open.

    Attributes:
        serves: Whether new work is taken in; `refusal()` says why not.
        set_up: Whether the workflow is in memory, on its way neither in nor out: only then can it describe itself.
        setup_timeout_s: How long a setup may take.
    """

    def __init__(
        self, drive: Drive, name: str, replica: str, loaded: Callable[[], None], streams_ended: asyncio.Event
    ) -> None:
        self.serves = False
        self.set_up = False
        self.setup_timeout_s = 600.0
        self._drive = drive
        self._name = name
        self._loaded = loaded
        self._streams_ended = streams_ended
        self._standing = Standing(replica, 0, "loading")
        self._begun = False
        self._stopping = False
        self._change: _Change | None = None
        self._listeners: set[Callable[[Standing], None]] = set()

    @property
    def standing(self) -> Standing:
        return self._standing

    @property
    def away(self) -> bool:
        """Whether the workflow was taken out of memory, and is not back yet."""
        return self._begun and not self.set_up

    def listen(self, listener: Callable[[Standing], None]) -> Callable[[], None]:
        """Hear of every change from now on, at once. Returns what ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def begin(self) -> None:
        """The first setup has succeeded."""
        self._loaded()
        self._begun = self.set_up = True
        self._set("loaded")

    def refusal(self) -> WorkflowError:
        """Why nothing new is taken in."""
        if self._stopping:
            return ReplicaLost("this replica is stopping")
        if not self._begun:
            return NotReady()
        if self._standing.state == "loading":
            return Unloaded(f"{self._name} is being loaded", retry_after_s=BACK_SOON_S)
        return self._unloaded()

    async def load(self, timeout_s: float) -> Standing:
        """See `Runner.load`."""
        until = asyncio.get_running_loop().time() + timeout_s
        return await self._turn("load", self._load, until, f"{self._name} is still being loaded")

    async def unload(self, timeout_s: float) -> Standing:
        """See `Runner.unload`."""
        until = asyncio.get_running_loop().time() + timeout_s
        return await self._turn("unload", lambda: self._unload(until), until, f"{self._name} is still being unloaded")

    def stop(self) -> None:
        """Refuse everything from now on. A setup or teardown that runs comes to its end."""
        self._stopping = True
        self.serves = False

    def end(self) -> None:
        """The drive has stopped: nobody changes anything any more."""
        if self._change is not None:
            self._change.task.cancel()

    # ---- one change at a time ------------------------------------------------------------------------------------------

    async def _turn(
        self, aim: Aim, work: Callable[[], Coroutine[Any, Any, WorkflowError | None]], until: float, late: str
    ) -> Standing:
        """Join the change to the same end, or begin one after the other has ended; what it comes to."""
        try:
            async with asyncio.timeout_at(until + ROLLBACK_S):
                while (change := self._change) is not None and change.aim != aim:
                    await asyncio.wait([change.task])
                if self._stopping or not self._begun:
                    raise self.refusal()
                if change is None:
                    change = self._change = _Change(aim, asyncio.create_task(work(), name=aim))
                    change.task.add_done_callback(self._ended)
                await asyncio.wait([change.task])  # which goes on if this here is cancelled
        except TimeoutError:
            raise DeadlineExceeded(late) from None
        error = ReplicaLost("this replica is stopping") if change.task.cancelled() else change.task.result()
        if error is not None:
            raise copy(error)  # each its own: an exception that several tasks raise would collect all their tracebacks
        return self._standing

    def _ended(self, task: asyncio.Task[WorkflowError | None]) -> None:
        self._change = None

    async def _load(self) -> WorkflowError | None:
        if self._standing.state == "loaded":
            return None
        self._set("loading")
        try:
            await self._drive.load(self.setup_timeout_s)
            self._loaded()
        except Exception as error:
            if self._stopping:
                return self.refusal()
            log.exception("%s could not be loaded", self._name)
            await self._tear_down()  # nothing stays of what was loaded before it failed
            self._set("unloaded", why_setup_failed(error))
            return self._unloaded()
        self.set_up = True
        self._set("loaded")
        return self.refusal() if self._stopping else None

    async def _unload(self, until: float) -> WorkflowError | None:
        if self._standing.state == "unloaded":
            return None
        self._set("unloading")
        try:
            async with asyncio.timeout_at(until):
                await self._drive.drain(self._streams_ended)
        except TimeoutError:
            self._set("loaded")
            return DeadlineExceeded(f"{self._name} is still busy and stays loaded")
        if self._stopping:
            return self.refusal()
        failed = await self._tear_down()
        self._set("unloaded", failed)
        return self._unloaded() if failed else None

    async def _tear_down(self) -> str:
        """Why the teardown failed; empty when it did not."""
        self.set_up = False
        try:
            await self._drive.unload()
        except Exception as error:
            log.exception("the teardown of %s failed", self._name)
            return f"its teardown failed with {type(error).__name__}; the replica's log says why"
        return ""

    def _set(self, state: LoadState, reason: str = "") -> None:
        before = self._standing
        self._standing = Standing(before.replica, before.number + 1, state, reason)
        self.serves = state == "loaded" and not self._stopping
        for listener in tuple(self._listeners):
            listener(self._standing)

    def _unloaded(self) -> Unloaded:
        reason = self._standing.reason
        return Unloaded(f"{self._name} is unloaded: {reason}" if reason else f"{self._name} is unloaded")


def why_setup_failed(error: Exception) -> str:
    """For callers: our own errors are written for them, of anything else they hear no more than the type."""
    if isinstance(error, WorkflowError):
        return error.message
    return f"setup failed with {type(error).__name__}; the replica's log says why"
