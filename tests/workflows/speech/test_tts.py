"""The family of speech workflows: pieces, pauses, formats, voices, seeds, languages and broken models."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Hashable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.workflows.speech.tones import RATE, Tones, pitch_of, serving
from workflows import Speak, Speech, SpeechChunk
from workflows.errors import BadOutput, InvalidInput, WorkflowError
from workflows.inference.speech.tts import AudioInferenceResult, Sentence, TTSInferenceWorkflow
from workflows.tensors import Array
from workflows.testing import check_workflow
from workflows.types.speech import AudioFormat

FIVE = "One of them. And two. Here three. That is four. Five."
BEYOND = "../../etc/passwd"
ODD_RATES: tuple[Any, ...] = (0, -RATE, 999, 192_001, 8000.5, "8000")


def samples_of(speech: Speech) -> Array:
    if speech.samples is not None:
        return speech.samples
    assert speech.audio is not None
    if speech.format == "pcm":
        return np.frombuffer(speech.audio, "<i2") / 32768
    samples, rate = soundfile.read(io.BytesIO(speech.audio))
    assert rate == speech.sample_rate
    return np.asarray(samples)


def loudest(samples: Array, rate: int) -> float:
    """The frequency that is heard most."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def test_it_keeps_the_promises_of_a_workflow() -> None:
    check_workflow(Tones(), {"text": "Ab. Cd."}, more=[{"text": "Ef."}, {"text": "Ab. Cd.", "voice": "high"}])
    check_workflow(Tones(), {"text": "Ab. Cd.", "format": "wav"}, more=[{"text": "Ef.", "format": "pcm"}])


async def test_a_text_is_said_sentence_by_sentence_with_pauses_between() -> None:
    async with serving(Tones()) as tones:
        chunks = [chunk async for chunk in tones.astream({"text": FIVE})]
        assert len(chunks) == 5
        assert [said for batch in tones.batches for said in batch] == [
            "One of them.",
            "And two.",
            "Here three.",
            "That is four.",
            "Five.",
        ]
        whole = Speech.fold(chunks)
    letters = sum(map(str.isalpha, FIVE))
    assert whole.seconds == pytest.approx(letters / 50 + 4 * 0.25)
    assert whole.sample_rate == RATE
    heard = samples_of(whole)
    first = round(9 / 50 * RATE)
    assert np.abs(heard[:first]).max() > 0.4
    assert not heard[first : first + RATE // 4].any()


async def test_pauses_are_as_fast_as_the_speech() -> None:
    async with serving(Tones()) as tones:
        for speed in (0.25, 2.0, 4.0):
            said = await tones.ainference({"text": FIVE, "speed": speed})
            assert said.seconds == pytest.approx((sum(map(str.isalpha, FIVE)) / 50 + 4 * 0.25) / speed, abs=0.01)


async def test_a_text_is_read_in_its_own_language_or_in_its_voices_or_in_the_workflows() -> None:
    seen: list[Sentence] = []

    class Speaking(Tones):
        language = "fr"

        def language_of(self, voice: str) -> str | None:
            return {"high": "de"}.get(voice)

        def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
            seen.extend(sentences)
            return super().synthesize_batch(sentences)

    async with serving(Speaking()) as speaking:
        for asked, language, read in (
            ({}, None, ["Am 3.", "Mai kam er."]),
            ({"voice": "high"}, "de", ["Am 3. Mai kam er."]),
            ({"voice": "high", "language": "en-GB"}, "en-GB", ["Am 3.", "Mai kam er."]),
            ({"language": "de_AT"}, "de_AT", ["Am 3. Mai kam er."]),
        ):
            seen.clear()
            await speaking.ainference({"text": "Am 3. Mai kam er.", **asked})
            assert [(sentence.text, sentence.language) for sentence in seen] == [(text, language) for text in read]


async def test_texts_and_voices_are_heard_and_pitch_survives_speed_and_rate() -> None:
    async with serving(Tones()) as tones:
        for text, voice in (("aaaaaaaaaaaa", "low"), ("aaaaaaaaaaaa", "high"), ("gggggggggggg", "low")):
            for speed, rate in ((1.0, None), (0.5, 16000), (2.0, 24000), (4.0, 8000)):
                said = await tones.ainference(Speak(text=text, voice=voice, speed=speed, sample_rate=rate))
                assert said.seconds == pytest.approx(12 / 50 / speed, abs=0.002)
                heard = loudest(samples_of(said), said.sample_rate)
                assert heard == pytest.approx(pitch_of(text[0], voice), abs=2 / said.seconds)


@pytest.mark.parametrize("rate", [None, 24000])
async def test_all_formats_say_the_same(rate: int | None) -> None:
    async with serving(Tones()) as tones:
        plain = await tones.ainference({"text": FIVE, "sample_rate": rate})
        wanted = np.rint(samples_of(plain) * 32767) / 32768
        formats: list[AudioFormat] = ["wav", "flac", "pcm", "opus", "mp3"]
        for format_ in formats:
            asked = Speak(text=FIVE, format=format_, sample_rate=rate)
            whole = await tones.ainference(asked)
            streamed = Speech.fold([chunk async for chunk in tones.astream(asked)])
            assert whole.sample_rate == (rate or RATE)
            assert whole.seconds == plain.seconds == streamed.seconds
            for said in (whole, streamed):
                heard = samples_of(said)
                if format_ in ("wav", "flac", "pcm"):
                    np.testing.assert_array_equal(heard, wanted)
                else:  # MP3 has frames of a fixed length, and begins with silence
                    assert abs(len(heard) / said.sample_rate - plain.seconds) < 0.25
                    assert np.sqrt(np.mean(heard**2)) == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=0.2)


