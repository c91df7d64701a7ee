"""Hugging Face's inference API through the whole app: what each task is asked, how it is answered, what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import ContextTooLong, InvalidInput, NotReady, Overloaded, WorkflowError

LABELS = [{"label": "A", "score": 0.75}, {"label": "B", "score": 0.25}]
FOUND = {"word": "Ann", "start": 0, "end": 3, "score": 0.5}
FILLING = {"score": 0.5, "token": 7, "token_str": "fox", "sequence": "a fox"}
ANSWER = {"answer": "fox", "score": 0.5, "start": 2, "end": 5}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
OUTPUTS: dict[str, Any] = {
    "text-classification": {"labels": LABELS, "tokens": 3},
    "zero-shot-classification": {"labels": LABELS, "tokens": 3},
    "token-classification": {"entities": [{"label": "PER", "index": None, **FOUND}], "tokens": 3},
    "fill-mask": {"masks": [[FILLING]], "tokens": 3},
    "question-answering": {"answers": [ANSWER], "tokens": 3},
    "summarization": {"text": "short", "usage": USAGE},
    "translation": {"text": "kurz", "usage": USAGE},
}
PLAIN = {"inputs": "a fox"}
QUESTION = {"question": "who?", "context": "a fox"}


class Model(ScriptedClient):
    """Answers every input as its task does; an error where the input has one's name in it."""

    def __init__(self, output: Any = None, errors: dict[str, WorkflowError] | None = None) -> None:
        super().__init__(self._answer)
        self.output, self.errors = output, errors or {}
        self.seen: list[Any] = []

    async def _answer(self, input_data: Any, call: CallContext) -> Any:
        self.seen.append(input_data)
        text = input_data.get("text") or input_data.get("question")
        if text in self.errors:
            raise self.errors[text]
        return self.output if self.output is not None else {"embedding": VECTORS[text], "tokens": 2}


VECTORS = {"a": np.array([3.0, 4.0], np.float32), "b": np.array([4.0, 3.0], np.float32), "z": np.zeros(2, np.float32)}


def house(task: str, model: Model | None = None) -> tuple[Front, Model]:
    """With one workflow, `m`."""
    front, model = Front(), model or Model(OUTPUTS.get(task))
    front.add("m", model, kind="embed" if task == "embed" else "task")
    entry = front.directory.find("m")
    assert entry.card is not None
    entry.card = entry.card.model_copy(update={"task": task})
    return front, model


async def asked(task: str, body: Any, path: str = "/hf/m") -> Any:
    front, model = house(task)
    answer = await front.post(path, body)
    assert answer.status_code == 200, answer.text
    return answer.json(), model.seen


# ---- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "one"),
    [
        ("text-classification", [LABELS]),
        ("token-classification", [{"entity_group": "PER", **FOUND}]),
        ("fill-mask", [FILLING]),
        ("summarization", [{"summary_text": "short"}]),
        ("translation", [{"translation_text": "kurz"}]),
    ],
)
async def test_a_text_and_a_list_of_texts(task: str, one: Any) -> None:
    single = one[0] if task in ("text-classification", "summarization", "translation") else one
    assert await asked(task, PLAIN) == (one, [{"text": "a fox"}])
    assert await asked(task, PLAIN, "/hf/m/") == (one, [{"text": "a fox"}])
    assert await asked(task, {"inputs": ["a", "b"]}) == ([single, single], [{"text": "a"}, {"text": "b"}])
    assert (await asked(task, {"inputs": ["a"]}))[0] == [single]


async def test_labels_of_the_callers_own() -> None:
    parameters = {"candidate_labels": ["A", "B"], "multi_label": True, "hypothesis_template": None}
    body = {**PLAIN, "parameters": parameters, "options": {"wait_for_model": True, "use_cache": False}}
    answer, seen = await asked("zero-shot-classification", body)
    assert answer == LABELS
    assert seen == [{"text": "a fox", "candidate_labels": ["A", "B"], "multi_label": True}]


async def test_two_texts_are_an_object() -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert await asked("text-classification", {"inputs": pair}) == ([LABELS], [pair])
    assert await asked("text-classification", {"inputs": [pair, "c"]}) == ([LABELS, LABELS], [pair, {"text": "c"}])


