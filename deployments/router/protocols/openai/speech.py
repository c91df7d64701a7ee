"""`POST /v1/audio/speech`: a text said aloud, sent while it is made; and `GET /v1/audio/voices`: who can say it.

What fails before the first audio is an ordinary error. Later it ends the connection in the middle of the body, so that
nobody takes what was sent for the whole; among events it is one of them, and no `speech.audio.done` follows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import aclosing
from copy import copy
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from deployments.router.protocols.audio import MEDIA_TYPES, audio_bytes, audio_reply, audio_seconds, audio_text
from deployments.router.protocols.openai.generation import chosen
from deployments.router.protocols.openai.requests import Name, OpenAIRequest, read
from deployments.router.request import Reply, Request
from deployments.router.sse import send_events
from deployments.router.streaming import send_parts
from workflows.errors import BadOutput, InvalidInput, Unsupported, WorkflowError
from workflows.types.speech import SAMPLE_RATES, AudioFormat

__all__ = ["SPEECH_REFUSED", "SpeechRequest", "listed_voices", "speech", "speech_input"]

PCM_RATE: Final = 24_000
"""What OpenAI's clients take audio without a header for, in Hz."""
_SENT_WHOLE: Final[Container[AudioFormat]] = ("flac",)
"""Formats whose header has to say how long the file is, or many programs cannot read it. A caller that says itself that it
wants a stream gets one all the same."""
_KNOWN_AS: Final[Mapping[str, str]] = {"text": "input", "format": "response_format"}
"""What workflows call by another name than OpenAI's clients."""
MAX_VOICE_CHARS: Final = 256
_NAME: Final[dict[str, Any]] = {"type": "string", "minLength": 1, "maxLength": MAX_VOICE_CHARS}
_VOICE: Final[dict[str, Any]] = {
    "anyOf": [_NAME, {"type": "object", "properties": {"id": _NAME}, "required": ["id"]}, {"type": "null"}]
}


def _voice(value: Any) -> str | None:
    name = value.get("id") if isinstance(value, dict) else value
    if value is not None and (not isinstance(name, str) or not 0 < len(name) <= MAX_VOICE_CHARS):
        raise ValueError("the name of a voice is needed, or an object with it as its id")
    return name


def _no_aac(value: Any) -> Any:
    if value == "aac":
        raise ValueError(f"aac is not made here; there are {', '.join(MEDIA_TYPES)}")
    return value


class SpeechRequest(OpenAIRequest):
    """`POST /v1/audio/speech`: OpenAI's fields, and the last three, which workflows of this kind take as well."""

    model: Name | None = None
    input: Annotated[str, Field(min_length=1)]
    voice: Annotated[str | None, PlainValidator(_voice), WithJsonSchema(_VOICE)] = None
    """One of `/v1/audio/voices`, as a string or as an object with its `id`; without it, the model's first."""
    response_format: Annotated[AudioFormat | None, BeforeValidator(_no_aac)] = None
    """`mp3` where nothing is said; `pcm` is 16 bits, little-endian, at 24 kHz unless `sample_rate` says otherwise."""
    speed: Annotated[float, Field(ge=0.25, le=4.0)] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    """The bytes of the file, or events that bring them in base64. Where nothing is said, bytes: as they are made, but for
    `flac`, which is sent whole, because its header says how long it is."""
    sample_rate: Annotated[int, Field(ge=8000, le=48000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,3}$")] | None = None


SPEECH_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "instructions": ("",),
    "ref_audio": (),
    "ref_text": (),
}
"""Fields that would change how it sounds, and the values that leave it as it is."""