@pytest.mark.parametrize("format_", ["wav", "opus", "mp3"])
async def test_a_stream_is_a_file_as_it_is(format_: AudioFormat) -> None:
    """Of FLAC, libsndfile up to 1.2.2 cannot read one that does not say how long it is: `fold` tells it."""
    async with serving(Tones()) as tones:
        sent = [chunk.audio or b"" async for chunk in tones.astream({"text": FIVE, "format": format_})]
        whole = await tones.ainference({"text": FIVE})
    heard, rate = soundfile.read(io.BytesIO(b"".join(sent)))
    assert len(sent) > 1
    assert abs(len(heard) / rate - whole.seconds) < 0.25


async def test_a_rate_that_a_format_has_not_is_the_next_above() -> None:
    class Odd(Tones):
        def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
            return [AudioInferenceResult(np.sin(np.arange(5000) / 9), 22050) for _ in sentences]

    async with serving(Odd()) as odd:
        for format_, rate in ((None, 22050), ("wav", 22050), ("opus", 24000), ("mp3", 22050)):
            assert (await odd.ainference({"text": "A.", "format": format_})).sample_rate == rate
        assert odd.card("odd").sample_rate == 22050


async def test_a_voice_that_is_not_there_is_refused_and_the_others_are_named() -> None:
    async with serving(Tones()) as tones:
        assert tones.card("tones").voices == ["low", "high"]
        for voice in (BEYOND, "LOW", "low\n", "v2/low"):
            with pytest.raises(InvalidInput, match="'low', 'high'") as refused:
                await tones.ainference({"text": "A.", "voice": voice})
            assert refused.value.param == "voice"
            assert voice not in refused.value.message.replace("'low'", "")
        assert tones.batches == []


async def test_many_voices_do_not_make_a_long_message() -> None:
    class Many(Tones):
        def voices(self) -> list[str]:
            return ["low", *(f"another voice, number {number}" for number in range(1000))]

    async with serving(Many()) as many:
        with pytest.raises(InvalidInput, match=r"9[0-9][0-9] more, which the workflow's card lists$"):
            await many.ainference({"text": "A.", "voice": "x"})


async def test_a_seed_repeats_each_sentence_and_is_said_alone() -> None:
    async with serving(Tones()) as tones:
        asked = {"text": "Aa. Aa.", "seed": 7}
        first, again, other = await asyncio.gather(
            tones.ainference(asked), tones.ainference(asked), tones.ainference({**asked, "seed": 8})
        )
        assert all(len(batch) == 1 for batch in tones.batches)
    heard = samples_of(first)
    np.testing.assert_array_equal(heard, samples_of(again))
    assert not np.array_equal(heard, samples_of(other))
    size = RATE // 25
    assert not np.array_equal(heard[50 : size - 50], heard[-size + 50 : -50])  # each sentence has its own


@pytest.mark.parametrize("text", [" ", "...", "\n" * 100_000, "?! " * 1000])
async def test_a_text_without_words_is_refused(text: str) -> None:
    async with serving(Tones()) as tones:
        with pytest.raises(InvalidInput, match="nothing in this text") as refused:
            await tones.ainference({"text": text})
        assert refused.value.param == "text"


async def test_text_that_is_no_unicode_is_refused() -> None:
    async with serving(Tones()) as tones:
        with pytest.raises(InvalidInput) as refused:
            await tones.ainference(Speak.model_construct(text="a\ud800", format=None))
        assert refused.value.param == "text"


async def test_what_is_too_long_to_be_given_at_once_can_be_streamed() -> None:
    async with serving(Tones()) as tones:
        tones.max_whole_bytes = 10_000
        with pytest.raises(InvalidInput, match="ask for a stream") as refused:
            await tones.ainference({"text": FIVE, "format": "pcm"})
        assert refused.value.param == "text"
        assert len([chunk async for chunk in tones.astream({"text": FIVE, "format": "pcm"})]) == 5


