"""Kind `speech`: a text said aloud, whole or as it is made."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from workflows.types.exchange import Exchange
from workflows.types.media import Media
from workflows.types.tensors import Vector

__all__ = ["SAMPLE_RATES", "AudioFormat", "Speak", "Speech", "SpeechChunk"]

AudioFormat = Literal["wav", "flac", "opus", "mp3", "pcm"]

SAMPLE_RATES: Final[dict[str, tuple[int, ...]]] = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
"""The only ones that these formats have; the others take any."""

UNKNOWN_LENGTH: Final = 0xFFFFFFFF
"""What stands for both sizes in the header of a WAV file whose end nobody knows yet."""

# Where in a file its length stands: WAV has two sizes in bytes, FLAC a count of 36 bits.
_WAV_HEADER: Final = 44
_FLAC_COUNT: Final = 21


class Speak(Exchange):
    """A text to say aloud.

    Attributes:
        text: May be as long as you like: it is said sentence by sentence.
        voice: One of those that the workflow's card lists; None is the first of them.
        language: Of the text, as `en` or `pt-BR`: where its sentences end, and how it is read by a model that asks. None
            is as the workflow is configured.
        speed: How many times faster than the model speaks by itself; the pitch stays.
        format: How the audio is written; `pcm` is 16 bits, little-endian, without a header. None gives `samples`.
        sample_rate: Of the answer, in Hz; None is the model's own, or the next above it that the format has.
        seed: Makes a model that draws random numbers repeat itself.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Good morning.", "format": "wav"}]})
    kind: ClassVar[str] = "speech"
    text: str = Field(min_length=1)
    voice: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,3}$")] | None = None
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    format: AudioFormat | None = None
    sample_rate: int | None = Field(default=None, ge=8000, le=48000)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)

    @field_validator("sample_rate")
    @classmethod
    def _rate_of_format(cls, rate: int | None, fields: ValidationInfo) -> int | None:
        format_ = fields.data.get("format")
        rates = SAMPLE_RATES.get(format_ or "")
        if rates and rate is not None and rate not in rates:
            raise ValueError(f"{format_} has the sample rates {', '.join(map(str, rates))}")
        return rate


class _Audio(Exchange):
    """Audio in one channel: written as `audio` where there is a `format`, else as `samples`.

    Attributes:
        sample_rate: In Hz.
        seconds: How long it is: in a chunk, what went into the file since the chunk before, though some of its bytes may
            come with the next one. A whole number of samples.
        samples: float32, from -1 to 1.
    """

    kind: ClassVar[str] = "speech"
    sample_rate: int = Field(ge=1)
    seconds: float = Field(ge=0.0)
    format: AudioFormat | None = None
    audio: Media | None = Field(default=None, exclude_if=lambda audio: audio is None)
    samples: Vector | None = Field(default=None, exclude_if=lambda samples: samples is None)

    @model_validator(mode="after")
    def _in_one_form(self) -> Self:
        if (self.audio is None) != (self.format is None) or (self.samples is None) == (self.audio is None):
            raise ValueError("audio goes with its format, and samples go without")
        return self


class SpeechChunk(_Audio):
    """A piece of an answer. The `audio` of all chunks in their order is one file, whose header, where it has one, does
    not say how long the file is; see `Speech.fold`."""


class Speech(_Audio):
    """A whole answer."""

    @classmethod
    def fold(cls, chunks: Iterable[SpeechChunk]) -> Speech:
        """Join a stream, and tell the file's header how long it has become. Raises ValueError if there was no chunk."""
        parts = list(chunks)
        if not parts:
            raise ValueError("the stream had no audio")
        rate, format_ = parts[0].sample_rate, parts[0].format
        frames = sum(round(part.seconds * rate) for part in parts)
        seconds = frames / rate
        if format_ is None:
            samples = np.concatenate([part.samples for part in parts if part.samples is not None])
            return cls(sample_rate=rate, seconds=seconds, samples=samples)
        audio = bytearray().join(part.audio for part in parts if part.audio is not None)
        _set_length(format_, audio, frames)
        return cls(sample_rate=rate, seconds=seconds, format=format_, audio=bytes(audio))


def _set_length(format_: AudioFormat, audio: bytearray, frames: int) -> None:
    if format_ == "wav" and _WAV_HEADER <= len(audio) < UNKNOWN_LENGTH:
        struct.pack_into("<I", audio, 4, len(audio) - 8)
        struct.pack_into("<I", audio, _WAV_HEADER - 4, len(audio) - _WAV_HEADER)
    elif format_ == "flac" and len(audio) >= _FLAC_COUNT + 5 and frames < 1 << 36:
        audio[_FLAC_COUNT] = audio[_FLAC_COUNT] & 0xF0 | frames >> 32
        struct.pack_into(">I", audio, _FLAC_COUNT + 1, frames & 0xFFFFFFFF)
