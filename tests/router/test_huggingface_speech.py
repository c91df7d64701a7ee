"""Text to speech in Hugging Face's shape, through the whole app: one text, one file."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput, Overloaded, WorkflowError
from workflows.types import Speak

HELLO: dict[str, Any] = {"inputs": "Hello."}


def stage(error: WorkflowError | None = None, **said: Any) -> tuple[Front, list[Any]]:
    """A front with the workflow `bard`, and what that was asked, checked against the type."""
    seen: list[Any] = []

    async def answer(input_data: Any, call: CallContext) -> Any:
        seen.append(input_data)
        if error is not None:
            raise error
        audio = base64.b64encode(b"\0\xff").decode()
        asked = Speak.model_validate(input_data)
        return {"sample_rate": 24000, "seconds": 0.5, "format": asked.format, "audio": audio, **said}

    front = Front()
    front.add("bard", ScriptedClient(answer), kind="speech")
    return front, seen


@pytest.mark.parametrize(
    ("parameters", "asked", "media_type"),
    [
        (None, {"format": "flac"}, "audio/flac"),
        ({"format": "wav", "voice": "v2/bob", "seed": 3}, {"format": "wav", "voice": "v2/bob", "seed": 3}, "audio/wav"),
        (
            {"speed": 0.5, "sample_rate": 8000, "language": "en", "voice": None},
            {"format": "flac", "speed": 0.5, "sample_rate": 8000, "language": "en"},
            "audio/flac",
        ),
    ],
    ids=str,
)
async def test_a_text_is_a_file(parameters: Any, asked: dict[str, Any], media_type: str) -> None:
    for path in ("/hf/bard", "/hf/bard/"):
        front, seen = stage()
        answer = await front.post(path, {**HELLO, "parameters": parameters, "options": {"wait_for_model": True}})
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert answer.content == b"\0\xff"
        assert seen == [{"text": "Hello.", **asked}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": ["Hello."]}, "inputs must be a string"),
        ({"inputs": {"text": "Hello."}}, "inputs must be a string"),
        ({}, "inputs: Field required"),
        ({**HELLO, "stream": True}, "only generated text comes as a stream"),
        ({**HELLO, "voice": "ann"}, "the body has an unknown field 'voice'"),
        ({**HELLO, "parameters": {"text": "a"}}, "the parameter 'text' is not supported"),
        ({**HELLO, "parameters": {"do_sample": True}}, "the parameter 'do_sample' is not supported"),
        ({**HELLO, "parameters": {"generation_parameters": {}}}, "the parameter 'generation_parameters' is not supp"),
    ],
    ids=str,
)
async def test_what_is_refused(body: dict[str, Any], message: str) -> None:
    front, seen = stage()
    answer = await front.post("/hf/bard", body)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "validation")
    assert answer.json()["error"].startswith(message)
    assert not seen


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvalidInput("text: too short", param="text"), 400, "inputs: too short"),
        (InvalidInput("voice: there are ann and bob", param="voice"), 400, "voice: there are ann and bob"),
        (Overloaded(), 503, "overloaded, try again later"),
    ],
    ids=str,
)
async def test_what_goes_wrong_there(error: WorkflowError, status: int, message: str) -> None:
    front, _ = stage(error)
    answer = await front.post("/hf/bard", HELLO)
    assert (answer.status_code, answer.json()["error"]) == (status, message)


@pytest.mark.parametrize("said", [{"audio": None}, {"audio": "%"}, {"format": None}], ids=str)
async def test_what_is_no_audio_is_500(said: dict[str, Any]) -> None:
    front, _ = stage(**said)
    answer = await front.post("/hf/bard", HELLO)
    assert (answer.status_code, answer.json()["error_type"]) == (500, "generation")


async def test_it_is_as_described() -> None:
    spec = (await Front().get("/openapi.json")).json()

    def fits(value: Any) -> bool:
        schema = {"$ref": "#/components/schemas/HfRequest", "components": spec["components"]}
        return bool(Draft202012Validator(schema).is_valid(value))

    assert fits({**HELLO, "parameters": {"voice": "ann", "format": "mp3", "speed": 2}})
    assert not fits({**HELLO, "parameters": {"voice": "ann", "format": "aac"}})
    assert {"audio/flac", "application/json"} <= set(spec["paths"]["/hf/{name}"]["post"]["responses"]["200"]["content"])
