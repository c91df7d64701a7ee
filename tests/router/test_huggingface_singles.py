"""Hugging Face's inference API for what is asked about one thing at a time: pictures, recordings, tables."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and so on").decode()
LABELS = [{"label": "A", "score": 0.75}, {"label": "B", "score": 0.25}]
ANSWERS = [{"answer": "cat", "score": 0.5}]
WORDS = [{"answer": "cat", "score": 0.5, "start": 1, "end": 2}]
OBJECTS = [{"label": "cat", "score": 0.5, "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}]
SEGMENTS = [{"label": "cat", "mask": PNG, "score": None}]
TABLE = {"table": {"a": ["1"]}}
CELLS = {"answer": "1", "cells": ["1"], "coordinates": [[0, 0]]}
SOUND = {"label": "voice", "audio": PNG, "media_type": "audio/wav"}

# What is sent, what the workflow is asked, what it says, and what is answered.
CASES: list[tuple[str, Any, Any, Any, Any]] = [
    (
        *("image-classification", {"inputs": PNG, "parameters": {"top_k": 2}}, {"image": PNG, "top_k": 2}),
        {"labels": LABELS, "tokens": None},
        LABELS,
    ),
    (
        "zero-shot-image-classification",
        {"inputs": PNG, "parameters": {"candidate_labels": ["A", "B"]}},
        {"image": PNG, "candidate_labels": ["A", "B"]},
        {"labels": LABELS, "tokens": None},
        LABELS,
    ),
    ("object-detection", {"inputs": PNG}, {"image": PNG}, {"objects": OBJECTS}, OBJECTS),
    ("image-segmentation", {"inputs": PNG}, {"image": PNG}, {"segments": SEGMENTS}, SEGMENTS),
    ("image-to-text", {"inputs": PNG}, {"image": PNG}, {"text": "a cat"}, [{"generated_text": "a cat"}]),
    (
        "visual-question-answering",
        {"inputs": PNG, "parameters": {"top_k": 1}, "question": "what?", "image": PNG},
        {"image": PNG, "question": "what?", "top_k": 1},
        {"answers": ANSWERS},
        ANSWERS,
    ),
    (
        "document-question-answering",
        {"inputs": {"image": PNG, "question": "what?"}, "parameters": {"lang": "en"}},
        {"image": PNG, "question": "what?", "lang": "en"},
        {"answers": WORDS},
        WORDS,
    ),
    (
        "table-question-answering",
        {"inputs": {"query": "?", **TABLE}, "parameters": {"sequential": True}},
        {"query": "?", **TABLE, "sequential": True},
        {**CELLS, "aggregator": None},
        CELLS,
    ),
    ("tabular-classification", {**TABLE, "parameters": {}}, TABLE, {"classes": ["x"]}, ["x"]),
    (
        "sentence-similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
        {"text": "a", "others": ["b"]},
        {"similarities": [0.5]},
        [0.5],
    ),
    ("audio-classification", {"inputs": PNG}, {"audio": PNG}, {"labels": LABELS, "tokens": None}, LABELS),
    (
        "audio-to-audio",
        {"inputs": PNG},
        {"audio": PNG},
        {"sounds": [SOUND]},
        [{"label": "voice", "content-type": "audio/wav", "blob": PNG}],
    ),
    (
        "automatic-speech-recognition",
        {"inputs": PNG, "parameters": {"return_timestamps": True}},
        {"audio": PNG, "return_timestamps": True},
        {"text": "hi", "parts": [{"text": "hi", "start": 0.0, "end": None}]},
        {"text": "hi", "chunks": [{"text": "hi", "timestamp": [0.0, None]}]},
    ),
]


def house(task: str, output: Any) -> tuple[Front, list[Any]]:
    """With one workflow, `m`, and what it was asked."""
    seen: list[Any] = []

    async def answer(input_data: Any, call: CallContext) -> Any:
        seen.append(input_data)
        return output

    front = Front()
    front.add("m", ScriptedClient(answer), kind="task")
    entry = front.directory.find("m")
    assert entry.card is not None
    entry.card = entry.card.model_copy(update={"task": task})
    return front, seen


@pytest.mark.parametrize(("task", "sent", "asked", "said", "answered"), CASES, ids=[case[0] for case in CASES])
async def test_a_task_is_asked_and_answered_as_its_clients_have_it(
    task: str, sent: Any, asked: Any, said: Any, answered: Any
) -> None:
    front, seen = house(task, said)
    answer = await front.post("/hf/m", sent)
    assert (answer.status_code, answer.json()) == (200, answered)
    assert seen == [asked]
    described = (await front.get("/openapi.json")).json()["components"]["schemas"]
    for name, value in (("HfRequest", sent), ("HfAnswer", answered)):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": described}}
        assert Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("task", "sent", "asked"),
    [
        ("text-to-image", {"inputs": "a cat", "parameters": {"width": 8}}, {"prompt": "a cat", "width": 8}),
        (
            "image-to-image",
            {"inputs": PNG, "parameters": {"prompt": "x", "target_size": {"width": 8, "height": 4}}},
            {"image": PNG, "prompt": "x", "width": 8, "height": 4},
        ),
    ],
)
async def test_a_picture_is_answered_as_a_file(task: str, sent: Any, asked: Any) -> None:
    front, seen = house(task, {"image": PNG, "media_type": "image/png"})
    answer = await front.post("/hf/m", sent)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content == base64.b64decode(PNG)
    assert seen == [asked]


@pytest.mark.parametrize(
    ("task", "sent", "says"),
    [
        ("object-detection", {"inputs": PNG, "parameters": {"top_k": 1}}, "'top_k' is not supported"),
        ("object-detection", {"inputs": None}, "Field required"),
        ("object-detection", {"inputs": PNG, "question": "?"}, "unknown field 'question'"),
        ("object-detection", [PNG], "must be a JSON object"),
        ("object-detection", {"inputs": PNG, "stream": True}, "only generated text comes as a stream"),
        ("document-question-answering", {"inputs": PNG}, "inputs must be an object of image and question"),
        ("table-question-answering", {"inputs": {"query": "?"}}, "inputs must be an object of query and table"),
    ],
)
async def test_what_is_no_question_is_refused_with_the_reason(task: str, sent: Any, says: str) -> None:
    front, seen = house(task, {})
    answer = await front.post("/hf/m", sent)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert not seen


@pytest.mark.parametrize("task", [case[0] for case in CASES] + ["text-to-image"])
@pytest.mark.parametrize(
    "output", [{}, None, {"labels": 7}, {"image": "no base64!", "media_type": "image/png"}], ids=str
)
async def test_what_is_no_answer_is_the_workflows_fault(task: str, output: Any) -> None:
    sent = next((case[1] for case in CASES if case[0] == task), {"inputs": "a cat"})
    front, _ = house(task, output)
    assert (await front.post("/hf/m", sent)).status_code >= 500
