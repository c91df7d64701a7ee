"""Types of pictures, sounds and tables: bytes in Python, base64 in JSON, bounded, and told apart by their first bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError

from workflows.types.exchange import Exchange
from workflows.types.media import MAX_MEDIA_BYTES, media_type
from workflows.types.pictures import (
    AskDocument,
    AskPicture,
    ClassifyPicture,
    ClassifyPictureZeroShot,
    DescribePicture,
    DetectObjects,
    DrawPicture,
    Picture,
    RedrawPicture,
    SegmentPicture,
    Segments,
)
from workflows.types.sounds import ChangeSound, ClassifySound, Sounds, Transcribe
from workflows.types.tables import AskTable, ClassifyRows, CompareTexts

BYTES = b"\x89PNG\r\n\x1a\n\x00\xff"
BASE64 = base64.b64encode(BYTES).decode()
WITH_MEDIA: list[tuple[type[Exchange], dict[str, Any]]] = [
    (ClassifyPicture, {"image": BASE64, "top_k": 2}),
    (ClassifyPictureZeroShot, {"image": BASE64, "candidate_labels": ["a", "b"]}),
    (DetectObjects, {"image": BASE64, "threshold": 0.5}),
    (SegmentPicture, {"image": BASE64, "subtask": "semantic"}),
    (DescribePicture, {"image": BASE64}),
    (AskPicture, {"image": BASE64, "question": "what?"}),
    (AskDocument, {"image": BASE64, "question": "what?", "lang": "en"}),
    (RedrawPicture, {"image": BASE64, "prompt": "in winter", "width": 8}),
    (Picture, {"image": BASE64, "media_type": "image/png"}),
    (ClassifySound, {"audio": BASE64}),
    (Transcribe, {"audio": BASE64, "return_timestamps": True}),
    (ChangeSound, {"audio": BASE64}),
]
OTHERS: list[tuple[type[Exchange], dict[str, Any]]] = [
    (DrawPicture, {"prompt": "a cat", "width": 64, "height": 64, "seed": 1, "guidance_scale": 7}),
    (AskTable, {"table": {"a": ["1"], "b": ["2"]}, "query": "sum?"}),
    (ClassifyRows, {"table": {"a": [1, 2.5]}}),
    (CompareTexts, {"text": "a", "others": ["b"]}),
    (Segments, {"segments": [{"label": "x", "mask": BASE64, "score": None}]}),
    (Sounds, {"sounds": [{"label": "x", "audio": BASE64, "media_type": "audio/flac"}]}),
]


@pytest.mark.parametrize(("kind", "body"), WITH_MEDIA + OTHERS)
def test_a_value_is_the_same_after_json_and_after_its_plain_form(kind: type[Exchange], body: dict[str, Any]) -> None:
    value = kind.model_validate(body)
    assert json.loads(value.model_dump_json()).items() >= body.items()
    assert kind.model_validate(json.loads(value.model_dump_json())) == value
    assert kind.model_validate(value.model_dump()) == value


@pytest.mark.parametrize(("kind", "body"), WITH_MEDIA)
def test_bytes_are_bytes_in_python_and_text_is_base64(kind: type[Exchange], body: dict[str, Any]) -> None:
    field = "image" if "image" in body else "audio"
    assert getattr(kind.model_validate(body), field) == BYTES
    assert getattr(kind.model_validate({**body, field: BYTES}), field) == BYTES
    for wrong in ("", b"", "no base64!", "YQ", 7, None, [1]):
        with pytest.raises(ValidationError, match="in JSON as base64") as caught:
            kind.model_validate({**body, field: wrong})
        assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_a_file_is_no_longer_than_the_bound() -> None:
    assert len(DescribePicture(image=bytes(MAX_MEDIA_BYTES)).image) == MAX_MEDIA_BYTES
    for long in (bytes(MAX_MEDIA_BYTES + 1), "A" * (MAX_MEDIA_BYTES * 4 // 3 + 8)):
        with pytest.raises(ValidationError, match="longer than"):
            DescribePicture.model_validate({"image": long})


@pytest.mark.parametrize("kind", [kind for kind, _ in WITH_MEDIA + OTHERS if hasattr(kind, "task")])
def test_the_example_of_each_task_is_one(kind: Any) -> None:
    (example,) = kind.model_json_schema()["examples"]
    assert kind.model_validate(example).model_dump_json()
    assert kind.kind == "task"


def test_examples_are_files_of_their_kind() -> None:
    for kind, begins in ((DescribePicture, "image/png"), (Transcribe, "audio/wav")):
        (example,) = kind.model_json_schema()["examples"]
        (file,) = example.values()
        assert media_type(base64.b64decode(file)) == begins


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff\xd8\xff\xe0 and so on", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00AVI ", None),
        (b"RIFF", None),
        (b"fLaC\x00", "audio/flac"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(data: bytes, expected: str | None) -> None:
    assert media_type(data) == expected


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        (AskTable, {"table": {"a": ["1"], "b": []}, "query": "?"}, "one length"),
        (AskTable, {"table": {}, "query": "?"}, "at least 1"),
        (ClassifyRows, {"table": {"a": [True]}}, "valid"),
        (ClassifyPictureZeroShot, {"image": BASE64, "candidate_labels": ["a"]}, "at least 2"),
        (DrawPicture, {"prompt": "a", "width": 1 << 20}, "less than or equal"),
        (AskDocument, {"image": BASE64, "question": "?", "lang": "../x"}, "pattern"),
        (CompareTexts, {"text": "a", "others": []}, "at least 1"),
    ],
)
def test_what_is_out_of_bounds_is_refused(kind: type[Exchange], body: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        kind.model_validate(body)