@pytest.mark.parametrize(("parameters", "single"), [({}, True), ({"top_k": 1}, True), ({"top_k": 2}, False)])
async def test_one_answer_stands_by_itself(parameters: dict[str, Any], single: bool) -> None:
    answer, seen = await asked("question-answering", {"inputs": QUESTION, "parameters": parameters})
    assert answer == (ANSWER if single else [ANSWER])
    assert seen == [QUESTION | parameters]
    both, _ = await asked("question-answering", {"inputs": [QUESTION, QUESTION], "parameters": parameters})
    assert both == [answer, answer]


async def test_tokens_have_their_place_and_groups_have_none() -> None:
    front, _ = house("token-classification", Model({"entities": [{"label": "B-PER", "index": 1, **FOUND}]}))
    answer = await front.post("/hf/m", {**PLAIN, "parameters": {"aggregation_strategy": "none"}})
    assert answer.json() == [{"entity": "B-PER", "index": 1, **FOUND}]


async def test_several_masks_are_lists_of_their_own() -> None:
    front, _ = house("fill-mask", Model({"masks": [[FILLING], [FILLING]]}))
    assert (await front.post("/hf/m", PLAIN)).json() == [[FILLING], [FILLING]]


@pytest.mark.parametrize(
    ("parameters", "plain"),
    [
        ({"truncation": "only_first"}, {"truncate": True}),
        ({"truncation": "do_not_truncate"}, {"truncate": False}),
        ({"truncation": True}, {"truncate": True}),
        ({"clean_up_tokenization_spaces": True}, {"clean_up_tokenization_spaces": True}),
        ({"generate_parameters": {}}, {"decoding": {}}),
        ({"generate_parameters": {"num_beams": 3, "do_sample": False}}, {"decoding": {"num_beams": 3}}),
        (
            {"generate_parameters": {"max_length": 9, "min_length": 1}},
            {"decoding": {"max_new_tokens": 8, "min_new_tokens": 0}},
        ),
        ({"src_lang": "en", "tgt_lang": "fr"}, {"src_lang": "en", "tgt_lang": "fr"}),
    ],
)
async def test_what_new_text_is_made_with(parameters: dict[str, Any], plain: dict[str, Any]) -> None:
    _, seen = await asked("translation", {**PLAIN, "parameters": parameters})
    assert seen == [{"text": "a fox", **plain}]


# ---- vectors -----------------------------------------------------------------------------------------------------------


async def test_vectors() -> None:
    assert await asked("embed", {"inputs": "a"}) == ([3.0, 4.0], [{"text": "a"}])
    assert (await asked("embed", {"inputs": ["a"]}))[0] == [[3.0, 4.0]]
    body = {"inputs": ["a", "b"], "normalize": False, "truncate": True, "truncation_direction": "left"}
    answer, seen = await asked("embed", body)
    assert answer == [[3.0, 4.0], [4.0, 3.0]]
    more = {"normalize": False, "truncate": True, "truncation_direction": "left"}
    assert seen == [{"text": "a", **more}, {"text": "b", **more}]
    _, seen = await asked("embed", {"inputs": "a", "parameters": {"dimensions": 1}, "encoding_format": "float"})
    assert seen == [{"text": "a", "dimensions": 1}]


async def test_how_near_sentences_are() -> None:
    inputs = {"source_sentence": "a", "sentences": ["b", "a", "z"]}
    assert (await asked("embed", {"inputs": inputs}))[0] == pytest.approx([0.96, 1.0, 0.0])


# ---- text --------------------------------------------------------------------------------------------------------------


