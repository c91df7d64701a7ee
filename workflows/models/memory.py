"""Loaded models within a budget of bytes: leased to whoever uses them, loaded once at a time, put out when others need room.

A load runs in a thread of its own and makes room only once it knows that the model is there and how large it is: an id that
leads nowhere puts nothing out. Knows no model, no file and no device; what loading and freeing mean is the caller's.

    memory = ModelMemory(Size(host=2 << 30))
    with memory.lease("a", load_a) as model:
        ...                                   # nobody frees it before this block ends
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from workflows.errors import NotReady, Overloaded, WorkflowError
from workflows.models.loaded import Loaded, MakeRoom, Size, Statistics
from workflows.prerequisite import Prerequisite

__all__ = ["ModelMemory"]

log = logging.getLogger(__name__)

T = TypeVar("T", default=Any)

_MAX_REMEMBERED: Final = 1024
_MAX_LOADS: Final = 64  # that go on or wait for their turn
_MOST_USES: Final = 16
_FIRST_RETRY_S: Final = 2.0
_MIN_RETRY_S: Final = 1.0


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A model that is there. Before anybody has used it, it stays `until` those who were told to come back have."""

    loaded: Loaded[T]
    seconds: float
    leases: int
    claimed: bool
    until: float
    uses: int = 0
    credit: float = 0.0


@dataclass(slots=True, eq=False)
class _Load(Generic[T]):
    """A load that is going on. Those who wait for it are given their leases when it ends."""

    began: float
    done: Future[None] = field(default_factory=Future)
    waiting: int = 0
    entry: _Entry[T] | None = None
    error: WorkflowError | None = None


