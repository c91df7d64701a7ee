"""The demo's voice: every replica that makes it has the same one, and nothing of it is left on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workflows import Speech
from workflows.demo.voice import TinyBark
from workflows.errors import InvalidInput
from workflows.tensors import Array

TEXT = "Good morning. How are you?"
VOICE = "v2/en_speaker_6"


@pytest.fixture(scope="module")
def voice() -> Iterator[TinyBark]:
    made = TinyBark(threads=1).setup()
    yield made
    made.teardown()


def samples(said: Speech) -> Array:
    assert said.samples is not None
    return said.samples


def test_another_one_says_the_same(voice: TinyBark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = samples(voice.inference({"text": TEXT}))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = TinyBark(threads=1).setup()
    assert np.array_equal(samples(other.inference({"text": TEXT})), said)
    other.teardown()
    assert not list(tmp_path.iterdir())


def test_texts_and_voices_make_a_difference(voice: TinyBark) -> None:
    card = voice.card("voice")
    assert (card.voices[0], card.sample_rate, card.model) == (VOICE, 24_000, "tiny-bark")
    said = [samples(voice.inference({"text": TEXT, "voice": name})) for name in card.voices]
    said.append(samples(voice.inference({"text": TEXT[::-1]})))
    assert len({one.tobytes() for one in said}) == len(said)
    assert all(0.05 < np.sqrt(np.mean(one**2)) < 0.3 for one in said)  # as loud as speech


def test_a_voice_that_is_a_path_opens_nothing(voice: TinyBark) -> None:
    for name in ("../../x", "v2/nope", "/etc/passwd"):
        with pytest.raises(InvalidInput, match=VOICE) as caught:
            voice.inference({"text": TEXT, "voice": name})
        assert caught.value.param == "voice"
