"""Speech in OpenAI's protocol, through the whole app: what is asked, what is sent and when, and every way that it can end."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from deployments.router.keys import Keys, mint_key
from tests.router.played_client import nothing_left_behind
from tests.router.router_front import Front, Script, ScriptedClient, Visit
from workflows.context import CallContext
from workflows.errors import BadOutput, InvalidInput, Overloaded, ReplicaLost, WorkflowError
from workflows.types import Speak

__all__ = ["nothing_left_behind"]

SPEECH = "/v1/audio/speech"
VOICES = "/v1/audio/voices"
HELLO: dict[str, Any] = {"model": "bard", "input": "Hello.", "voice": "ann"}


def piece(audio: bytes, seconds: float = 0.25) -> dict[str, Any]:
    return {
        "sample_rate": 24000,
        "seconds": seconds,
        "format": "mp3",
        "audio": base64.b64encode(audio).decode(),
    }


class Stage:
    """`bard` says what the test puts into the script, `mute` the next of it as a whole answer.

    Attributes:
        seen: What they were asked, checked against the type.
    """

    def __init__(self, keys: Keys | None = None, **limits: float) -> None:
        self.front = Front(keys, limits=limits)
        self.script = Script()
        self.seen: list[Any] = []
        self._add("bard", ScriptedClient(chunks=self._chunks), ["ann", "v2/bob"])
        self._add("mute", ScriptedClient(self._whole), ["eve"])
        self.front.add("gpt", kind="generate")

    def _add(self, name: str, client: ScriptedClient, voices: list[str]) -> None:
        self.front.add(name, client, kind="speech")
        entry = self.front.directory.find(name)
        assert entry.card is not None
        entry.card = entry.card.model_copy(update={"voices": voices})

    def _chunks(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        self.seen.append(input_data)
        Speak.model_validate(input_data)
        return self.script.chunks(input_data)

    async def _whole(self, input_data: Any, call: CallContext) -> Any:
        async with aclosing(self._chunks(input_data)) as steps:
            return await anext(steps)

    def visit(self, **more: Any) -> Visit:
        return Visit(self.front.app, "POST", SPEECH, {**HELLO, **more})

    async def said(self, *steps: Any, **more: Any) -> Any:
        """The answer to `HELLO`, for which the workflow says this."""
        self.script.put(*steps)
        return await self.front.post(SPEECH, {**HELLO, **more})


async def finished(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        await task


def events(text: str) -> list[Any]:
    *found, nothing = text.split("\n\n")
    assert nothing == ""
    return [json.loads(event.removeprefix("data: ")) for event in found]


# ---- what is asked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({}, {"voice": "ann", "format": "mp3"}),
        ({"voice": {"id": "v2/bob"}, "response_format": "opus"}, {"voice": "v2/bob", "format": "opus"}),
        ({"voice": None, "speed": 2, "user": "u"}, {"speed": 2.0, "format": "mp3"}),
        ({"response_format": "pcm"}, {"voice": "ann", "format": "pcm", "sample_rate": 24000}),
        (
            {"response_format": "pcm", "sample_rate": 8000},
            {"voice": "ann", "format": "pcm", "sample_rate": 8000},
        ),
        (
            {"response_format": "wav", "seed": 7, "language": "pt-BR", "instructions": ""},
            {"voice": "ann", "format": "wav", "seed": 7, "language": "pt-BR"},
        ),
    ],
    ids=str,
)
async def test_what_the_workflow_is_asked(body: dict[str, Any], asked: dict[str, Any]) -> None:
    stage = Stage()
    assert (await stage.said([piece(b"a")], None, **body)).status_code == 200
    assert stage.seen == [{"text": "Hello.", **asked}]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": None}, "input", "input: Input should be a valid string"),
        ({"input": ["a"]}, "input", "input: Input should be a valid string"),
        ({"model": None}, "model", "model: Field required"),
        ({"model": "gpt"}, "model", "model: this model takes generate inputs"),
        ({"voice": 7}, "voice", "voice: the name of a voice is needed"),
        ({"voice": {"name": "ann"}}, "voice", "voice: the name of a voice is needed"),
        ({"voice": "a" * 257}, "voice", "voice: the name of a voice is needed"),
        ({"voice": ""}, "voice", "voice: the name of a voice is needed"),
        ({"input": ""}, "input", "input: String should have at least 1 character"),
        ({"sample_rate": 7999}, "sample_rate", "sample_rate: Input should be greater"),
        ({"sample_rate": 8001}, "sample_rate", "sample_rate: this format has 8000, 11025"),
        ({"seed": -1}, "seed", "seed: Input should be greater"),
        ({"language": "../x"}, "language", "language: String should match"),
        ({"response_format": "aac"}, "response_format", "response_format: aac is not made here; there are"),
        ({"response_format": "midi"}, "response_format", "response_format: Input should be"),
        ({"response_format": ["mp3"]}, "response_format", "response_format: Input should be"),
        ({"speed": 0.2}, "speed", "speed: Input should be greater than"),
        ({"speed": 5}, "speed", "speed: Input should be less than"),
        ({"speed": "1"}, "speed", "speed: Input should be a valid number"),
        ({"stream_format": "ws"}, "stream_format", "stream_format: Input should be"),
        ({"instructions": "whisper"}, "instructions", "instructions: this is not supported here"),
        ({"ref_audio": "http://localhost/x"}, "ref_audio", "ref_audio: this is not supported here"),
    ],
    ids=str,
)
async def test_what_is_refused(body: dict[str, Any], param: str, message: str) -> None:
    stage = Stage()
    answer = await stage.front.post(SPEECH, {**HELLO, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(message)
    assert not stage.seen


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_workflows_own_complaint_calls_fields_as_the_caller_does(streamed: bool) -> None:
    model = {"model": "bard" if streamed else "mute"}
    for ours, theirs in (("text", "input"), ("format", "response_format"), ("voice", "voice")):
        answer = await Stage().said(InvalidInput(f"{ours}: no such thing", param=ours), **model)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == theirs
        assert answer.json()["error"]["message"] == f"{theirs}: no such thing"
    answer = await Stage().said(InvalidInput("texts of this kind do not go", param="text"), **model)
    assert answer.json()["error"]["message"] == "texts of this kind do not go"
    assert answer.json()["error"]["param"] == "input"


# ---- the bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
    ],
)
async def test_formats_are_called_by_their_names(name: str, media_type: str) -> None:
    streamed = await Stage().said([piece(b"\0\xff")], None, response_format=name, stream_format="audio")
    whole = await Stage().said({**piece(b"\0\xff"), "format": name}, response_format=name, model="mute")
    for answer in (streamed, whole):
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, media_type, b"\0\xff")


async def test_flac_is_sent_whole_unless_a_stream_is_asked_for() -> None:
    stage = Stage()
    whole = await stage.said(piece(b"abc") | {"format": "flac"}, model="mute", response_format="flac")
    assert whole.headers["content-length"] == "3"
    stage = Stage()
    for form in ("audio", "sse"):
        answer = await stage.said([piece(b"abc")], None, response_format="flac", stream_format=form)
        assert "content-length" not in answer.headers
    assert stage.script.closed == 2


async def test_audio_leaves_as_it_is_made() -> None:
    stage = Stage()
    visit = stage.visit()
    task = visit.start()
    await stage.script.begun.wait()
    assert not visit.rest()
    stage.script.put([piece(b"ab"), piece(b"c")])
    start = await visit.next()
    assert start["status"] == 200
    assert (await visit.next())["body"] == b"abc"
    assert not task.done()
    stage.script.put([piece(b"d")], [piece(b"e")], None)
    await finished(task)
    rest = visit.rest()
    assert b"".join(message["body"] for message in rest) == b"de"
    assert [message["more_body"] for message in rest] == [True] * (len(rest) - 1) + [False]
    assert stage.front.lines.last["code"] == "ok"
    assert stage.front.lines.last["chunks"] == 4


@pytest.mark.parametrize(
    ("first", "status", "code"),
    [
        (Overloaded(), 503, "server_is_overloaded"),
        (None, 500, "non_finite_output"),
        ([{"sample_rate": 24000, "seconds": 1.0, "samples": [0.5]}], 500, "non_finite_output"),
        (["audio"], 500, "non_finite_output"),
        (KeyError("canary"), 500, "internal_error"),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["audio", "sse"])
async def test_what_fails_before_the_first_audio_is_an_http_error(
    first: Any, status: int, code: str, form: str
) -> None:
    stage = Stage()
    answer = await stage.said(first, None, stream_format=form)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "canary" not in answer.text
    assert stage.script.closed == 1


@pytest.mark.parametrize(
    ("late", "code"),
    [
        (ReplicaLost("gone", may_have_run=True), "overload"),
        (BadOutput("no"), "bad_output"),
        ([{"audio": 5}], "bad_output"),
        ([{"audio": "%"}], "bad_output"),
        (KeyError("canary"), "internal"),
    ],
    ids=str,
)
async def test_what_fails_later_leaves_the_body_without_an_end(late: Any, code: str) -> None:
    stage = Stage()
    visit = stage.visit()
    stage.script.put([piece(b"ab")])
    task = visit.start()
    assert (await visit.next())["status"] == 200
    assert (await visit.next())["body"] == b"ab"
    stage.script.put(late)
    await finished(task)
    assert not visit.rest()
    assert stage.front.lines.last["code"] == code
    assert stage.script.closed == 1


@pytest.mark.parametrize("sent", [0, 1])
@pytest.mark.parametrize("form", ["audio", "sse"])
async def test_who_leaves_stops_it(form: str, sent: int) -> None:
    """Before the first audio, and later."""
    stage = Stage()
    visit = stage.visit(stream_format=form)
    stage.script.put(*[[piece(b"a")]] * sent)
    task = visit.start()
    await stage.script.begun.wait()
    for _ in range(2 * sent):
        await visit.next()
    visit.leave()
    await finished(task)
    assert stage.script.closed == 1
    assert not visit.rest()
    assert stage.front.lines.last["code"] == "cancelled"


async def test_who_reads_slowly_slows_it_down() -> None:
    stage = Stage()
    stage.script.put(*([[piece(b"x")]] * 50), None)
    visit = stage.visit()
    visit.room.clear()
    task = visit.start()
    await stage.script.begun.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert stage.script.asked <= 8
    visit.room.set()
    await finished(task)
    assert b"".join(message.get("body", b"") for message in visit.rest()) == b"x" * 50


async def test_first_audio_that_does_not_come_is_504() -> None:
    stage = Stage(stream_first_chunk_s=0.02)
    visit = stage.visit()
    await finished(visit.start())
    start, body = visit.rest()
    assert start["status"] == 504
    assert json.loads(body["body"])["error"]["code"] == "deadline_exceeded"
    assert stage.script.closed == 1


# ---- events ----------------------------------------------------------------------------------------------------------------


async def test_events_bring_the_audio_and_at_last_how_much_it_was() -> None:
    stage = Stage()
    chunks = [[piece(b"a", 0.1), piece(b"b", 0.2)], [piece(b"cd", 0.3)], None]
    answer = await stage.said(*chunks, stream_format="sse", input="Grüße")
    assert answer.headers["content-type"] == "text/event-stream"
    *deltas, done = events(answer.text)
    assert deltas == [
        {"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()} for audio in (b"a", b"b", b"cd")
    ]
    assert done == {
        "type": "speech.audio.done",
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_characters": 5,
            "output_seconds": 0.6,
        },
    }
    spec = (await stage.front.get("/openapi.json")).json()
    for event in (*deltas, done):
        schema = {"$ref": "#/components/schemas/SpeechEvent", "components": spec["components"]}
        Draft202012Validator(schema).validate(event)


@pytest.mark.parametrize(
    ("late", "code"),
    [
        (ReplicaLost("gone", may_have_run=True), "server_is_overloaded"),
        ([piece(b"b") | {"seconds": None}], "non_finite_output"),
        (WorkflowError("canary"), "internal_error"),
    ],
    ids=str,
)
async def test_an_error_among_events_is_one_of_them(late: Any, code: str) -> None:
    answer = await Stage().said([piece(b"a")], late, None, stream_format="sse")
    *others, error = events(answer.text)
    assert others[0]["type"] == "speech.audio.delta"
    assert "speech.audio.done" not in answer.text
    assert error["error"]["code"] == code
    assert "canary" not in answer.text


# ---- workflows without a stream --------------------------------------------------------------------------------------------


async def test_a_workflow_that_does_not_stream_answers_whole() -> None:
    stage = Stage()
    answer = await stage.said(piece(b"abc"), model="mute")
    assert (answer.content, answer.headers["content-length"]) == (b"abc", "3")
    refused = await stage.front.post(SPEECH, {**HELLO, "model": "mute", "stream_format": "sse"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_format")
    assert len(stage.seen) == 1
    assert (await stage.said({"samples": []}, model="mute")).json()["error"]["code"] == "non_finite_output"


# ---- voices ----------------------------------------------------------------------------------------------------------------


async def test_voices_are_those_that_a_key_may_use() -> None:
    all_voices = [
        {"id": "ann", "name": "ann", "workflow": "bard"},
        {"id": "v2/bob", "name": "v2/bob", "workflow": "bard"},
        {"id": "eve", "name": "eve", "workflow": "mute"},
    ]
    stage = Stage()
    stage.front.add("new", kind="speech", with_card=False)
    body = (await stage.front.get(VOICES)).json()
    assert body == {"voices": all_voices}
    spec = (await stage.front.get("/openapi.json")).json()
    Draft202012Validator({"$ref": "#/components/schemas/Voices", "components": spec["components"]}).validate(body)
    keys = {name: mint_key(name, workflows=[pattern]) for name, pattern in (("all", "*"), ("one", "mut*"), ("no", "x"))}
    guarded = Stage(Keys([entry for _, entry in keys.values()]))
    for name, expected in (("all", all_voices), ("one", all_voices[2:]), ("no", [])):
        got = await guarded.front.get(VOICES, headers={"x-api-key": keys[name][0]})
        assert got.json() == {"voices": expected}
    assert (await guarded.front.get(VOICES)).status_code == 401
    asked = await guarded.front.post(SPEECH, HELLO, headers={"x-api-key": keys["one"][0]})
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")


async def test_models_that_speak_are_among_the_models() -> None:
    found = (await Stage().front.get("/v1/models")).json()["data"]
    assert {model["id"] for model in found} == {"bard", "mute", "gpt"}


# ---- the description -------------------------------------------------------------------------------------------------------


async def test_requests_are_as_described() -> None:
    spec = (await Stage().front.get("/openapi.json")).json()

    def fits(**more: Any) -> bool:
        schema = {"$ref": "#/components/schemas/SpeechRequest", "components": spec["components"]}
        return bool(Draft202012Validator(schema).is_valid({**HELLO, **more}))

    assert fits()
    assert fits(voice={"id": "ann"}, response_format="opus", speed=0.25, stream_format="sse", instructions="")
    assert fits(sample_rate=8000, seed=1, language="en", unknown=1)
    wrong: list[dict[str, Any]] = [{"input": 1}, {"voice": {}}, {"response_format": "aac"}, {"speed": 9}]
    for each in (*wrong, {"instructions": "slow"}):
        assert not fits(**each)
    content = spec["paths"][SPEECH]["post"]["responses"]["200"]["content"]
    assert set(content) == {
        "audio/mpeg",
        "audio/ogg",
        "audio/flac",
        "audio/wav",
        "audio/pcm",
        "text/event-stream",
    }