def writer() -> Front:
    async def whole(input_data: Any, call: CallContext) -> Any:
        if input_data.get("prompt") == "long":
            raise ContextTooLong(param="prompt")
        return {"text": "ab", "finish_reason": "length", "usage": USAGE}

    async def pieces(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield [{"text": "a", "finish_reason": None, "usage": None}]
        if "broken" in str(input_data):
            raise Overloaded()
        yield [{"text": "b", "finish_reason": "length", "usage": USAGE}]

    front = Front()
    front.add("m", ScriptedClient(whole, pieces), kind="generate")
    return front


async def test_text_is_what_tgi_makes_of_it() -> None:
    front = writer()
    body = {**PLAIN, "parameters": {"max_new_tokens": 2}, "stream": False}
    answer = await front.post("/hf/m", {**body, "options": {"wait_for_model": True}})
    assert (answer.status_code, answer.json()) == (200, [{"generated_text": "ab"}])
    assert answer.json() == (await front.post("/tgi/m", body)).json()
    streamed = (await front.post("/hf/m", {**body, "stream": True})).text
    assert streamed == (await front.post("/tgi/m", {**body, "stream": True})).text
    assert '"generated_text":"ab"' in streamed
    broken = (await front.post("/hf/m", {"inputs": "broken", "stream": True})).text
    assert broken.endswith('data: {"error":"overloaded, try again later","error_type":"overloaded"}\n\n')


async def test_conversations_are_those_of_openai() -> None:
    body = {"model": "dummy", "messages": [{"role": "user", "content": "a"}]}
    front = writer()
    answer = (await front.post("/hf/m/v1/chat/completions", body)).json()
    assert (answer["object"], answer["choices"][0]["message"]["content"]) == ("chat.completion", "ab")
    wrong = await front.post("/hf/m/v1/chat/completions", {**body, "messages": []})
    assert (wrong.status_code, set(wrong.json())) == (400, {"error", "error_type"})
    assert isinstance(wrong.json()["error"], str)


# ---- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "body", "message"),
    [
        ("text-classification", [], "the body must be a JSON object"),
        ("text-classification", {}, "inputs: Field required"),
        ("text-classification", {**PLAIN, "input": 1}, "the body has an unknown field 'input'"),
        ("text-classification", {**PLAIN, "stream": True}, "only generated text comes as a stream"),
        ("text-classification", {**PLAIN, "stream": 1}, "stream must be true or false"),
        ("text-classification", {**PLAIN, "options": {"fast": True}}, "the option 'fast' is not supported"),
        ("text-classification", {**PLAIN, "options": {"use_cache": 1}}, "use_cache must be true or false"),
        ("text-classification", {**PLAIN, "options": []}, "options must be a JSON object"),
        ("text-classification", {**PLAIN, "parameters": []}, "parameters must be a JSON object"),
        ("text-classification", {**PLAIN, "parameters": {"text": "b"}}, "the parameter 'text' is not supported"),
        ("text-classification", {**PLAIN, "parameters": {"truncate": True}}, "the parameter 'truncate' is not supp"),
        (
            "text-classification",
            {"inputs": 1},
            "inputs must be a string or an object of the strings text and text_pair",
        ),
        ("text-classification", {"inputs": {"text": 1}}, "inputs must be a string or an object"),
        ("text-classification", {"inputs": {"text": "a", "x": 1}}, "inputs have an unknown field 'x'"),
        ("text-classification", {"inputs": []}, "inputs: 1 to 1024 are taken at once"),
        ("question-answering", {"inputs": "a"}, "inputs must be an object of the strings question and context"),
        ("question-answering", {"inputs": {"question": "a"}}, "inputs must be an object"),
        ("summarization", {**PLAIN, "parameters": {"truncation": "only_second"}}, "truncation must be true, false, or"),
        ("summarization", {**PLAIN, "parameters": {"truncation": 1}}, "truncation must be true, false, or"),
        ("summarization", {**PLAIN, "parameters": {"src_lang": "en"}}, "the parameter 'src_lang' is not supported"),
        (
            "summarization",
            {**PLAIN, "parameters": {"generate_parameters": {"do_sample": True}}},
            "generate_parameters: 'do_sample' is not supported",
        ),
        (
            "summarization",
            {**PLAIN, "parameters": {"generate_parameters": {"max_length": 0}}},
            "generate_parameters: max_length must be a positive number",
        ),
        (
            "summarization",
            {**PLAIN, "parameters": {"generate_parameters": {"max_length": 5, "max_new_tokens": 5}}},
            "say the same",
        ),
        ("embed", {"inputs": "a", "parameters": {"pooling": "cls"}}, "the parameter 'pooling' is not supported"),
        ("embed", {"inputs": "a", "tokens": [1]}, "the body has an unknown field 'tokens'"),
        ("embed", {"inputs": "a", "encoding_format": "base64"}, "vectors are given as numbers only"),
        ("embed", {"inputs": ["a", 1]}, "inputs must be a string, a list of strings"),
        ("embed", {"inputs": {"source_sentence": "a"}}, "sentences to compare are"),
        ("embed", {"inputs": {"source_sentence": "a", "sentences": []}}, "sentences must be a list of strings"),
        ("video-classification", PLAIN, "which this protocol has no words for"),
    ],
)
async def test_what_is_refused(task: str, body: Any, message: str) -> None:
    front, model = house(task)
    answer = await front.post("/hf/m", body)
    assert (answer.status_code, answer.json()["error_type"]) == (400, "validation")
    assert message in answer.json()["error"]
    assert not model.seen


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (InvalidInput("decoding.num_beams: no"), 400, {"error": "generate_parameters.num_beams: no"}),
        (ContextTooLong(), 400, {"error": "context length exceeded"}),
        (Overloaded(), 503, {"error": "overloaded, try again later", "error_type": "overloaded"}),
        (NotReady(retry_after_s=4.0), 503, {"error": "not ready", "error_type": "overloaded", "estimated_time": 4.0}),
        (WorkflowError("what is inside"), 500, {"error": "internal error", "error_type": "generation"}),
    ],
)
async def test_what_goes_wrong_there(error: WorkflowError, status: int, body: dict[str, Any]) -> None:
    expected = {"error_type": "validation", **body}
    front, _ = house("text-classification", Model(OUTPUTS["text-classification"], {"bad": error}))
    alone = await front.post("/hf/m", {"inputs": "bad"})
    assert (alone.status_code, alone.json()) == (status, expected)
    among = await front.post("/hf/m", {"inputs": ["good", "bad"]})
    whose = "input 1: " if isinstance(error, InvalidInput) else ""
    assert (among.status_code, among.json()) == (status, {**expected, "error": whose + expected["error"]})


