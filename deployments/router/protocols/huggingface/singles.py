"""Tasks that are asked about one thing at a time: a picture, a recording, a table, or a text beside others.

A file comes as base64 in `inputs`, as clients send it where there are parameters as well. A picture is answered as a file.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deployments.router.protocols.huggingface.requests import Asked, read_body
from deployments.router.request import Reply, json_reply
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.types import pictures, sounds, tables
from workflows.types.exchange import Exchange

__all__ = ["SINGLES", "Single"]

_TIMES: Final = ("start", "end")


@dataclass(frozen=True, slots=True)
class Single:
    """One task.

    Attributes:
        asks: What the workflow takes.
        sources: Which of its fields come as `inputs`, by their names there; a single one without a name comes as it is.
        told: What an output is here; None is a file.
        beside: What stands beside `inputs` instead of in it; `inputs` may then be missing.
    """

    asks: type[Exchange]
    sources: Mapping[str, str]
    told: Callable[[Mapping[str, Any]], Any] | None
    beside: Mapping[str, str] | None = None

    def input(self, body: Any) -> dict[str, Any]:
        """The workflow's plain input. Raises InvalidInput; it checks values by itself."""
        if not isinstance(body, dict):
            raise InvalidInput("the body must be a JSON object")
        besides = self.beside or {}
        plain = {ours: body[name] for name, ours in besides.items() if body.get(name) is not None}
        rest = {name: value for name, value in body.items() if name not in besides}
        if not self.sources and rest.get("inputs") is None:
            rest["inputs"] = {}
        asked = read_body(rest)
        asked.refuse_stream()
        return {**plain, **self._sources(asked), **self._parameters(asked)}

    def reply(self, output: Any) -> Reply:
        """Raises BadOutput for what is no answer of this task."""
        try:
            if self.told is not None:
                return json_reply(self.told(output))
            file = binascii.a2b_base64(output["image"], strict_mode=True)
            return Reply(200, file, [(b"content-type", output["media_type"].encode("ascii"))])
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as cause:
            raise BadOutput("the workflow gave no answer of its task") from cause

    @property
    def parameters(self) -> set[str]:
        """The fields that are neither of the inputs nor beside them."""
        return self.asks.model_fields.keys() - set(self.sources.values()) - set((self.beside or {}).values())

    def _sources(self, asked: Asked) -> dict[str, Any]:
        if not self.sources:
            return {}
        if "" in self.sources:
            return {self.sources[""]: asked.inputs}
        given = asked.inputs
        if not isinstance(given, dict) or given.keys() != self.sources.keys():
            raise InvalidInput(f"inputs must be an object of {' and '.join(self.sources)}", param="inputs")
        return {ours: given[name] for name, ours in self.sources.items()}

    def _parameters(self, asked: Asked) -> dict[str, Any]:
        fields = self.parameters
        plain: dict[str, Any] = {}
        for name, value in asked.parameters.items():
            if name == "target_size" and "width" in fields and isinstance(value, dict):
                plain |= {side: value[side] for side in ("width", "height") if side in value}
            elif name not in fields:
                raise Unsupported(f"the parameter {name[:64]!r} is not supported for this task", param=name[:64])
            else:
                plain[name] = value
        return plain


def _labels(output: Mapping[str, Any]) -> Any:
    return [{"label": each["label"], "score": each["score"]} for each in output["labels"]]


def _table_answer(output: Mapping[str, Any]) -> Any:
    said = {name: output[name] for name in ("answer", "cells", "coordinates")}
    return said if output["aggregator"] is None else {**said, "aggregator": output["aggregator"]}


def _transcript(output: Mapping[str, Any]) -> Any:
    said: dict[str, Any] = {"text": output["text"]}
    if output["parts"] is not None:
        said["chunks"] = [
            {"text": part["text"], "timestamp": [part[time] for time in _TIMES]} for part in output["parts"]
        ]
    return said


def _sounds(output: Mapping[str, Any]) -> Any:
    return [
        {"label": sound["label"], "content-type": sound["media_type"], "blob": sound["audio"]}
        for sound in output["sounds"]
    ]


_PICTURE: Final = {"": "image"}
_SOUND: Final = {"": "audio"}
SINGLES: Final[Mapping[str, Single]] = {
    "audio-classification": Single(sounds.ClassifySound, _SOUND, _labels),
    "audio-to-audio": Single(sounds.ChangeSound, _SOUND, _sounds),
    "automatic-speech-recognition": Single(sounds.Transcribe, _SOUND, _transcript),
    "document-question-answering": Single(
        pictures.AskDocument, {"image": "image", "question": "question"}, lambda output: output["answers"]
    ),
    "image-classification": Single(pictures.ClassifyPicture, _PICTURE, _labels),
    "image-segmentation": Single(pictures.SegmentPicture, _PICTURE, lambda output: output["segments"]),
    "image-to-image": Single(pictures.RedrawPicture, _PICTURE, None),
    "image-to-text": Single(pictures.DescribePicture, _PICTURE, lambda output: [{"generated_text": output["text"]}]),
    "object-detection": Single(pictures.DetectObjects, _PICTURE, lambda output: output["objects"]),
    "sentence-similarity": Single(
        tables.CompareTexts,
        {"source_sentence": "text", "sentences": "others"},
        lambda output: output["similarities"],
    ),
    "table-question-answering": Single(
        tables.AskTable,
        {"query": "query", "table": "table"},
        _table_answer,
    ),
    "tabular-classification": Single(
        tables.ClassifyRows, {}, lambda output: output["classes"], beside={"table": "table"}
    ),
    "text-to-image": Single(pictures.DrawPicture, {"": "prompt"}, None),
    "visual-question-answering": Single(
        pictures.AskPicture,
        {"": "image"},
        lambda output: output["answers"],
        beside={"question": "question", "image": "image"},
    ),
    "zero-shot-image-classification": Single(pictures.ClassifyPictureZeroShot, _PICTURE, _labels),
}
