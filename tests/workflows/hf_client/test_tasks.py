"""Every task of the client: what an endpoint is asked, what its answer is here, and what is no answer."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.workflows.remote.faulty_upstream import FaultyUpstream, answer
from workflows.errors import InvalidInput, Unsupported, UpstreamFailed
from workflows.inference.hf_client.tasks import REFUSED, TASKS
from workflows.inference.hf_client.workflow import HFInferenceClientWorkflow


def _picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 3), (1, 2, 3)).save(file, kind)
    return file.getvalue()


def _sound(kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.linspace(-0.5, 0.5, 160, dtype=np.float32), 16000, format=kind)
    return file.getvalue()


PNG, WAV = _picture(), _sound()
AS_TEXT, SOUND_AS_TEXT = base64.b64encode(PNG).decode(), base64.b64encode(WAV).decode()
LABELS = [{"label": "a", "score": 0.25}, {"label": "b", "score": 0.75}]
BEST_FIRST = {"labels": [LABELS[1], LABELS[0]], "tokens": None}
FOUND = {"word": "Ada", "start": 0, "end": 3, "score": 0.5}
ENTITY = {"label": "PER", "index": None, **FOUND}
FILLING = {"score": 0.5, "token": 7, "token_str": "fox", "sequence": "a fox"}
ANSWER = {"answer": "fox", "score": 0.5, "start": 2, "end": 5}
BOX = {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}


@dataclass
class Case:
    """`sent` is the body's JSON, or its bytes; `told` what the endpoint answers, `read` what that is here."""

    task: Any
    asked: dict[str, Any]
    sent: Any
    told: Any
    read: dict[str, Any]
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.task)


def _parameters(inputs: Any, **parameters: Any) -> dict[str, Any]:
    return {"inputs": inputs, "parameters": parameters}