class ModelMemory(Generic[T]):
    """Called from any thread.

    Args:
        budget: What all models together may take.
        swap: Where a model does not fit beside those that are there, load it first and put others out then, so that a
            failing load costs nothing; one such load at a time, so that the budget is exceeded by one model at most.
            Otherwise others are put out first.
        loads: Models that are loaded at once; more wait for their turn.
        patience_s: How long anybody waits for a load, counted from its beginning: who comes later is told at once.
        refuse_s: How long a load that failed is not tried again.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        budget: Size,
        *,
        swap: bool = True,
        loads: int = 4,
        patience_s: float = 10.0,
        refuse_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._swap = swap
        self._patience_s = patience_s
        self._refuse_s = refuse_s
        self._clock = clock
        self._slots = threading.BoundedSemaphore(loads)
        self._changed = threading.Condition()
        self._entries: dict[Hashable, _Entry[T]] = {}
        self._loads: dict[Hashable, _Load[T]] = {}
        self._refused: OrderedDict[Hashable, tuple[float, WorkflowError]] = OrderedDict()
        self._seconds: OrderedDict[Hashable, float] = OrderedDict()
        self._used = Size()  # by models, those being loaded and those being freed
        self._freeing = Size()
        self._swapping: _Load[T] | None = None
        self._inflation = 0.0
        self._closed = False
        self.statistics = Statistics()

    # ---- what one asks for -----------------------------------------------------------------------------------------

    @contextmanager
    def lease(
        self, key: Hashable, load: Callable[[MakeRoom], Loaded[T]], *, wait_s: float | None = None
    ) -> Iterator[T]:
        """A model for the time of a `with` block, loaded if it is not there.

        Args:
            load: Called in another thread, with a function that it calls with the expected size before it takes any
                memory worth mentioning. What it raises is raised by everybody who waits.
            wait_s: How long this caller can wait; None is as long as `patience_s` allows.

        Raises:
            NotReady: It is still loading; `retry_after_s` says when to ask again.
            Overloaded: Very many others are.
            WorkflowError: What the load raised, now or a short while ago.
        """
        entry = self._take(key, load, wait_s)
        try:
            yield entry.loaded.value
        finally:
            self._give_back(entry)

    def loading(self, key: Hashable, load: Callable[[MakeRoom], Loaded[T]]) -> Prerequisite | None:
        """Have a model loaded, as `lease` does, without waiting. None where there is nothing to wait for: it is there, or a
        lease is refused at once. Raises Overloaded where very many others are being loaded."""
        with self._changed:
            refused_until, _ = self._refused.get(key, (0.0, None))
            if self._closed or key in self._entries or refused_until > self._clock():
                return None
            going = self._going(key, load)
            left = going.began + self._patience_s - self._clock()
            return Prerequisite(going.done, left) if left > 0 else None

    def has_loaded(self, key: Hashable) -> bool:
        """Whether it was ever loaded, as far as that is remembered."""
        with self._changed:
            return key in self._seconds

    def held(self) -> list[Hashable]:
        """The models that are there, those used last at the end."""
        with self._changed:
            return list(self._entries)

    @property
    def used(self) -> Size:
        """What models take now, those that are being loaded and freed among them."""
        return self._used

    def close(self) -> None:
        """Free everything, what is in use as soon as it is not. Loads that are going on are freed when they end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._trim()

    # ---- leases ----------------------------------------------------------------------------------------------------

    def _take(self, key: Hashable, load: Callable[[MakeRoom], Loaded[T]], wait_s: float | None) -> _Entry[T]:
        with self._changed:
            if self._closed:
                raise NotReady("unloaded", retry_after_s=None)
            entry = self._entries.get(key)
            if entry is not None:
                entry.leases += 1
                entry.claimed = True
                self.statistics.hits += 1
                self._credit(key, entry)
                return entry
            self._raise_refusal(key)
            return self._wait(key, self._going(key, load), wait_s)

    def _going(self, key: Hashable, load: Callable[[MakeRoom], Loaded[T]]) -> _Load[T]:
        """The load of a model that is not there, begun where it was not yet. Raises Overloaded."""
        going = self._loads.get(key)
        if going is None:
            if len(self._loads) >= _MAX_LOADS:
                raise Overloaded("too many models are being loaded")
            going = _Load(self._clock())
            try:
                threading.Thread(target=self._load, args=(key, going, load), name="model-load", daemon=True).start()
            except RuntimeError as cause:  # the system has no more of them
                raise Overloaded("too many models are being loaded") from cause
            self._loads[key] = going  # which the thread looks for once it gets the lock, and not before
        return going

    def _wait(self, key: Hashable, going: _Load[T], wait_s: float | None) -> _Entry[T]:
        left = going.began + self._patience_s - self._clock()
        going.waiting += 1
        try:
            self._changed.wait_for(
                lambda: going.entry or going.error or self._closed, left if wait_s is None else min(left, wait_s)
            )
        except BaseException:
            going.waiting -= 1
            if going.entry is not None:
                going.entry.leases -= 1
            raise
        if going.entry is not None:
            return going.entry
        going.waiting -= 1
        if going.error is not None:
            raise copy.copy(going.error)
        expected = self._seconds.get(key, _FIRST_RETRY_S) - (self._clock() - going.began)
        raise NotReady("the model is being loaded", retry_after_s=max(_MIN_RETRY_S, expected))

    def _give_back(self, entry: _Entry[T]) -> None:
        with self._changed:
            entry.leases -= 1
            self._changed.notify_all()
        self._trim()

    def _credit(self, key: Hashable, entry: _Entry[T]) -> None:
        """How dear a model is to keep: the seconds that loading it again takes, for each byte that it takes here, as often as
        it was used, on top of what the last one that was put out had (GreedyDual-Size-Frequency). So all age that are not
        used; nothing is so dear that it never goes."""
        entry.uses = min(entry.uses + 1, _MOST_USES)
        taken = max(1, entry.loaded.size.host + entry.loaded.size.gpu)
        entry.credit = self._inflation + entry.uses * entry.seconds / taken
        self._entries[key] = self._entries.pop(key, entry)

    def _raise_refusal(self, key: Hashable) -> None:
        until, error = self._refused.get(key, (0.0, None))
        left = until - self._clock()
        if error is None or left <= 0:
            self._refused.pop(key, None)
            return
        self.statistics.refusals += 1
        again = copy.copy(error)
        if again.retry_after_s is not None:
            again.retry_after_s = max(_MIN_RETRY_S, left)
        raise again

    # ---- loads, each in its own thread -----------------------------------------------------------------------------

    def _load(self, key: Hashable, going: _Load[T], load: Callable[[MakeRoom], Loaded[T]]) -> None:
        reserved, waited = Size(), 0.0

        def make_room(expected: Size) -> None:
            nonlocal reserved, waited
            if reserved == Size():
                before = self._clock()
                self._reserve(going, expected)
                reserved, waited = expected, self._clock() - before

        loaded: Loaded[T] | None = None
        error: WorkflowError | None = None
        with self._slots:
            began = self._clock()
            try:
                loaded = load(make_room)
                if not _fits(loaded.size, self._budget):
                    raise _too_large()
            except WorkflowError as cause:
                log.warning("a model was not loaded: %s", cause.message, exc_info=cause.__cause__)
                error = copy.copy(cause)  # without its traceback, whose frames would hold what has been loaded
            except BaseException:
                log.exception("a model could not be loaded")
                error = WorkflowError("the model could not be loaded")
            if error is not None and loaded is not None:
                _free(loaded)
            self._finish(key, going, None if error else loaded, error, reserved, self._clock() - began - waited)
        self._trim()

    def _finish(
        self,
        key: Hashable,
        going: _Load[T],
        loaded: Loaded[T] | None,
        error: WorkflowError | None,
        reserved: Size,
        seconds: float,
    ) -> None:
        with self._changed:
            del self._loads[key]
            self._used -= reserved
            if loaded is not None:
                until = self._clock() + self._patience_s
                entry = _Entry(loaded, seconds, going.waiting, going.waiting > 0, until)
                self._count(loaded.size)
                self._credit(key, entry)
                going.entry = entry
                self.statistics.loads += 1
                _remember(self._seconds, key, seconds)
            elif error is not None:
                going.error = error
                for_s = self._refuse_s if error.retry_after_s is None else min(self._refuse_s, error.retry_after_s)
                _remember(self._refused, key, (self._clock() + for_s, error))
                self._end_swap(going)
            self._changed.notify_all()
        going.done.set_result(None)

    def _reserve(self, going: _Load[T], expected: Size) -> None:
        """Wait until a model of this size may be loaded. Raises WorkflowError where it never can be."""
        if not _fits(expected, self._budget):
            raise _too_large()
        while True:
            with self._changed:
                if self._closed:
                    raise NotReady("unloaded", retry_after_s=None)
                fits = _fits(self._used + expected, self._budget)
                if fits or (self._swap and self._swapping is None):
                    if not fits:
                        self._swapping = going
                    self._count(expected)
                    return
                soon = _fits(self._used - self._freeing + expected, self._budget)
                victim = None if self._swap or soon else self._victim()
                if victim is None:
                    self._changed.wait()
                    continue
            self._free_taken(victim)

    # ---- putting out -----------------------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Put models out until the others are within the budget; all of them once this is closed."""
        while True:
            with self._changed:
                over = self._closed or not _fits(self._used - self._freeing, self._budget)
                # Before the one that exceeds the budget is there, the others stay.
                there = self._closed or self._swapping is None or self._swapping.entry is not None
                victim = self._victim() if over and there else None
                if victim is None:
                    if there and _fits(self._used, self._budget):
                        self._end_swap(self._swapping)
                    return
            self._free_taken(victim)

    def _victim(self) -> _Entry[T] | None:
        """Take the cheapest model that nobody uses out of the books; the caller frees it. Its bytes count until then.

        The one for which others are put out goes last, and not before it was used.
        """
        now = self._clock()
        newest = None if self._swapping is None else self._swapping.entry
        free: list[tuple[bool, bool, float, int]] = []
        for place, entry in enumerate(self._entries.values()):
            promised = not entry.claimed and now < entry.until and not self._closed
            if entry.leases == 0 and not (promised and entry is newest):
                free.append((entry is newest, promised, entry.credit, place))
        if not free:
            return None
        victim = self._entries.pop(list(self._entries)[min(free)[3]])
        self._inflation = max(self._inflation, victim.credit)
        self._freeing += victim.loaded.size
        self.statistics.evictions += 1
        return victim

    def _free_taken(self, entry: _Entry[T]) -> None:
        _free(entry.loaded)
        with self._changed:
            self._used -= entry.loaded.size
            self._freeing -= entry.loaded.size
            self._changed.notify_all()

    def _end_swap(self, going: _Load[T] | None) -> None:
        if going is not None and self._swapping is going:
            self._swapping = None
            self._changed.notify_all()

    def _count(self, size: Size) -> None:
        self._used += size
        peak = self.statistics.peak
        self.statistics.peak = Size(max(peak.host, self._used.host), max(peak.gpu, self._used.gpu))


def _fits(size: Size, budget: Size) -> bool:
    return size.host <= budget.host and size.gpu <= budget.gpu


def _too_large() -> WorkflowError:
    return WorkflowError("the model is larger than all the memory that was given to models")


def _free(loaded: Loaded[Any]) -> None:
    try:
        loaded.free()
    except Exception:
        log.exception("a model could not be freed")


def _remember(table: OrderedDict[Hashable, Any], key: Hashable, value: object) -> None:
    """Keys are what callers ask for: only so many are remembered."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MAX_REMEMBERED:
        table.popitem(last=False)
