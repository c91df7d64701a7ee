"""Writes 16-bit audio of one channel, piece by piece, in a format that can be sent while it grows. Knows no text, no model.

Bytes that were given out are never changed. So no header says how long the file is: WAV has 0xFFFFFFFF for its sizes and
FLAC 0 for its samples, as both formats provide for; Opus and MP3 need none, and of MP3 the frame is left out in which LAME
would say it afterwards.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Protocol

import soundfile

from workflows.tensors import Array
from workflows.types.speech import SAMPLE_RATES, UNKNOWN_LENGTH, AudioFormat

__all__ = ["Encoder", "open_encoder", "rate_for"]

# For libsndfile: a container, an encoding, and options. MP3 has a constant bitrate, from which readers tell the length: a
# little above 80 kbit/s at 24 kHz.
_FILES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "flac": ("FLAC", "PCM_16", {}),
    "opus": ("OGG", "OPUS", {}),
    "mp3": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT", "compression_level": 0.5}),
}


class Encoder(Protocol):
    """Used by one thread at a time."""

    def push(self, samples: Array) -> bytes:
        """What has become ready by these samples: int16 of shape (samples,)."""

    def close(self) -> bytes:
        """The rest of the file."""


def open_encoder(format_: AudioFormat, sample_rate: int) -> Encoder:
    """The sample rate is one that the format has, see `rate_for`."""
    if format_ in _FILES:
        return _File(format_, sample_rate)
    return _Plain(_wav_header(sample_rate) if format_ == "wav" else b"")


def rate_for(format_: AudioFormat | None, sample_rate: int) -> int:
    """The format's sample rate that is the nearest to this one and loses nothing, where there is one."""
    rates = SAMPLE_RATES.get(format_ or "")
    return sample_rate if rates is None else next((rate for rate in rates if rate >= sample_rate), rates[-1])


def _wav_header(sample_rate: int) -> bytes:
    plain_samples, channels, bytes_each = 1, 1, 2
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", UNKNOWN_LENGTH, b"WAVE", b"fmt ", 16, plain_samples, channels),
        *(sample_rate, sample_rate * bytes_each, bytes_each, 8 * bytes_each, b"data", UNKNOWN_LENGTH),
    )


class _Plain:
    def __init__(self, header: bytes) -> None:
        self._header = header

    def push(self, samples: Array) -> bytes:
        header, self._header = self._header, b""
        return header + samples.astype("<i2", copy=False).tobytes()

    def close(self) -> bytes:
        header, self._header = self._header, b""
        return header


class _File:
    """A file that libsndfile writes."""

    def __init__(self, format_: AudioFormat, sample_rate: int) -> None:
        container, encoding, options = _FILES[format_]
        self._sink = _Sink(drops_empty_frame=format_ == "mp3")
        self._file = soundfile.SoundFile(
            self._sink, "w", samplerate=sample_rate, channels=1, format=container, subtype=encoding, **options
        )

    def push(self, samples: Array) -> bytes:
        self._file.write(samples)
        return self._sink.taken()

    def close(self) -> bytes:
        self._file.close()
        return self._sink.taken()


class _Sink:
    """What libsndfile takes for a file: keeps what is appended, until it is taken, and forgets corrections of the past.

    Args:
        drops_empty_frame: Leave out what comes first, if nothing is in it but a frame's header.
    """

    def __init__(self, *, drops_empty_frame: bool) -> None:
        self._may_drop = drops_empty_frame
        self._new: list[bytes] = []
        self._place = 0
        self._end = 0

    def taken(self) -> bytes:
        taken, self._new = b"".join(self._new), []
        return taken

    def write(self, data: Any) -> int:
        written = bytes(data)
        if self._place == self._end:
            self._end += len(written)
            if not (self._may_drop and not any(written[4:])):
                self._new.append(written)
            self._may_drop = False
        self._place += len(written)
        return len(written)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def flush(self) -> None:
        pass