CASES = [
    Case("text-classification", {"text": "x", "top_k": 2}, _parameters("x", top_k=2), [LABELS], BEST_FIRST),
    Case(
        "zero-shot-classification",
        {"text": "x", "candidate_labels": ["a", "b"], "multi_label": True},
        _parameters("x", candidate_labels=["a", "b"], multi_label=True),
        LABELS,
        BEST_FIRST,
    ),
    Case(
        "token-classification",
        {"text": "Ada", "ignore_labels": []},
        _parameters("Ada", aggregation_strategy="simple", ignore_labels=[]),
        [{"entity_group": "PER", **FOUND}],
        {"entities": [ENTITY], "tokens": None},
    ),
    Case(
        "token-classification",
        {"text": "Ada", "aggregation_strategy": "none"},
        _parameters("Ada", aggregation_strategy="none"),
        [{"entity": "PER", "index": 1, **FOUND}],
        {"entities": [{**ENTITY, "index": 1}], "tokens": None},
    ),
    Case(
        *("fill-mask", {"text": "a [MASK]", "top_k": 1}, _parameters("a [MASK]", top_k=1), [FILLING]),
        {"masks": [[FILLING]], "tokens": None},
    ),
    Case(
        *("fill-mask", {"text": "[MASK] [MASK]"}, _parameters("[MASK] [MASK]"), [[FILLING], [FILLING]]),
        {"masks": [[FILLING], [FILLING]], "tokens": None},
    ),
    Case(
        "question-answering",
        {"question": "who?", "context": "a fox", "top_k": 2},
        _parameters({"question": "who?", "context": "a fox"}, top_k=2),
        [ANSWER, ANSWER],
        {"answers": [ANSWER, ANSWER], "tokens": None},
    ),
    Case(
        "question-answering",
        {"question": "who?", "context": "a fox"},
        _parameters({"question": "who?", "context": "a fox"}),
        ANSWER,
        {"answers": [ANSWER], "tokens": None},
    ),
    Case(
        "summarization",
        {"text": "long", "decoding": {"max_new_tokens": 5}, "truncate": True},
        _parameters("long", generate_parameters={"max_new_tokens": 5}, truncation="longest_first"),
        [{"summary_text": "short"}],
        {"text": "short", "usage": None},
    ),
    Case(
        "translation",
        {"text": "a", "src_lang": "en", "tgt_lang": "de", "truncate": False},
        _parameters("a", src_lang="en", tgt_lang="de", truncation="do_not_truncate"),
        [{"translation_text": "ein"}],
        {"text": "ein", "usage": None},
    ),
    Case(
        "sentence-similarity",
        {"text": "a", "others": ["b", "c"]},
        _parameters({"source_sentence": "a", "sentences": ["b", "c"]}),
        [0.5, 1],
        {"similarities": [0.5, 1.0]},
    ),
    Case(
        "table-question-answering",
        {"table": {"a": ["1", "2"]}, "query": "sum?", "sequential": True},
        _parameters({"query": "sum?", "table": {"a": ["1", "2"]}}, sequential=True),
        {"answer": "SUM > 1, 2", "cells": ["1", "2"], "coordinates": [[0, 0], [1, 0]], "aggregator": "SUM"},
        {"answer": "SUM > 1, 2", "cells": ["1", "2"], "coordinates": [[0, 0], [1, 0]], "aggregator": "SUM"},
    ),
    Case(
        "tabular-classification",
        {"table": {"a": [1, 2.5]}},
        {"table": {"a": [1, 2.5]}, "parameters": {}},
        ["x", 1],
        {"classes": ["x", 1]},
    ),
    Case("image-classification", {"image": PNG}, PNG, LABELS, BEST_FIRST, headers={"content-type": "image/png"}),
    Case(*("image-classification", {"image": AS_TEXT, "top_k": 2}, _parameters(AS_TEXT, top_k=2), LABELS, BEST_FIRST)),
    Case(
        "zero-shot-image-classification",
        {"image": PNG, "candidate_labels": ["a", "b"]},
        _parameters(AS_TEXT, candidate_labels=["a", "b"]),
        LABELS,
        BEST_FIRST,
    ),
    Case(
        "object-detection",
        {"image": PNG, "threshold": 0.5},
        _parameters(AS_TEXT, threshold=0.5),
        [{"label": "cat", "score": 0.5, "box": BOX}],
        {"objects": [{"label": "cat", "score": 0.5, "box": BOX}]},
    ),
    Case(
        "image-segmentation",
        {"image": PNG, "subtask": "semantic"},
        _parameters(AS_TEXT, subtask="semantic"),
        [{"label": "cat", "mask": AS_TEXT, "score": None}],
        {"segments": [{"label": "cat", "mask": AS_TEXT, "score": None}]},
    ),
    Case("image-to-text", {"image": PNG}, PNG, [{"generated_text": "a cat"}], {"text": "a cat"}),
    Case(
        "visual-question-answering",
        {"image": PNG, "question": "what?", "top_k": 1},
        {**_parameters(AS_TEXT, top_k=1), "question": "what?", "image": AS_TEXT},
        [{"answer": "cat", "score": 0.5}],
        {"answers": [{"answer": "cat", "score": 0.5}]},
    ),
    Case(
        "document-question-answering",
        {"image": PNG, "question": "total?", "lang": "en"},
        _parameters({"question": "total?", "image": AS_TEXT}, lang="en"),
        [ANSWER],
        {"answers": [ANSWER]},
    ),
    Case(
        "text-to-image",
        {"prompt": "a cat", "width": 8, "seed": 1},
        _parameters("a cat", width=8, seed=1),
        PNG,
        {"image": AS_TEXT, "media_type": "image/png"},
        kind="image/png",
    ),
    Case(
        "image-to-image",
        {"image": PNG, "prompt": "in winter", "width": 8, "height": 4},
        _parameters(AS_TEXT, prompt="in winter", target_size={"width": 8, "height": 4}),
        PNG,
        {"image": AS_TEXT, "media_type": "image/png"},
        kind="image/png",
    ),
    Case("audio-classification", {"audio": WAV}, WAV, LABELS, BEST_FIRST, headers={"content-type": "audio/wav"}),
    Case(
        "audio-to-audio",
        {"audio": WAV},
        WAV,
        [{"label": "voice", "content-type": "audio/wav", "blob": SOUND_AS_TEXT}],
        {"sounds": [{"label": "voice", "audio": SOUND_AS_TEXT, "media_type": "audio/wav"}]},
    ),
    Case("automatic-speech-recognition", {"audio": WAV}, WAV, {"text": "hello"}, {"text": "hello", "parts": None}),
    Case(
        "automatic-speech-recognition",
        {"audio": WAV, "return_timestamps": True},
        _parameters(SOUND_AS_TEXT, return_timestamps=True),
        {"text": "hello", "chunks": [{"text": "hello", "timestamp": [0.0, None]}]},
        {"text": "hello", "parts": [{"text": "hello", "start": 0.0, "end": None}]},
    ),
]


async def _asked(case: Case, told: Any, kind: str) -> tuple[Any, FaultyUpstream]:
    workflow = HFInferenceClientWorkflow(case.task, base_url="http://127.0.0.1:1")
    async with FaultyUpstream() as upstream:
        workflow = HFInferenceClientWorkflow(case.task, base_url=f"{upstream.url}/here")
        upstream.plays(answer(200, told, kind=kind))
        await workflow.asetup()
        try:
            return await workflow.ainference(case.asked), upstream
        finally:
            await workflow.ateardown()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_task_is_asked_as_the_endpoint_has_it_and_read_as_we_have_it(case: Case) -> None:
    got, upstream = await _asked(case, case.told, case.kind)
    assert json.loads(got.model_dump_json()) == case.read
    (request,) = upstream.asked
    assert (request.method, request.target) == ("POST", "/here")
    assert (request.body if isinstance(case.sent, bytes) else request.json()) == case.sent
    assert request.headers.items() >= case.headers.items()
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


