"""Speech from others: asked for as samples, and written in every format, whole and as it comes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np
import pytest
import soundfile

from tests.workflows.css.played import played
from tests.workflows.remote.faulty_upstream import Exchange, Step, answer, parts
from workflows.errors import InvalidInput, Unsupported, UpstreamFailed
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.remote.secret import SecretRef
from workflows.types.speech import Speech

RATE: Final = 24_000
TONE: Final = (np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE) * 16_000).astype("<i2")
SOUND: Final = TONE.tobytes()
# As a network cuts it: within samples, too.
CUT: Final = [SOUND[:1], SOUND[1:4801], SOUND[4801:30_000], SOUND[30_000:]]


def speaks(sent: Sequence[bytes] = CUT, then: Step | None = None, kind: str = "audio/pcm") -> Step:
    return parts(sent, then, kind=kind)


def said_by(key: SecretRef, step: Step, **options: Any) -> Any:
    return played(step, provider="openai", endpoint="speech", key=key, **options)


@pytest.mark.parametrize("format_", [None, "pcm", "wav", "flac", "opus", "mp3"])
async def test_every_format_whole_and_as_it_comes(key: SecretRef, format_: str | None) -> None:
    asked = {"text": "la", "format": format_}
    async with said_by(key, speaks()) as (workflow, upstream):
        whole: Speech = await workflow.ainference(asked)
        async with aclosing(workflow.astream(asked)) as stream:
            chunks = [chunk async for chunk in stream]
        sent = [request.json() for request in upstream.asked]
    joined = Speech.fold(chunks)
    if format_ == "opus":  # each file has a number of its own
        assert len(joined.audio or b"") == len(whole.audio or b"")
    else:
        assert joined.model_dump_json() == whole.model_dump_json()
    assert (whole.sample_rate, whole.seconds, whole.format) == (RATE, 1.0, format_)
    assert sent == [{"model": "m", "input": "la", "voice": "alloy", "response_format": "pcm"}] * 2
    if whole.samples is not None:
        np.testing.assert_allclose(whole.samples, TONE / 32768.0, atol=1e-6)
    elif format_ == "pcm":
        assert whole.audio == SOUND
    else:
        heard, rate = soundfile.read(io.BytesIO(whole.audio or b""), dtype="float64")
        assert rate in {RATE, 48_000}  # Opus is always heard at the latter
        spectrum = np.abs(np.fft.rfft(heard))
        assert np.argmax(spectrum) * rate / len(heard) == pytest.approx(440, abs=2)


async def test_voices_and_speed(key: SecretRef) -> None:
    async with said_by(key, speaks(), voices=["anna", "otto"]) as (workflow, upstream):
        assert workflow.card("speech").voices == ["anna", "otto"]
        await workflow.ainference({"text": "la", "voice": "otto", "speed": 1.5})
        with pytest.raises(InvalidInput) as caught:
            await workflow.ainference({"text": "la", "voice": "alloy"})
        (request,) = upstream.asked
    assert caught.value.param == "voice"
    assert (request.json()["voice"], request.json()["speed"]) == ("otto", 1.5)


@pytest.mark.parametrize("more", [{"language": "en"}, {"seed": 1}, {"sample_rate": 16_000}], ids=str)
async def test_what_it_does_not_have(key: SecretRef, more: dict[str, Any]) -> None:
    async with said_by(key, speaks()) as (workflow, _):
        with pytest.raises(Unsupported) as caught:
            await workflow.ainference({"text": "la", **more})
    assert caught.value.param == next(iter(more))


@pytest.mark.parametrize(
    "step",
    [
        speaks(then=Exchange.cut),
        speaks([]),
        speaks([SOUND[:5]]),
        speaks(kind="application/json"),
        speaks(kind="text/html"),
        answer(500, {"error": "no"}),
    ],
    ids=["cut", "nothing", "half a sample", "json", "a page", "failed"],
)
async def test_what_is_no_speech(key: SecretRef, step: Step) -> None:
    async with said_by(key, step, upstream=None) as (workflow, upstream):
        upstream.go.set()
        with pytest.raises(UpstreamFailed):
            await workflow.ainference({"text": "la", "format": "pcm"})


def test_whose_voices_nobody_knows() -> None:
    with pytest.raises(InvalidInput, match="voices"):
        CSSInferenceWorkflow("openai-compatible", "m", endpoint="speech", base_url="http://localhost:1")
