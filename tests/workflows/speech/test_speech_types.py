"""Speech as plain data: audio is base64 text there, and a stream's chunks join to one file that knows its length."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from pydantic import ValidationError

from workflows import Speak, Speech, SpeechChunk
from workflows.plain import plain


def test_audio_is_bytes_in_python_and_base64_in_plain_data() -> None:
    speech = Speech(sample_rate=8000, seconds=0.0, format="pcm", audio=b"\x00\xff")
    assert plain(speech) == {"sample_rate": 8000, "seconds": 0.0, "format": "pcm", "audio": "AP8="}
    assert json.loads(speech.model_dump_json()) == plain(speech)
    assert Speech.model_validate(plain(speech)).audio == b"\x00\xff"


def test_samples_stay_an_array() -> None:
    samples = np.zeros(4, np.float32)
    speech = Speech(sample_rate=8000, seconds=4 / 8000, samples=samples)
    assert plain(speech)["samples"] is samples
    assert "audio" not in plain(speech)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("text", ""),
        ("text", 5),
        ("voice", ""),
        ("voice", "x" * 257),
        ("language", "../x"),
        ("language", "en" + "-abc" * 4),
        ("speed", 0.2),
        ("speed", 4.1),
        ("speed", float("nan")),
        ("sample_rate", 7999),
        ("sample_rate", 48001),
        ("seed", -1),
        ("seed", 1 << 63),
        ("format", "aac"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(field: str, wrong: object) -> None:
    with pytest.raises(ValidationError) as refused:
        Speak.model_validate({"text": "hi", field: wrong})
    assert [error["loc"] for error in refused.value.errors()] == [(field,)]


@pytest.mark.parametrize(("format_", "rate"), [("opus", 22050), ("opus", 44100), ("mp3", 8001)])
def test_a_format_has_its_own_sample_rates(format_: str, rate: int) -> None:
    with pytest.raises(ValidationError, match=f"{format_} has the sample rates 8000, ") as refused:
        Speak.model_validate({"text": "hi", "sample_rate": rate, "format": format_})
    assert [error["loc"] for error in refused.value.errors()] == [("sample_rate",)]
    Speak.model_validate({"text": "hi", "format": "wav", "sample_rate": rate})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"format": "wav"},
        {"audio": b"x"},
        {"format": "wav", "audio": b""},
        {"format": "wav", "samples": [0.0]},
        {"format": "wav", "audio": b"x", "samples": [0.0]},
        {"format": "wav", "audio": "A"},
        {"format": "wav", "audio": "A===\n"},
        {"format": "wav", "audio": [1]},
    ],
)
def test_audio_has_one_form(parts: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Speech.model_validate({"sample_rate": 8000, "seconds": 0.0, **parts})


def test_samples_are_joined() -> None:
    chunks = [SpeechChunk(sample_rate=4, seconds=0.5, samples=np.full(2, n, np.float32)) for n in (0.25, -1.0)]
    whole = Speech.fold(iter(chunks))
    assert (whole.sample_rate, whole.seconds, whole.format) == (4, 1.0, None)
    assert whole.samples is not None
    assert whole.samples.tolist() == [0.25, 0.25, -1.0, -1.0]


def test_a_joined_wav_file_knows_its_length() -> None:
    unknown = struct.pack("<4sI4s4sIHHIIHH4sI", *_wav(0xFFFFFFFF, 0xFFFFFFFF))
    chunks = [
        SpeechChunk(sample_rate=8000, seconds=1 / 8000, format="wav", audio=unknown + b"\1\2"),
        SpeechChunk(sample_rate=8000, seconds=2 / 8000, format="wav", audio=b"\3\4\5\6"),
    ]
    whole = Speech.fold(chunks)
    assert whole.audio == struct.pack("<4sI4s4sIHHIIHH4sI", *_wav(42, 6)) + b"\1\2\3\4\5\6"
    assert whole.seconds == 3 / 8000


def test_other_formats_are_joined_as_they_are() -> None:
    chunks = [SpeechChunk(sample_rate=8000, seconds=0.0, format="mp3", audio=part) for part in (b"ab", b"c")]
    assert Speech.fold(chunks).audio == b"abc"


def test_there_is_no_speech_without_audio() -> None:
    with pytest.raises(ValueError, match="no audio"):
        Speech.fold([])


def _wav(riff: int, data: int) -> tuple[object, ...]:
    return (b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", data)
