"""The generate extension, for which there is no official client, with plain HTTP and a real model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.system import System

BODY = {"text_input": "The for statement", "parameters": {"max_tokens": 8, "temperature": 0}}


@pytest.fixture
def alone(system: System) -> Any:
    return system.direct("tiny-gpt", {"prompt": BODY["text_input"], "sampling": BODY["parameters"]})


def test_a_whole_text(system: System, alone: Any) -> None:
    answer = system.caller.post("/v2/models/tiny-gpt/generate", json={**BODY, "id": "g-1"})
    assert answer.status_code == 200
    assert answer.json() == {
        "model_name": "tiny-gpt",
        "model_version": "1",
        "id": "g-1",
        "text_output": alone.text,
        "finish_reason": alone.finish_reason,
    }


def test_a_stream_says_the_same_piece_by_piece(system: System, alone: Any) -> None:
    pieces = []
    with system.caller.stream("POST", "/v2/models/tiny-gpt/generate_stream", json=BODY) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert len(pieces) > 1
    assert "".join(piece["text_output"] for piece in pieces) == alone.text
    assert [piece["done"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1]["finish_reason"] == alone.finish_reason


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("model", "body", "status", "message"),
    [
        ("nowhere", BODY, 404, "model not found"),
        ("digits-onnx", BODY, 400, "generates no text"),
        ("tiny-gpt", {}, 400, "text_input must be a string"),
        ("tiny-gpt", {"text_input": "a", "parameters": {"max_tokens": -1}}, 400, "max_tokens"),
        ("tiny-gpt", {"text_input": "a", "parameters": {"priority": 1}}, 400, "'priority' is not supported"),
        ("tiny-gpt", {"text_input": "a", "model": "b"}, 400, "unknown field 'model'"),
    ],
)
def test_everything_else_is_refused(
    system: System, path: str, model: str, body: Any, status: int, message: str
) -> None:
    answer = system.caller.post(f"/v2/models/{model}/{path}", json=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert message in answer.json()["error"]
