"""A file of sound, as an upstream gives it for a text to say: read with libsndfile, and written as the caller wants it."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from workflows.errors import Unsupported
from workflows.tensors import Array
from workflows.types.media import media_type
from workflows.types.speech import SAMPLE_RATES, AudioFormat, Speak, Speech

__all__ = ["check_speak", "speech_of"]

_MAX_SAMPLES: Final = 1 << 25  # twelve minutes at 48 kHz
# How libsndfile calls the container and what is in it.
_WRITTEN: Final[dict[AudioFormat, tuple[str, str]]] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
}


def check_speak(asked: Speak) -> None:
    """Raises Unsupported for what the API has no words for."""
    for name in ("voice", "language", "speed", "sample_rate", "seed"):
        if getattr(asked, name) != Speak.model_fields[name].default:
            raise Unsupported(f"{name}: the upstream does not have this", param=name)


def speech_of(soundfile: Any, asked: Speak, file: bytes) -> Speech:
    """Blocks. Raises ValueError for what is no sound, or too much of it."""
    kind = media_type(file)
    if kind is None or not kind.startswith("audio/"):
        raise ValueError("no sound")
    try:
        with soundfile.SoundFile(io.BytesIO(file)) as opened:
            rate = int(opened.samplerate)
            if not 0 < opened.frames * opened.channels <= _MAX_SAMPLES:
                raise ValueError("too much sound")
            samples: Array = opened.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)
    except soundfile.LibsndfileError:
        samples = np.zeros(0, np.float32)
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError("no sound")
    samples = np.clip(samples, -1.0, 1.0)
    seconds = len(samples) / rate
    if asked.format is None:
        return Speech(sample_rate=rate, seconds=seconds, samples=samples)
    audio = _audio(soundfile, samples, rate, asked.format)
    return Speech(sample_rate=rate, seconds=seconds, format=asked.format, audio=audio)


def _audio(soundfile: Any, samples: Array, rate: int, wanted: AudioFormat) -> bytes:
    if wanted == "pcm":
        return np.round(samples * 32767).astype("<i2").tobytes()
    rates = SAMPLE_RATES.get(wanted)
    if rates is not None and rate not in rates:
        raise Unsupported(f"format: {wanted} does not have the upstream's sample rate, {rate}", param="format")
    container, subtype = _WRITTEN[wanted]
    written = io.BytesIO()
    soundfile.write(written, samples, rate, format=container, subtype=subtype)
    return written.getvalue()
