"""One thread on which a speech model works, and who gets it next: sentences of many requests, taken in turns, in batches.

Knows no text and no audio. A batch is formed when the model is free: of the sentence whose request has waited longest for its
turn, and of those that may keep it company, one of each request before two of any. So a long text delays the others by one
batch, however long it is.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workflows.batch import as_error
from workflows.context import CallContext
from workflows.deadlines import given_up
from workflows.errors import Cancelled, NotReady, WorkflowError
from workflows.tensors import Array

__all__ = ["AudioInferenceResult", "Lane", "Sentence", "SpeechEngine"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AudioInferenceResult:
    """What a model has said.

    Attributes:
        audio_array: Floats from -1 to 1, of shape (samples,), or (channels, samples) of which the mean is taken.
        sample_rate: In Hz, a whole number from 1000 to 192000.
    """

    audio_array: Array
    sample_rate: int


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """Something to be said in one breath.

    Attributes:
        voice: One of the workflow's own voices.
        language: As in `Speak`; None where neither the request nor the workflow says it.
        seed: Of this sentence's random numbers, below 2**32; None draws others each time.
        is_wanted: Tells whether somebody still waits for it. A model that takes long asks between its steps, from its own
            thread, and raises `Cancelled` when nobody waits for any sentence of its batch.
    """

    text: str
    voice: str
    language: str | None = None
    seed: int | None = None
    is_wanted: Callable[[], bool] = lambda: True


Outcome = AudioInferenceResult | WorkflowError
Say = Callable[[list[Sentence]], Sequence[Outcome]]
Company = Callable[[Sentence], Hashable]

_CLOSED: Final = "this workflow is being taken down"


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    sentence: Sentence
    company: Hashable
    answer: asyncio.Future[AudioInferenceResult]
    lane: Lane


class Lane:
    """The sentences of one request, in their order. Belongs to an event loop; `close` when no more is wanted of it."""

    def __init__(self, engine: SpeechEngine, call: CallContext) -> None:
        self.call = call
        self.waiting: deque[_Job] = deque()
        self.begun = False
        self.closed = False
        self._engine = engine

    @property
    def is_wanted(self) -> bool:
        return not self.closed and given_up(self.call) is None

    def say(self, sentence: Sentence) -> asyncio.Future[AudioInferenceResult]:
        """Raises NotReady for an engine that is closed, and what `company` raises; the future, what goes wrong later."""
        answer: asyncio.Future[AudioInferenceResult] = asyncio.get_running_loop().create_future()
        self._engine.add(_Job(sentence, self._engine.company(sentence), answer, self))
        return answer

    def close(self) -> None:
        """What waits is forgotten; what is being said is told that nobody listens."""
        self.closed = True
        self._engine.drop(self)


class SpeechEngine:
    """Runs from its making until `close`.

    Args:
        say: Says sentences that may keep each other company, on the engine's thread: for each of them an outcome.
        company: Sentences for which this gives the same may be said together; one for which it gives None is said alone.
            Asked once for each sentence, on its event loop.
        max_batch: Sentences that are said together at most.
    """

    def __init__(self, say: Say, company: Company, max_batch: int) -> None:
        self.company = company
        self._say = say
        self._max_batch = max_batch
        self._lanes: deque[Lane] = deque()  # those in which somebody waits, who is next first
        self._calls: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._last: Callable[[], Any] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="speech-model", daemon=True)
        self._thread.start()

    def lane(self, call: CallContext) -> Lane:
        return Lane(self, call)

    async def run(self, work: Callable[[], Any], *, last: bool = False) -> Any:
        """What `work()` returns or raises, on the engine's thread, before the next batch.

        Args:
            last: Nothing is said after this; who waits is told NotReady.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._require_open()
            if last:
                self._last = work
            self._calls.append((work, answer))
            self._changed.notify()
        return await answer

    def stop(self) -> None:
        """End the thread after what it is doing; who waits is told NotReady."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self) -> None:
        """Stop, and return when the thread has ended."""
        self.stop()
        self._thread.join()

    # ---- for lanes -------------------------------------------------------------------------------------------------

    def add(self, job: _Job) -> None:
        with self._changed:
            self._require_open()
            lane = job.lane
            if not lane.waiting:
                self._lanes.append(lane)
            lane.waiting.append(job)
            self._changed.notify()

    def drop(self, lane: Lane) -> None:
        with self._changed:
            if lane in self._lanes:
                self._lanes.remove(lane)

    def _require_open(self) -> None:
        if self._closed:
            raise NotReady(_CLOSED, retry_after_s=None)

    # ---- on the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._calls or self._lanes or self._closed):
                    self._changed.wait()
                if self._closed:
                    break
                call = self._calls.popleft() if self._calls else None
                batch = [] if call else self._next_batch()
            if call:
                _answer(*call)
                if call[0] is self._last:
                    self.stop()
            elif batch:
                self._run(batch)
        self._fail_all()

    def _next_batch(self) -> list[_Job]:
        """Who is next, and company."""
        batch: list[_Job] = []
        gave: list[Lane] = []
        wanted: Hashable = None
        round_ = list(self._lanes)
        while round_ and len(batch) < self._max_batch:
            again = []
            for lane in round_:
                if len(batch) == self._max_batch:
                    break
                company = lane.waiting[0].company
                if batch and (company is None or company != wanted):
                    continue
                if not batch:
                    wanted = company
                batch.append(lane.waiting.popleft())
                if lane not in gave:
                    gave.append(lane)
                # A request's first sentence goes without its second, so that it is heard the sooner.
                if lane.waiting and lane.begun:
                    again.append(lane)
                lane.begun = True
            round_ = again
        for lane in gave:  # to the end of the queue
            self._lanes.remove(lane)
            if lane.waiting:
                self._lanes.append(lane)
        return batch

    def _run(self, batch: list[_Job]) -> None:
        wanted: list[_Job] = []
        for job in batch:
            late = given_up(job.lane.call)
            if late is None:
                wanted.append(job)
            else:
                _settle(job.answer, late)
        if not wanted:
            return
        outcomes = self._outcomes([job.sentence for job in wanted])
        for job, outcome in zip(wanted, outcomes, strict=True):
            # Of one that was given up, the model knows only that nobody waits.
            late = given_up(job.lane.call, begun=True) if isinstance(outcome, Cancelled) else None
            _settle(job.answer, late or outcome)

    def _outcomes(self, sentences: list[Sentence]) -> Sequence[Outcome]:
        """Where a batch fails, each of its sentences has another chance by itself: one alone may be to blame."""
        try:
            outcomes = self._say(sentences)
            if len(outcomes) != len(sentences):
                raise TypeError(f"{len(sentences)} sentences gave {len(outcomes)} outcomes")
        except BaseException as error:
            if isinstance(error, WorkflowError) or len(sentences) == 1:
                return [as_error(error)] * len(sentences)
            log.warning("a batch of %d sentences failed: each is said by itself", len(sentences), exc_info=error)
            return [self._outcomes([sentence])[0] for sentence in sentences]
        return outcomes

    def _fail_all(self) -> None:
        with self._changed:
            answers: list[asyncio.Future[Any]] = [answer for _, answer in self._calls]
            answers += [job.answer for lane in self._lanes for job in lane.waiting]
            self._calls.clear()
            self._lanes.clear()
        for answer in answers:
            _settle(answer, NotReady(_CLOSED, retry_after_s=None))


def _answer(work: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
    try:
        outcome = work()
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        outcome = error
    _settle(answer, outcome)


def _settle(answer: asyncio.Future[Any], outcome: Any) -> None:
    """From the thread: on the loop of who waits, if that is still there."""

    def set_() -> None:
        if answer.done():
            return
        if isinstance(outcome, BaseException):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    try:
        answer.get_loop().call_soon_threadsafe(set_)
    except RuntimeError:  # the loop is closed: nobody waits
        log.debug("an outcome that nobody waits for")
