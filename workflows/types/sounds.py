"""Kind `task`: questions about a recording, and recordings to be changed. A recording is a whole file: WAV, FLAC, ..."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from workflows.types.exchange import Exchange
from workflows.types.media import Media

__all__ = ["ChangeSound", "ClassifySound", "Sound", "Sounds", "Spoken", "Transcribe", "Transcript"]

_TopK = Annotated[int, Field(ge=1, le=1024)]
_SILENCE: Final = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAgD4AAAB9AAACABAAZGF0YQAAAAA="
_EXAMPLE: Final = ConfigDict(json_schema_extra={"examples": [{"audio": _SILENCE}]})


class _Task(Exchange):
    kind: ClassVar[str] = "task"


class ClassifySound(_Task):
    """A recording to put into one of the model's own classes; answered by `Labels`. See `ClassifyText`."""

    model_config = _EXAMPLE
    task: ClassVar[str] = "audio-classification"
    audio: Media
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: _TopK | None = None


class Transcribe(_Task):
    """A recording of somebody who speaks, to be written down.

    Attributes:
        return_timestamps: Tell when each part was said.
    """

    model_config = _EXAMPLE
    task: ClassVar[str] = "automatic-speech-recognition"
    audio: Media
    return_timestamps: bool | None = None


class Spoken(_Task):
    """A part of what was said, from `start` to `end` in seconds; `end` is None for a part that the recording cuts off."""

    text: str
    start: float
    end: float | None


class Transcript(_Task):
    """What was said. `parts` are told where they were asked for."""

    text: str
    parts: list[Spoken] | None = None


class ChangeSound(_Task):
    """A recording to make others of: without noise, or one for each who speaks."""

    model_config = _EXAMPLE
    task: ClassVar[str] = "audio-to-audio"
    audio: Media


class Sound(_Task):
    """A recording as a file of the type that is told, as HTTP calls it, and what it is of."""

    label: str
    audio: Media
    media_type: str


class Sounds(_Task):
    """In the model's order."""

    sounds: list[Sound]
