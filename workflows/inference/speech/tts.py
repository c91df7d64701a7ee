"""Text to speech with any model: yours says one sentence, or several at once; the rest is here.

text -> pieces -> SpeechEngine, where sentences of all requests meet -> Production -> SpeechChunk

    class Mine(TTSInferenceWorkflow):
        def do_setup(self) -> None: ...                # load the model
        def voices(self) -> list[str]: ...             # the one to take where none is asked for first
        def synthesize(self, sentence: Sentence) -> AudioInferenceResult: ...

These, `do_warm_up` and `do_teardown` run on one thread, which is the model's alone. Knows no model.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from workflows.async_base import AsyncInferenceWorkflow
from workflows.card import Card
from workflows.chunks import achunks, awhile_wanted
from workflows.context import current_call
from workflows.deadlines import given_up
from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.speech.engine import AudioInferenceResult, Lane, Sentence, SpeechEngine
from workflows.types.speech import Speak, Speech, SpeechChunk

if TYPE_CHECKING:
    from workflows.inference.speech.production import Production

__all__ = ["AudioInferenceResult", "Sentence", "TTSInferenceWorkflow"]

_PRODUCTION: Final = "workflows.inference.speech.production"
_MAX_NAMED_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class _Prepared:
    asked: Speak
    voice: str
    language: str | None


class TTSInferenceWorkflow(AsyncInferenceWorkflow[Speak, Speech, SpeechChunk]):
    """Says a text aloud, sentence by sentence.

    Sentences are batch items: those of all requests are said together as far as the model allows, in turns, so that a
    long text holds up nobody. Of each request only the next few are in work, and none while its caller does not read.

    Attributes:
        max_batch: Sentences that are said together at most; of use where `synthesize_batch` is defined.
        sentences_ahead: Sentences of one request that are said before its caller has read the one before them.
        max_sentence_chars: Longer sentences are cut, at a comma or between words; see `pieces`.
        language: Of texts whose language neither the request nor its voice tells.
        max_whole_bytes: An answer that is given at once, rather than as a stream, may be so long.
    """

    retry_safe: ClassVar[bool] = True
    max_batch: int = 8
    sentences_ahead: int = 3
    max_sentence_chars: int = 300
    language: str = "en"
    max_whole_bytes: int = 32 << 20
    _sample_rate: int | None = None
    _voices: tuple[str, ...] = ()

    # ---- yours -----------------------------------------------------------------------------------------------------

    def voices(self) -> Sequence[str]:
        """As whom the model can speak, at least one; the first is taken where none is asked for. Asked once, after setup."""
        return ["default"]

    def synthesize(self, sentence: Sentence) -> AudioInferenceResult:
        """Say one sentence. With the same `seed`, the same audio."""
        (said,) = self.synthesize_batch([sentence])
        if isinstance(said, WorkflowError):
            raise said
        return said

    def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
        """Say several sentences that `company` has brought together: as many outcomes, in their order."""
        return [self.synthesize(sentence) for sentence in sentences]

    def company(self, sentence: Sentence) -> Hashable:
        """Sentences for which this gives the same may be said at once; one for which it gives None is said alone.

        By default, those of one voice and language, and those with a seed alone. Quick: asked on the event loop.
        """
        return None if sentence.seed is not None else (sentence.voice, sentence.language)

    def language_of(self, voice: str) -> str | None:
        """Which language a voice speaks, where it tells."""
        return None

    def do_warm_up(self) -> None:
        """Says a word in the first voice."""
        said = self.synthesize(Sentence("Yes.", self._voices[0], self.language_of(self._voices[0]), seed=0))
        self._new_production(Speak(text="Yes.")).push(said, 0.0)
        self._sample_rate = int(said.sample_rate)

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Speak) -> _Prepared:
        """Raises InvalidInput for a voice that there is none of, and for what is no Unicode."""
        voice = input_data.voice or self._voices[0]
        if voice not in self._voices:
            raise InvalidInput(f"there is no such voice here, but {_named(self._voices)}", param="voice")
        try:
            input_data.text.encode("utf-8")
        except UnicodeEncodeError as cause:
            raise InvalidInput("the text is not valid Unicode", param="text") from cause
        return _Prepared(input_data, voice, input_data.language or self.language_of(voice))

    async def do_stream(self, preprocessed_data: _Prepared) -> AsyncGenerator[SpeechChunk]:
        production = self._new_production(preprocessed_data.asked)
        async with aclosing(self._said(preprocessed_data)) as parts:
            async for said, pause_s in parts:
                chunk = await asyncio.to_thread(production.push, said, pause_s)
                if chunk is not None:
                    yield chunk
        last = await asyncio.to_thread(production.finish)
        if last is not None:
            yield last

    async def do_run_model(self, preprocessed_data: _Prepared) -> Speech:
        """Raises InvalidInput where the answer becomes too long to be given at once."""
        made: list[SpeechChunk] = []
        size = 0
        async with aclosing(achunks(self.do_stream, preprocessed_data)) as chunks:
            async for chunk in awhile_wanted(chunks):
                made.append(chunk)
                size += _bytes_of(chunk)
                if size > self.max_whole_bytes:
                    raise InvalidInput("this text is too long for one answer: ask for a stream", param="text")
        return await asyncio.to_thread(Speech.fold, made)

    def card(self, name: str, summary: str = "") -> Card:
        told = {"voices": list(self._voices), "sample_rate": self._sample_rate}
        return super().card(name, summary).model_copy(update=told)

    async def _said(self, prepared: _Prepared) -> AsyncGenerator[tuple[AudioInferenceResult, float]]:
        """What the model says, and the silence after it, piece by piece; a few are in work ahead of who reads this."""
        asked = prepared.asked
        parts = self._pieces(asked.text, prepared.language or self.language, self.max_sentence_chars)
        lane = self._engine.lane(current_call())
        waiting: deque[tuple[asyncio.Future[AudioInferenceResult], float]] = deque()
        count = 0
        more = True
        try:
            while True:
                while more and len(waiting) < max(1, self.sentences_ahead):
                    late = given_up(lane.call, begun=count > 0)
                    if late is not None:
                        raise late
                    piece = next(parts, None)
                    if piece is None:
                        more = False
                    elif not piece.text:
                        await asyncio.sleep(0)
                    else:
                        waiting.append((lane.say(self._sentence(piece.text, prepared, count, lane)), piece.pause_s))
                        count += 1
                if not waiting:
                    break
                answer, pause_s = waiting[0]
                said = await answer
                waiting.popleft()
                yield said, pause_s
            if not count:
                raise InvalidInput("there is nothing in this text to say", param="text")
        finally:
            lane.close()
            for answer, _ in waiting:
                answer.cancel()

    def _sentence(self, text: str, prepared: _Prepared, number: int, lane: Lane) -> Sentence:
        seed = prepared.asked.seed
        if seed is not None:  # another for each sentence, the same each time
            seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return Sentence(text, prepared.voice, prepared.language, seed, lambda: lane.is_wanted)

    # ---- life ------------------------------------------------------------------------------------------------------

    async def _set_up(self) -> None:
        try:
            self._pieces: Callable[..., Any] = resolve_name(f"{_PRODUCTION}:pieces")
            self._new_production: type[Production] = resolve_name(f"{_PRODUCTION}:Production")
        except ImportError as cause:
            raise InvalidInput("speech needs `pip install infernet-serve[speech]`") from cause
        together = self.max_batch if self._is_mine("synthesize_batch") else 1
        self._engine = SpeechEngine(self.synthesize_batch, self.company, together)
        try:
            await super()._set_up()
        except BaseException:
            self._engine.stop()  # without waiting for a model that is still being loaded
            raise

    async def _live(self, hook: Callable[[], Any]) -> None:
        """On the model's thread; what is left to be awaited of it, here."""
        left = await self._engine.run(hook, last=hook == self.do_teardown)
        if inspect.isawaitable(left):
            await left
        if hook == self.do_setup:
            self._voices = tuple(await self._engine.run(self.voices))
            if not self._voices:
                raise TypeError(f"{type(self).__name__}.voices() gave none")
        elif hook == self.do_teardown:
            await asyncio.to_thread(self._engine.close)

    def _require_hooks(self, *hooks: str) -> None:
        super()._require_hooks(*hooks)
        if not self._is_mine("synthesize") and not self._is_mine("synthesize_batch"):
            raise TypeError(f"{type(self).__name__} defines none of synthesize, synthesize_batch")

    def _is_mine(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(TTSInferenceWorkflow, hook)


def _named(voices: Sequence[str]) -> str:
    """As many as a message has room for."""
    told = ""
    for number, voice in enumerate(voices):
        if len(told) + len(voice) > _MAX_NAMED_CHARS:
            return f"{told} and {len(voices) - number} more, which the workflow's card lists"
        told += f"{', ' if told else ''}{voice!r}"
    return told


def _bytes_of(chunk: SpeechChunk) -> int:
    return len(chunk.audio or b"") + (0 if chunk.samples is None else int(chunk.samples.nbytes))