HOSTILE: list[Any] = [None, 7, "text", [], {}, [[]], [None], [7], {"error": "no"}, [{}], [{"label": 1, "score": "x"}]]


@pytest.mark.parametrize("task", sorted(TASKS.keys() - {"conversational", "text-generation"}))
async def test_what_is_no_answer_is_the_upstreams_failure(task: str) -> None:
    """Some of these are answers: an empty list of things found, say. But none is a fault of ours."""
    asked = next((case.asked for case in CASES if case.task == task), {"text": "x"})
    failed = 0
    for told in HOSTILE:
        try:
            await _asked(Case(task, asked, None, None, {}), told, "application/json")
        except UpstreamFailed:
            failed += 1
    assert failed >= len(HOSTILE) - 4


def test_every_task_is_tested() -> None:
    own = {"conversational", "text-generation", "feature-extraction", "text-to-speech"}
    assert {case.task for case in CASES} | own == set(TASKS)


@pytest.mark.parametrize("task", sorted(REFUSED))
def test_tasks_that_cannot_be_served_are_refused_with_the_reason(task: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^task: Hugging Face's client sends this task to"):
        HFInferenceClientWorkflow(task, base_url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("task", "asked", "param"),
    [
        ("text-classification", {"text": "a", "text_pair": "b"}, "text_pair"),
        ("text-classification", {"text": "a", "truncate": True}, "truncate"),
        ("fill-mask", {"text": "a", "truncate": True}, "truncate"),
        ("feature-extraction", {"tokens": [1]}, "tokens"),
        ("image-to-image", {"image": PNG, "width": 8}, "height"),
        ("text-to-speech", {"text": "a", "voice": "anna"}, "voice"),
        ("text-to-speech", {"text": "a", "sample_rate": 16000}, "sample_rate"),
        ("text-generation", {"prompt_tokens": [1]}, "prompt_tokens"),
        ("text-generation", {"prompt": "a", "sampling": {"max_tokens": None}}, "sampling.max_tokens"),
        ("text-generation", {"prompt": "a", "sampling": {"min_p": 0.5}}, "sampling.min_p"),
        ("conversational", {"prompt": "a"}, "prompt"),
    ],
)
async def test_what_the_api_has_no_words_for_is_refused_by_name(task: Any, asked: Any, param: str) -> None:
    async with FaultyUpstream() as upstream:
        workflow = await HFInferenceClientWorkflow(task, base_url=upstream.url).asetup()
        with pytest.raises(Unsupported) as caught:
            await workflow.ainference(asked)
        await workflow.ateardown()
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert not upstream.asked


@pytest.mark.parametrize(
    ("told", "good"),
    [
        ([1, 2.5], True),
        ([[1, 2.5]], True),
        ([[1.0], [2.0]], False),
        ([[[1.0, 2.0]]], False),
        (["x"], False),
        ([], False),
    ],
)
async def test_a_vector_is_that_of_a_whole_text(told: Any, good: bool) -> None:
    asking = _asked(Case("feature-extraction", {"text": "hello"}, None, None, {}), told, "application/json")
    if good:
        got, upstream = await asking
        assert got.embedding.tolist() == [1.0, 2.5]
        assert upstream.asked[0].json() == {"inputs": "hello"}
    else:
        with pytest.raises(UpstreamFailed):
            await asking


@pytest.mark.parametrize("sent", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("wanted", [None, "pcm", "wav", "flac", "opus", "mp3"])
async def test_speech_comes_as_the_caller_wants_it(sent: str, wanted: Any) -> None:
    got, upstream = await _asked(
        Case("text-to-speech", {"text": "hello", "format": wanted}, None, None, {}), _sound(sent), "audio/any"
    )
    assert upstream.asked[0].json() == {"inputs": "hello", "parameters": {}}
    assert (got.sample_rate, got.format) == (16000, wanted)
    if wanted is None:
        samples = got.samples
    elif wanted == "pcm":
        samples = np.frombuffer(got.audio, "<i2") / np.float32(32767)
    else:
        samples, rate = soundfile.read(io.BytesIO(got.audio))
        assert rate == 16000
    assert len(samples) / 16000 == pytest.approx(got.seconds, abs=0.1)
    if sent in ("WAV", "FLAC") and wanted in (None, "pcm", "wav", "flac"):
        np.testing.assert_allclose(samples, np.linspace(-0.5, 0.5, 160), atol=1e-3)
