"""Speech in OpenAI's protocol described."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from deployments.router.directory import Entry
from deployments.router.openapi.parts import Json, closed, get_operation, post_operation, ref, stream_operation
from deployments.router.protocols.audio import audio_content
from deployments.router.protocols.openai.description import ERROR, TAG, request_schema
from deployments.router.protocols.openai.speech import SPEECH_REFUSED, SpeechRequest

__all__ = ["speech_paths", "speech_schemas"]

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}


def speech_paths() -> Json:
    asked, summary = ref("SpeechRequest"), "A text said aloud"
    speech = post_operation("speech", TAG, summary, asked, {}, [], ERROR)
    end: Any = {"end": "the last one is `speech.audio.done`"}
    events = stream_operation("speech", TAG, summary, asked, ref("SpeechEvent"), [], ERROR, **end)
    whole, streamed = speech["responses"]["200"], events["responses"]["200"]
    whole["content"] = {**audio_content(), **streamed["content"]}
    whole["description"] = (
        "A file in the format that was asked for, sent while it is made: one that fails has no end. "
        f"With `stream_format` `sse`: {streamed['description']}"
    )
    about = "The voices of all models of this kind that this key may use"
    voices = get_operation("listVoices", TAG, about, ref("Voices"), [], ERROR)
    return {"/v1/audio/speech": {"post": speech}, "/v1/audio/voices": {"get": voices}}


def speech_schemas(entries: Iterable[Entry]) -> Json:
    """`entries`: some of them are shown as examples."""
    cards = [entry.card for entry in entries if entry.card is not None]
    models = [card.name for card in cards if card.kind == "speech"]
    tokens = {name: {"const": 0} for name in ("input_tokens", "output_tokens", "total_tokens")}
    usage = closed({**tokens, "input_characters": _COUNT, "output_seconds": {"type": "number", "minimum": 0}})
    delta = closed({"type": {"const": "speech.audio.delta"}, "audio": {**_TEXT, "contentEncoding": "base64"}})
    done = closed({"type": {"const": "speech.audio.done"}, "usage": usage})
    voice = closed({"id": _TEXT, "name": _TEXT, "workflow": _TEXT})
    return {
        **request_schema("SpeechRequest", SpeechRequest, SPEECH_REFUSED, models),
        "SpeechEvent": {"anyOf": [delta, done]},
        "Voices": closed({"voices": {"type": "array", "items": voice}}),
    }