def broken(outcome: Any) -> Tones:
    class Broken(Tones):
        def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
            if any("bad" in sentence.text for sentence in sentences):
                if isinstance(outcome, BaseException):
                    raise outcome
                return [outcome for _ in sentences]
            return super().synthesize_batch(sentences)

    return Broken()


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (ValueError("secret"), WorkflowError),
        (SystemExit("secret"), WorkflowError),
        (InvalidInput("no"), InvalidInput),
        (AudioInferenceResult(np.array([np.nan]), RATE), BadOutput),
        (AudioInferenceResult(np.zeros((2, 2, 2)), RATE), BadOutput),
        (AudioInferenceResult(np.zeros(9, np.int16), RATE), BadOutput),
        (AudioInferenceResult(np.zeros(0), RATE), BadOutput),
        (AudioInferenceResult(np.zeros((0, 9)), RATE), BadOutput),
        *((AudioInferenceResult(np.ones(9), rate), BadOutput) for rate in ODD_RATES),
    ],
)
async def test_what_fails_fails_its_own_request(outcome: Any, error: type[WorkflowError]) -> None:
    async with serving(broken(outcome)) as tones:
        tones.gate.clear()
        first = asyncio.create_task(tones.ainference({"text": "First."}))
        await asyncio.to_thread(tones.begun.wait)
        bad = asyncio.create_task(tones.ainference({"text": "A bad one."}))
        await asyncio.sleep(0)
        tones.gate.set()
        with pytest.raises(error) as raised:
            await bad
        assert "secret" not in raised.value.message
        assert (await first).seconds > 0
        assert (await tones.ainference({"text": "Good."})).seconds > 0


async def test_company_that_cannot_be_told_fails_its_own_request() -> None:
    class Choosy(Tones):
        def company(self, sentence: Sentence) -> Hashable:
            if "bad" in sentence.text:
                raise ValueError("secret")
            return sentence.voice

    async with serving(Choosy()) as tones:
        with pytest.raises(ValueError, match="secret"):  # as every hook's, in the same process
            await tones.ainference({"text": "A bad one."})
        assert (await tones.ainference({"text": "Good."})).seconds > 0


async def test_any_number_is_a_sample_rate_and_any_volume_is_bounded() -> None:
    class Loud(Tones):
        def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
            return [AudioInferenceResult(np.full(16_000, 1e30), self.rate) for _ in sentences]

        rate: Any = 8000

    for rate in (np.int32(1000), np.int64(22_050), 192_000):
        Loud.rate = rate
        async with serving(Loud()) as loud:
            assert type(loud.card("loud").sample_rate) is int
            for format_ in (None, "wav", "flac", "mp3", "opus"):
                for asked in (None, 8000, 48_000):
                    said = await loud.ainference({"text": "A.", "format": format_, "sample_rate": asked})
                    assert said.seconds == pytest.approx(16_000 / rate, abs=0.002)
                    if format_ is None and asked is None:  # it begins and ends without a click
                        assert samples_of(said)[0] == samples_of(said)[-1] == 0.0
                    assert 0.5 < samples_of(said).max() <= (1.5 if format_ in ("mp3", "opus") else 1.0)


async def test_a_batch_that_fails_is_said_one_by_one() -> None:
    async with serving(broken(ValueError())) as tones:
        tones.gate.clear()
        texts = ["First.", "Good.", "A bad one.", "Fine."]
        tasks = [asyncio.create_task(tones.ainference({"text": texts[0]}))]
        await asyncio.to_thread(tones.begun.wait)
        tasks += [asyncio.create_task(tones.ainference({"text": text})) for text in texts[1:]]
        await asyncio.sleep(0)
        tones.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Speech, Speech, WorkflowError, Speech]


def test_a_workflow_says_one_sentence_or_several() -> None:
    class Neither(TTSInferenceWorkflow):
        pass

    with pytest.raises(TypeError, match="defines none of synthesize, synthesize_batch"):
        Neither().setup()

    class OneByOne(TTSInferenceWorkflow):
        """Says one sentence after the other."""

        def do_setup(self) -> None:
            self.thread = threading.get_ident()

        def synthesize(self, sentence: Sentence) -> AudioInferenceResult:
            assert threading.get_ident() == self.thread
            return AudioInferenceResult(np.full((2, 100), len(sentence.text) / 100, np.float16), RATE)

    check_workflow(OneByOne(), {"text": "Ab. Cde."}, more=[{"text": "Abcdef."}])


def test_a_setup_that_fails_leaves_no_thread() -> None:
    class Failing(Tones):
        def do_setup(self) -> None:
            raise InvalidInput("no")

    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(InvalidInput):
            Failing().setup()
    for thread in threading.enumerate():
        if thread.name == "speech-model":
            thread.join(30)
    assert threading.active_count() <= before


def test_streams_work_by_the_sync_names() -> None:
    tones = Tones().setup()
    try:
        with closing(tones.stream({"text": FIVE})) as chunks:
            assert isinstance(next(chunks), SpeechChunk)
    finally:
        tones.teardown()
