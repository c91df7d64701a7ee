"""Audio as protocols send it: what its formats are called in headers, and a workflow's audio as bytes. Decodes nothing."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any, Final

from deployments.router.openapi.parts import Json
from deployments.router.request import Reply
from workflows.errors import BadOutput
from workflows.types.speech import AudioFormat

__all__ = ["MEDIA_TYPES", "audio_bytes", "audio_content", "audio_reply", "audio_seconds", "audio_text"]

MEDIA_TYPES: Final[Mapping[AudioFormat, bytes]] = {
    "flac": b"audio/flac",
    "mp3": b"audio/mpeg",
    "opus": b"audio/ogg",
    "pcm": b"audio/pcm",
    "wav": b"audio/wav",
}


def audio_bytes(said: Any) -> bytes:
    """The audio of an answer, or of a chunk of one. Raises BadOutput where there is none."""
    try:
        return binascii.a2b_base64(audio_text(said), strict_mode=True)
    except ValueError as cause:
        raise _no_audio() from cause


def audio_text(said: Any) -> str:
    """The same in base64, which is how it comes."""
    audio = said.get("audio") if isinstance(said, dict) else None
    if not isinstance(audio, str):
        raise _no_audio()
    return audio


def audio_reply(answer: Any) -> Reply:
    """An answer as the file that it is."""
    audio = audio_bytes(answer)
    media_type = MEDIA_TYPES.get(answer.get("format"))
    if media_type is None:
        raise _no_audio()
    return Reply(200, audio, [(b"content-type", media_type)])


def audio_seconds(said: Any) -> float:
    """How long it is."""
    seconds = said.get("seconds") if isinstance(said, dict) else None
    if not isinstance(seconds, float | int):
        raise _no_audio()
    return seconds


def audio_content() -> Json:
    """How answers of these formats are described: bytes, for which schemas have no word."""
    return {media_type.decode(): {"schema": {}} for media_type in MEDIA_TYPES.values()}


def _no_audio() -> BadOutput:
    return BadOutput("the workflow gave no audio")