def speech_input(body: Any) -> tuple[SpeechRequest, dict[str, Any]]:
    """The request in a body, and what the workflow is asked. Raises InvalidInput."""
    asked = read(SpeechRequest, body, SPEECH_REFUSED)
    input_data: dict[str, Any] = {"text": asked.input, "format": asked.response_format or "mp3"}
    for name in ("voice", "speed", "sample_rate", "seed", "language"):
        if (value := getattr(asked, name)) is not None:
            input_data[name] = value
    if asked.response_format == "pcm":
        input_data.setdefault("sample_rate", PCM_RATE)
    rates = SAMPLE_RATES.get(input_data["format"])
    if rates and asked.sample_rate not in (None, *rates):
        raise InvalidInput(f"sample_rate: this format has {', '.join(map(str, rates))}", param="sample_rate")
    return asked, input_data


async def speech(workflows: Workflows, request: Request, body: Any) -> Reply | None:
    """Answer a request for speech; None where the answer is a stream, which is sent then.

    Raises the error tree before the first audio, and after it as well where that is not told in the stream.
    """
    asked, input_data = speech_input(body)
    entry = chosen(workflows, request, asked.model, None, "speech")
    streams = workflows.card(entry).streams
    if asked.stream_format == "sse" and not streams:
        raise Unsupported("stream_format: this model does not stream", param="stream_format")
    if not streams or (asked.stream_format is None and input_data["format"] in _SENT_WHOLE):
        return await _whole(workflows, request, entry, input_data)
    total_s = workflows.stream_seconds(request)
    first_s = request.limits.stream_first_chunk_s
    chunks = _as_asked(workflows.chunks(request, entry, input_data, at_most_s=total_s))
    if asked.stream_format == "sse":
        events = _events(chunks, len(asked.input))
        await send_events(request, events, first_chunk_s=first_s, total_s=total_s, end_mark=b"")
    else:
        media_type = MEDIA_TYPES[input_data["format"]]
        await send_parts(
            request, chunks, first_chunk_s=first_s, total_s=total_s, media_type=media_type, part=audio_bytes
        )
    return None


def listed_voices(workflows: Workflows, caller: Caller) -> dict[str, Any]:
    """The voices of every workflow that this caller may ask for, those first that their workflow takes by itself."""
    cards = [(entry.name, entry.card) for entry in workflows.listed(caller)]
    return {
        "voices": [
            {"id": voice, "name": voice, "workflow": name}
            for name, card in cards
            if card is not None and card.kind == "speech"
            for voice in card.voices
        ]
    }


async def _whole(workflows: Workflows, request: Request, entry: Entry, input_data: Any) -> Reply:
    try:
        return audio_reply(await workflows.ask(request, entry, input_data))
    except WorkflowError as error:
        raise _renamed(error) from error.__cause__


async def _as_asked(groups: AsyncGenerator[list[Any]]) -> AsyncGenerator[list[Any]]:
    """The chunks, of which there is one at least, and errors with fields called as the caller knows them."""
    empty = True
    try:
        async with aclosing(groups):
            async for group in groups:
                empty = False
                yield group
    except WorkflowError as error:
        raise _renamed(error) from error.__cause__
    if empty:
        raise BadOutput("the workflow gave no audio")


async def _events(groups: AsyncGenerator[list[Any]], characters: int) -> AsyncGenerator[list[Any]]:
    """What the events say."""
    seconds = 0.0
    async with aclosing(groups):
        async for group in groups:
            yield [{"type": "speech.audio.delta", "audio": audio} for audio in map(audio_text, group)]
            seconds += sum(map(audio_seconds, group))
    yield [{"type": "speech.audio.done", "usage": _usage(characters, seconds)}]


def _usage(characters: int, seconds: float) -> dict[str, Any]:
    """These models count no tokens; a client with types of its own wants the numbers all the same."""
    tokens = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), 0)
    return {**tokens, "input_characters": characters, "output_seconds": round(seconds, 3)}


def _renamed(error: WorkflowError) -> WorkflowError:
    ours = error.param
    theirs = _KNOWN_AS.get(ours or "")
    if ours is None or theirs is None:
        return error
    renamed = copy(error)
    renamed.param = theirs
    if error.message.startswith(f"{ours}: "):
        renamed.message = theirs + error.message.removeprefix(ours)
    return renamed
