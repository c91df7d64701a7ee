"""One answer's audio from what the model says of its pieces: at the wanted speed and rate, joined, and written in a format.

Knows no model. Everything here takes time in proportion to the audio and belongs on a thread that may take it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import samplerate

from workflows.errors import BadOutput
from workflows.inference.speech.encoders import Encoder, open_encoder, rate_for
from workflows.inference.speech.engine import AudioInferenceResult
from workflows.inference.speech.sentences import Piece, pieces
from workflows.inference.speech.stretching import stretched
from workflows.tensors import Array
from workflows.types.speech import Speak, SpeechChunk

__all__ = ["Piece", "Production", "pieces"]

# What a sample rate can be, in Hz: with any of them, audio can be brought to any that an answer can have.
_RATES: Final = range(1_000, 192_001)
# A model's first and last sample may be anything: without this, it is heard as a click.
_FADE_S: Final = 0.005


class Production:
    """`push` for each piece in its order, at last `finish`. Used by one thread at a time.

    One that is given up needs nothing: what libsndfile holds is freed with it, after the thread that may still be in it.
    """

    def __init__(self, asked: Speak) -> None:
        self._asked = asked
        self._rate = 0  # of the answer, once there is any
        self._encoder: Encoder | None = None
        self._sounded = False
        self._pause_s = 0.0  # due before the next piece
        self._frames = 0  # that went into the file since the last chunk

    def push(self, said: AudioInferenceResult, pause_s: float) -> SpeechChunk | None:
        """The next chunk, None where the file has not grown yet; `pause_s` is the silence after the piece.

        Raises BadOutput for what is no audio.
        """
        wave, rate = _parsed(said)
        if not self._rate:
            self._rate = self._asked.sample_rate or rate_for(self._asked.format, rate)
            if self._asked.format is not None:
                self._encoder = open_encoder(self._asked.format, self._rate)
        samples = self._at_rate(stretched(wave, rate, self._asked.speed), rate)
        if not len(samples):
            return None
        self._sounded = True
        silence = np.zeros(round(self._pause_s / self._asked.speed * self._rate), np.float32)
        self._pause_s = pause_s
        return self._chunk(np.concatenate([silence, samples]))

    def finish(self) -> SpeechChunk | None:
        """What is left. Raises BadOutput where the model has not made a sound."""
        if not self._sounded:
            raise BadOutput("the model made no sound of this text")
        encoder, self._encoder = self._encoder, None
        return None if encoder is None else self._written(encoder.close())

    def _at_rate(self, samples: Array, rate: int) -> Array:
        if rate != self._rate and len(samples):
            samples = samplerate.resample(samples, self._rate / rate, "sinc_medium")
            np.clip(samples, -1.0, 1.0, out=samples)
        return samples

    def _chunk(self, samples: Array) -> SpeechChunk | None:
        self._frames += len(samples)
        if self._encoder is None:
            return self._told(samples=samples)
        return self._written(self._encoder.push(np.rint(samples * 32767.0).astype(np.int16)))

    def _written(self, audio: bytes) -> SpeechChunk | None:
        return self._told(format=self._asked.format, audio=audio) if audio else None

    def _told(self, **parts: Any) -> SpeechChunk:
        frames, self._frames = self._frames, 0
        return SpeechChunk(sample_rate=self._rate, seconds=frames / self._rate, **parts)


def _parsed(said: AudioInferenceResult) -> tuple[Array, int]:
    """float32 of shape (samples,), within bounds, without clicks at its ends; and its sample rate in Hz."""
    samples = np.asarray(said.audio_array)
    if samples.ndim == 2 and len(samples):
        samples = samples.mean(axis=0)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise BadOutput("the model gave something that is no audio")
    if not isinstance(said.sample_rate, int | np.integer) or said.sample_rate not in _RATES:
        raise BadOutput("the model gave a sample rate that is none")
    rate = int(said.sample_rate)
    if not np.isfinite(samples).all():
        raise BadOutput("the model gave audio that is not finite")
    bounded: Array = np.clip(samples, -1.0, 1.0).astype(np.float32)  # a copy
    fade = min(round(_FADE_S * rate), len(bounded) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    bounded[:fade] *= ramp
    bounded[len(bounded) - fade :] *= ramp[::-1]
    return bounded, rate
