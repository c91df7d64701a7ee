"""Speech from others: asked for as plain samples, which are written here in whatever format the caller wants.

So its rate and length are known while it is still coming, and every format can be streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np

from workflows.errors import InvalidInput, Unsupported
from workflows.inference.css.asked import AskSpeech
from workflows.inference.css.asking import Asking, Means, Order
from workflows.inference.css.providers import ProviderName, Takes
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.tensors import Array
from workflows.types.speech import Speech, SpeechChunk

__all__ = ["OPENAI_VOICES", "Speaking"]

OPENAI_VOICES: Final = ("alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse")
_RATE: Final = 24_000
"""Of the samples that OpenAI gives, in Hz; those who follow it do the same."""
_PLAIN: Final = ("pcm", "wav")
"""Formats that cost nothing to write; the others are written on a thread."""


class Speaking(Asking):
    """One endpoint of one provider that speaks.

    Args:
        voices: Those that callers may ask for; the first is taken where they do not.
    """

    types = (AskSpeech, Speech, SpeechChunk)

    def __init__(self, provider: ProviderName, takes: Takes, voices: Sequence[str]) -> None:
        super().__init__(provider, "speech", takes, None)
        self.voices = tuple(voices)

    def _body(self, asked: AskSpeech) -> dict[str, Any]:
        for name in ("language", "seed"):
            if getattr(asked, name) is not None:
                raise Unsupported(f"{name}: {self._provider} does not have this", param=name)
        if asked.sample_rate not in (None, _RATE):
            raise Unsupported(f"sample_rate: {self._provider} speaks at {_RATE} Hz", param="sample_rate")
        voice = asked.voice or self.voices[0]
        if voice not in self.voices:
            raise InvalidInput("there is no such voice here; the card says which there are", param="voice")
        body = {"input": asked.text, "voice": voice, "response_format": "pcm"}
        return body | ({} if asked.speed == 1.0 else {"speed": asked.speed})

    async def whole(self, order: Order, means: Means) -> Speech:
        async with aclosing(self.pieces(order, means)) as chunks:
            return Speech.fold([chunk async for chunk in chunks if chunk is not None])

    async def pieces(self, order: Order, means: Means) -> AsyncGenerator[SpeechChunk | None]:
        writing = _Writing(order.asked, means)
        async with aclosing(means.client.bytes(order.path, order.body)) as sound:
            async for received in sound:
                yield await writing.push(received)
        last = await writing.finish()
        if last is not None:
            yield last


class _Writing:
    """One answer being written. Raises UpstreamFailure for what is no sound."""

    def __init__(self, asked: AskSpeech, means: Means) -> None:
        self._format = asked.format
        self._encoder = None if asked.format is None else means.open_encoder(asked.format, _RATE)
        self._half = b""
        self._frames = self._told = 0

    async def push(self, received: bytes) -> SpeechChunk | None:
        received = self._half + received
        even = len(received) // 2 * 2
        self._half = received[even:]
        samples = np.frombuffer(received[:even], "<i2")
        self._frames += len(samples)
        if self._encoder is None:
            return self._chunk(samples=samples.astype(np.float32) / 32768.0) if len(samples) else None
        return self._written(await self._on_thread(self._encoder.push, samples.astype(np.int16)))

    async def finish(self) -> SpeechChunk | None:
        if self._half or not self._frames:
            raise UpstreamFailure(FailureKind.MALFORMED, detail="half a sample, or none at all")
        return None if self._encoder is None else self._written(await self._on_thread(self._encoder.close))

    async def _on_thread(self, write: Any, *args: Array) -> bytes:
        written: bytes = write(*args) if self._format in _PLAIN else await asyncio.to_thread(write, *args)
        return written

    def _written(self, audio: bytes) -> SpeechChunk | None:
        return self._chunk(format=self._format, audio=audio) if audio else None

    def _chunk(self, **parts: Any) -> SpeechChunk:
        frames, self._told = self._frames - self._told, self._frames
        return SpeechChunk(sample_rate=_RATE, seconds=frames / _RATE, **parts)
