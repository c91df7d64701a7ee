"""Speech through the official clients of OpenAI and Hugging Face, and natively: what they save can be played, and is what
the workflow says by itself; it comes while it is made; and whoever leaves is not spoken to any more."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from openai import AsyncOpenAI, OpenAI

from tests.clients.system import System, running
from tests.clients.voices import RATE, Tones
from workflows import Speech, SpeechChunk
from workflows.tensors import Array

FIVE = "Good morning. How are you? It is late! We have to go. See you."
SENTENCES = 5
LOSSLESS = ("wav", "flac", "pcm")
LOSSY = ("mp3", "opus")
LENGTH_AT = 21
"""Where in a FLAC file stands how long it is, in 36 bits."""
MARGIN_S = 0.12
"""Of lossy formats: silence that encoders put around what they are given."""


@pytest.fixture(scope="module")
def tones() -> Tones:
    return Tones()


@pytest.fixture(scope="module")
def system(tones: Tones) -> Iterator[System]:
    with running({"tones": tones}) as made:
        yield made


@pytest.fixture(autouse=True)
def unheld(tones: Tones) -> Iterator[None]:
    yield
    tones.go_on()


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as made:
        yield made


def asked(**more: Any) -> Any:
    return {"model": "tones", "voice": "low", "input": FIVE, "response_format": "wav", **more}


def alone(system: System, **more: Any) -> Array:
    """What the workflow says by itself, as 16 bits."""
    said: Speech = system.direct("tones", {"text": FIVE, "voice": "low", **more})
    assert said.samples is not None
    assert said.sample_rate == more.get("sample_rate", RATE)
    samples: Array = np.rint(said.samples * 32767).astype(np.int16)
    return samples


def played(audio: bytes, name: str, rate: int = RATE) -> Array:
    """The samples of a file, as 16 bits."""
    how = {"samplerate": rate, "channels": 1, "format": "RAW", "subtype": "PCM_16"} if name == "pcm" else {}
    samples, found = soundfile.read(io.BytesIO(audio), dtype="int16", **how)
    assert found == rate
    assert samples.ndim == 1
    return np.asarray(samples)


def check(audio: bytes, name: str, expected: Array, *, streamed: bool = False) -> None:
    """That a file is the audio expected. libsndfile cannot read a FLAC that does not say how long it is: it is told."""
    if streamed and name == "flac":
        audio = audio[:LENGTH_AT] + struct.pack(">BI", audio[LENGTH_AT] & 0xF0, len(expected)) + audio[LENGTH_AT + 5 :]
    samples = played(audio, name)
    if name in LOSSLESS:
        assert np.array_equal(samples, expected)
    else:
        assert abs(len(samples) - len(expected)) <= MARGIN_S * RATE
        # It is not silence or noise: most of its energy is where that of the original is.
        rates = [abs(np.fft.rfft(each / 32768, 1 << 18)) for each in (samples, expected)]
        assert abs(rates[0].argmax() - rates[1].argmax()) <= 8


# ---- OpenAI's client --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_every_format_whole_and_streamed(system: System, client: OpenAI, name: Any) -> None:
    expected = alone(system)
    whole = client.audio.speech.create(**asked(response_format=name))
    check(whole.content, name, expected)
    with client.audio.speech.with_streaming_response.create(**asked(response_format=name)) as answer:
        check(answer.read(), name, expected)
    with client.audio.speech.with_streaming_response.create(
        **asked(response_format=name, stream_format="audio")
    ) as answer:
        pieces = list(answer.iter_bytes())
    assert len(pieces) > 1
    check(b"".join(pieces), name, expected, streamed=True)


def test_flac_says_how_long_it_is_unless_a_stream_is_asked_for(client: OpenAI) -> None:
    whole = client.audio.speech.create(**asked(response_format="flac"))
    streamed = client.audio.speech.create(**asked(response_format="flac", stream_format="audio"))
    assert "content-length" in whole.response.headers
    assert "content-length" not in streamed.response.headers
    assert len(whole.content) == len(streamed.content)
    assert whole.content != streamed.content


def test_mp3_where_nothing_is_said(system: System, client: OpenAI) -> None:
    answer = client.audio.speech.create(model="tones", voice="low", input=FIVE)
    assert answer.response.headers["content-type"] == "audio/mpeg"
    check(answer.content, "mp3", alone(system))


async def test_the_async_client(system: System) -> None:
    expected = alone(system)
    async with AsyncOpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as client:
        for name in (*LOSSLESS, *LOSSY):
            whole = await client.audio.speech.create(**asked(response_format=name))
            check(whole.content, name, expected)
            async with client.audio.speech.with_streaming_response.create(
                **asked(response_format=name, stream_format="audio")
            ) as answer:
                check(b"".join([piece async for piece in answer.iter_bytes()]), name, expected, streamed=True)


@pytest.mark.parametrize("name", ["wav", "mp3", "pcm"])
def test_events_bring_the_same_file(system: System, client: OpenAI, name: Any) -> None:
    whole = client.audio.speech.create(**asked(response_format=name))
    with client.audio.speech.with_streaming_response.create(
        **asked(response_format=name, stream_format="sse")
    ) as answer:
        *deltas, done = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == whole.content
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["input_characters"] == len(FIVE)
    assert done["usage"]["output_seconds"] == pytest.approx(len(alone(system)) / RATE, abs=0.001)


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_first_audio_leaves_before_two_fifths_are_made(system: System, client: OpenAI, tones: Tones, name: Any) -> None:
    expected = alone(system)
    tones.hold(leave=SENTENCES * 2 // 5 - 1)
    with client.audio.speech.with_streaming_response.create(
        **asked(response_format=name, stream_format="audio")
    ) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        assert len(tones.said) < SENTENCES * 2 / 5
        tones.go_on()
        check(first + b"".join(pieces), name, expected, streamed=True)


def test_who_leaves_is_not_spoken_to_any_more(client: OpenAI, tones: Tones) -> None:
    million = "Tone. " * (1_000_000 // 6)
    tones.hold(leave=3)
    with client.audio.speech.with_streaming_response.create(**asked(input=million)) as answer:
        next(answer.iter_bytes())
        assert tones.waits.wait(10)
    assert tones.left.wait(10)
    tones.go_on()
    assert client.audio.speech.create(**asked(input="Yes.")).content
    assert tones.said.count("Tone.") == 4


def test_texts_and_voices_and_seeds_make_a_difference(client: OpenAI) -> None:
    def said(**more: Any) -> bytes:
        own = {"seed": more.pop("seed")} if "seed" in more else None
        return client.audio.speech.create(**asked(**more), extra_body=own).content

    first = said()
    assert said() == first
    others = [said(input="Good night."), said(voice="v2/high"), said(seed=1), said(seed=2), said(speed=2)]
    assert len({first, *others}) == 6
    assert said(seed=1) == others[2]
    assert said(voice={"id": "v2/high"}) == others[1]
    assert len(played(others[4], "wav")) == pytest.approx(len(played(first, "wav")) / 2, rel=0.1)


def test_a_rate_of_the_callers_choice(system: System, client: OpenAI) -> None:
    for name in ("wav", "pcm"):
        got = client.audio.speech.create(**asked(response_format=name), extra_body={"sample_rate": 8000}).content
        assert np.array_equal(played(got, name, 8000), alone(system, sample_rate=8000))


@pytest.mark.parametrize(
    "voice", ["alloy", "../../x", "v2/nope", "low\0", "v2/../low", "/etc/passwd", " low", "LOW", "\u202elow", "é" * 256]
)
def test_an_unknown_voice_is_told_which_there_are(client: OpenAI, voice: str) -> None:
    for form in ("audio", "sse"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.audio.speech.create(**asked(voice=voice, stream_format=form))
        assert caught.value.param == "voice"
        assert "'low', 'v2/high'" in caught.value.message


def test_a_voice_without_end_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(**asked(voice="../" * 5000))
    assert caught.value.param == "voice"
    assert len(caught.value.message) < 500


def test_voices_are_listed(client: OpenAI) -> None:
    body: Any = client.get("/audio/voices", cast_to=object)
    assert body["voices"] == [{"id": voice, "name": voice, "workflow": "tones"} for voice in ("low", "v2/high")]
    assert [model.id for model in client.models.list()] == ["tones"]
    for voice in body["voices"]:
        assert client.audio.speech.create(**asked(voice=voice["id"], model=voice["workflow"])).content


def test_errors_before_the_first_audio_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as broken:
        client.audio.speech.create(**asked(input="We break."))
    assert broken.value.status_code == 502
    for wrong, param in (
        ({"response_format": "aac"}, "response_format"),
        ({"speed": 9}, "speed"),
        ({"input": " "}, "input"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.audio.speech.create(**asked(**wrong))
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(**asked(model="tts-1"))


def test_what_breaks_later_is_not_taken_for_the_whole(client: OpenAI) -> None:
    text = "Good morning. We break. Good night."
    with (
        client.audio.speech.with_streaming_response.create(**asked(input=text)) as answer,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        answer.read()
    with pytest.raises(openai.APIConnectionError):
        client.audio.speech.create(**asked(input=text))
    with client.audio.speech.with_streaming_response.create(**asked(input=text, stream_format="sse")) as answer:
        *deltas, error = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert error["error"]["code"] == "upstream_error"


# ---- Hugging Face's client -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("online")
async def test_text_to_speech_of_the_hub(system: System) -> None:
    url = f"http://{system.http}/hf/tones"
    hub = InferenceClient(model=url, timeout=30)
    expected = alone(system)
    check(hub.text_to_speech(FIVE), "flac", expected)
    assert soundfile.info(io.BytesIO(hub.text_to_speech(FIVE))).frames == len(expected)
    async with AsyncInferenceClient(model=url, timeout=30) as later:
        check(await later.text_to_speech(FIVE), "flac", expected)
    high = hub.text_to_speech(FIVE, extra_body={"voice": "v2/high", "format": "wav", "seed": 3})
    check(high, "wav", alone(system, voice="v2/high", seed=3))
    with pytest.raises(BadRequestError, match="'low', 'v2/high'"):
        hub.text_to_speech(FIVE, extra_body={"voice": "../../x"})
    with pytest.raises(BadRequestError, match="'do_sample' is not supported"):
        hub.text_to_speech(FIVE, do_sample=True)
    with pytest.raises(HfHubHTTPError):
        hub.text_to_speech("We break.")


# ---- natively ---------------------------------------------------------------------------------------------------------------


def test_whole_and_streamed_natively(system: System) -> None:
    body = {"text": FIVE, "voice": "low", "format": "flac"}
    answer = system.caller.post("/v1/workflows/tones/inference", json=body).raise_for_status()
    said = Speech.model_validate_json(answer.content)
    assert said.audio is not None
    check(said.audio, "flac", alone(system))
    with system.caller.stream("POST", "/v1/workflows/tones/stream", json=body) as stream:
        events = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert events.pop() == "[DONE]"
    chunks = [SpeechChunk.model_validate_json(event) for event in events]
    assert len(chunks) > 1
    assert Speech.fold(chunks) == said