async def test_what_is_not_there_and_what_answers_otherwise() -> None:
    front, _ = house("text-classification", Model({"classes": []}))
    for path, status in (("/hf/n", 404), ("/hf/m/n", 404), ("/hf/m", 500)):
        answer = await front.post(path, PLAIN)
        assert (answer.status_code, set(answer.json())) == (status, {"error", "error_type"}), path
    front.add("odd")
    assert "takes json inputs" in (await front.post("/hf/odd", PLAIN)).json()["error"]
    assert front.lines.last["protocol"] == "hugging_face"


# ---- the description ---------------------------------------------------------------------------------------------------


async def test_requests_and_answers_are_as_described() -> None:
    spec = (await Front().get("/openapi.json")).json()

    def fits(name: str, value: Any) -> bool:
        schema = {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
        return bool(Draft202012Validator(schema).is_valid(value))

    bodies: dict[str, Any] = dict.fromkeys(OUTPUTS, PLAIN)
    bodies["zero-shot-classification"] = {**PLAIN, "parameters": {"candidate_labels": ["A"]}}
    bodies["question-answering"] = {"inputs": QUESTION, "parameters": {"top_k": 2}, "options": {"use_cache": True}}
    bodies["embed"] = {"inputs": ["a", "b"], "normalize": True}
    bodies["translation"] = {
        **PLAIN,
        "parameters": {"truncation": "only_first", "generate_parameters": {"num_beams": 2}},
    }
    for task, body in bodies.items():
        assert fits("HfRequest", body), task
        assert fits("HfAnswer", (await asked(task, body))[0]), task
        assert not fits("HfRequest", {**body, "other": 1})
        assert not fits("HfRequest", {**body, "parameters": {"other": 1}})
    assert not fits("HfQuestionAnsweringRequest", PLAIN)
    assert not fits("HfZeroShotClassificationRequest", PLAIN)
    assert fits("HfRequest", {**PLAIN, "stream": True, "parameters": {"max_new_tokens": 3}})
    assert fits("HuggingFaceError", (await Front().post("/hf/none", PLAIN)).json())
