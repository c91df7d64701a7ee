"""What OpenAI's clients may not ask: refused by one error that names the field, before any workflow is asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from deployments.router.keys import Keys, mint_key
from deployments.router.protocols.openai.requests import CHAT_REFUSED, COMPLETION_REFUSED
from tests.router.openai_house import CHAT, EMBED, TEXT, House
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import ContextTooLong, InvalidInput, Unsupported

USER = {"role": "user", "content": "a"}
CALLED = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": "gpt", "messages": [USER]},
    TEXT: {"model": "gpt", "prompt": "a"},
    EMBED: {"model": "vectors", "input": "a"},
}
BOTH = [CHAT, TEXT]


async def refusal(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The error; nobody was asked."""
    house = House()
    answer = await house.post(path, {**ASKED[path], **fields})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32
    assert not house.seen
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_value")
    assert error["message"].startswith(error["param"])
    assert len(error["message"]) < 200
    return error


NUMBERS: list[tuple[str, list[Any]]] = [
    ("temperature", ["hot", True, -1, 2.1, [], {}]),
    ("top_p", [-0.1, 1.1, "1"]),
    ("n", [0, -1, 129, 1 << 70, 1.5, True, "2"]),
    ("seed", [1 << 63, -(1 << 63) - 1, 0.5, "1"]),
    ("max_tokens", [0, -1, 1.5, True, "5", (1 << 20) + 1, 1 << 63, []]),
    ("presence_penalty", [2.1, -2.1, "x"]),
    ("frequency_penalty", [2.1, -2.1, "x"]),
    ("top_k", [-2, 1.5, "x", True, False, -1.0]),
    ("min_p", [-1, 2]),
    ("typical_p", [0, 2]),
    ("repetition_penalty", [0, -1, "x"]),
    ("min_tokens", [-1, 1.5]),
    ("truncate_prompt_tokens", [0, -1, "x"]),
    ("stream", ["yes", 1, []]),
    ("stream_options", [True, [], "x"]),
    ("user", [1, [], "x" * 1025]),
    ("prompt_cache_key", [1, "x" * 1025]),
    ("include_stop_str_in_output", [1, "x"]),
    ("logit_bias", [[], "x", {"5": 101}, {"5": "x"}, {"x": 1}, {"-1": 1}, {"05": 1}]),
    ("logit_bias", [{str(index): 1 for index in range(1025)}]),
    ("stop", [1, [1], "", [""], ["x"] * 17, "x" * 257, {}]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NUMBERS for value in values])
async def test_values_out_of_range_or_of_another_type(name: str, value: Any) -> None:
    for path in BOTH:
        error = await refusal(path, {name: value})
        assert error["param"].split(".")[0] == name


REFUSED: dict[str, Any] = {
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "response_format": {"type": "json_object"},
    "service_tier": "flex",
    "reasoning_effort": "low",
    "verbosity": "low",
    "store": True,
    "suffix": "x",
    "length_penalty": 0.5,
    "skip_special_tokens": False,
    "stop_token_ids": [1],
    "add_generation_prompt": False,
    "priority": False,
}


@pytest.mark.parametrize(
    ("path", "name"), [(CHAT, name) for name in CHAT_REFUSED] + [(TEXT, name) for name in COMPLETION_REFUSED]
)
async def test_what_is_known_and_not_supported(path: str, name: str) -> None:
    error = await refusal(path, {name: REFUSED.get(name, {"x": 1})})
    assert (error["param"], error["message"]) == (name, f"{name}: this is not supported here")


@pytest.mark.parametrize(("path", "refused"), [(CHAT, CHAT_REFUSED), (TEXT, COMPLETION_REFUSED)])
async def test_values_that_change_nothing_are_taken_and_so_is_what_nobody_knows(path: str, refused: Any) -> None:
    house = House()
    neutral: dict[str, Any] = {name: values[0] if values else None for name, values in refused.items()}
    known = {"metadata": {"__class__": "x"}, "parallel_tool_calls": True, "safety_identifier": "x", "user": "u"}
    unknown: dict[str, Any] = {"nobody": {"knows": ["this"]}, "__proto__": {}, "x" * 5000: 1}
    answer = await house.post(path, {**ASKED[path], **neutral, **known, **unknown})
    assert answer.status_code == 200, answer.text
    assert len(house.seen) == 1


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (None, "messages"),
        ("a", "messages"),
        ([USER] * 2049, "messages"),
        (["a"], "messages.0"),
        ([USER, {}], "messages.1.role"),
        ([{**USER, "role": "nobody"}], "messages.0.role"),
        ([{**USER, "role": "function"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([USER, {"role": "assistant", "content": None}], "messages.1.content"),
        ([{**USER, "content": 1}], "messages.0.content"),
        ([{**USER, "content": []}], "messages.0.content"),
        ([{**USER, "content": ["a"]}], "messages.0.content"),
        ([{**USER, "content": [{"type": "text", "text": "a"}] * 257}], "messages.0.content"),
        ([{**USER, "content": [{"type": "text"}]}], "messages.0.content"),
        ([{**USER, "content": [{"type": "text", "text": 1}]}], "messages.0.content"),
        ([{**USER, "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}], "messages.0.content"),
        ([{**USER, "content": [{"type": "input_audio", "input_audio": {}}]}], "messages.0.content"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}], "messages.0.tool_calls.0.type"),
        ([{**USER, "tool_calls": [CALLED]}], "messages.0"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "messages.0.content"),
        ([{"role": "tool", "content": "a"}], "messages.0"),
        ([{"role": "assistant", "content": "a", "refusal": "no"}], "messages.0"),
    ],
    ids=str,
)
async def test_conversations_that_are_none(messages: Any, param: str) -> None:
    assert (await refusal(CHAT, {"messages": messages}))["param"] == param


async def test_no_class_is_named() -> None:
    for fields in ({"messages": ["a"]}, {"response_format": "json_object"}, {"stream_options": True}, {"tools": [1]}):
        error = await refusal(CHAT, fields)
        assert error["message"] == f"{error['param']}: an object is needed"


NO_SOURCES: list[Any] = [
    None,
    1,
    [],
    [[]],
    [None],
    ["a", 1],
    [1, "a"],
    [True],
    [-1],
    [1 << 31],
    [1.5],
    [["a"]],
    [[1], 2],
]


@pytest.mark.parametrize(("path", "name"), [(TEXT, "prompt"), (EMBED, "input")])
@pytest.mark.parametrize("value", NO_SOURCES, ids=str)
async def test_sources_that_are_none(path: str, name: str, value: Any) -> None:
    assert (await refusal(path, {name: value}))["param"] == name


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": False, "top_logprobs": 0}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logprobs": 1}, "logprobs"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (CHAT, {"model": "slow", "stream": True}, "stream"),
        (TEXT, {"logprobs": 21}, "logprobs"),
        (TEXT, {"logprobs": True}, "logprobs"),
        (TEXT, {"echo": True, "logprobs": 0}, "echo"),
        (TEXT, {"best_of": 2}, "best_of"),
        (TEXT, {"best_of": 1, "n": 2}, "best_of"),
        (TEXT, {"best_of": 0}, "best_of"),
        (TEXT, {"prompt": ["a"] * 1025}, "prompt"),
        (EMBED, {"input": ["a"] * 1025}, "input"),
        (EMBED, {"encoding_format": "int8"}, "encoding_format"),
        (EMBED, {"dimensions": 0}, "dimensions"),
        (EMBED, {"user": 1}, "user"),
        (EMBED, {"input_type": "query"}, "input_type"),
    ],
    ids=str,
)
async def test_fields_that_do_not_go_together_or_this_far(path: str, fields: dict[str, Any], param: str) -> None:
    assert (await refusal(path, fields))["param"] == param


async def test_prompts_and_answers_together_are_no_more_than_a_batch_may_hold() -> None:
    house = House(limits={"max_batch_items": 7})
    body = {"model": "gpt", "prompt": ["a", "b"], "n": 4}
    error = (await house.post(TEXT, body)).json()["error"]
    assert (error["param"], error["message"]) == ("n", "n: no more than 7 answers in one request")
    assert (await house.post(TEXT, {**body, "n": 3})).status_code == 200


@pytest.mark.parametrize(("more", "param"), [({"prompt": ["a"] * 5}, "prompt"), ({"n": 5}, "n")])
async def test_a_stream_has_no_more_answers_than_the_replicas_run(more: dict[str, Any], param: str) -> None:
    house = House()
    entry = house.directory.find("gpt")
    assert entry.card is not None
    entry.card, entry.replicas = entry.card.model_copy(update={"max_streams": 2}), 2
    body = {"model": "gpt", "prompt": ["a"] * 4, "stream": True}
    assert (await house.post(TEXT, body)).status_code == 200
    error = (await house.post(TEXT, {**body, "prompt": "a", **more})).json()["error"]
    assert (error["param"], error["message"]) == (param, f"{param}: no more than 4 answers in one stream")
    assert (await house.post(TEXT, {"model": "gpt", "prompt": "a", **more})).status_code == 200


@pytest.mark.parametrize(("path", "name"), [(TEXT, "prompt"), (EMBED, "input")])
async def test_after_the_first_error_the_other_answers_are_given_up(path: str, name: str) -> None:
    house = House()
    left: list[str] = []

    async def answer(input_data: Any, call: CallContext) -> Any:
        text = input_data.get("prompt") or input_data["text"]
        if text == "long":
            raise ContextTooLong("context length exceeded: 9 tokens, and 8 fit", param=name)
        try:
            await asyncio.Event().wait()
        finally:
            left.append(text)

    house.add("waits", ScriptedClient(answer), kind="generate" if path == TEXT else "embed")
    answered = await house.post(path, {"model": "waits", name: ["long", "a", "b"]})
    assert (answered.status_code, answered.json()["error"]["param"]) == (400, name)
    assert left == ["a"]  # and nobody has begun with the last one


async def test_biases_are_bounded_over_all_answers_of_a_request() -> None:
    house = House()
    body = {"model": "gpt", "prompt": ["a"] * 64, "logit_bias": {f"{token}": 1 for token in range(1024)}}
    assert (await house.post(TEXT, body)).status_code == 200
    for more in ({"prompt": ["a"] * 65}, {"n": 2}):
        error = (await house.post(TEXT, {**body, **more})).json()["error"]
        assert (error["param"], error["message"]) == (
            "logit_bias",
            "logit_bias: no more than 65536 for all answers of one request",
        )


@pytest.mark.parametrize(("path", "name"), [(TEXT, "prompt"), (EMBED, "input")])
@pytest.mark.parametrize("member", ["a", [1]])
async def test_of_too_many_texts_none_is_looked_at(path: str, name: str, member: Any) -> None:
    error = await refusal(path, {name: [*[member] * 1024, None]})
    assert (error["param"], error["message"]) == (name, f"{name}: no more than 1024 in one request")


async def test_a_large_request_has_few_answers() -> None:
    house = House(limits={"max_body_bytes": 3000})
    for path, text in ((CHAT, {"messages": [{"role": "user", "content": "a" * 1000}]}), (TEXT, {"prompt": "a" * 1000})):
        body = {"model": "gpt", **text}
        assert (await house.post(path, {**body, "n": 2})).status_code == 200
        error = (await house.post(path, {**body, "n": 3})).json()["error"]
        assert (error["param"], error["message"]) == ("n", "n: too many answers for a request of this size")


# ---- bodies and models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model":NaN}', "invalid_json"),
        (b'{"model":"\\ud800"}', "invalid_json"),
        (b"null", "invalid_value"),
        (b"[]", "invalid_value"),
        (b'"x"', "invalid_value"),
        (b"[" * 100, "invalid_json"),
    ],
)
async def test_bodies_that_are_no_requests(path: str, body: bytes, code: str) -> None:
    answer = await House().post(path, body)
    assert answer.status_code == 400
    assert answer.json()["error"] == {**answer.json()["error"], "type": "invalid_request_error", "code": code}


@pytest.mark.parametrize("path", ASKED)
async def test_models_that_do_not_exist_or_are_of_another_kind(path: str) -> None:
    secret, key = mint_key("alice", workflows=["tensors", "new"])
    house = House(Keys([key]))
    house.add("new", with_card=False, state="loading")

    async def error(**fields: Any) -> tuple[int, dict[str, Any]]:
        answer = await house.post(path, {**ASKED[path], **fields}, headers={"x-api-key": secret})
        return answer.status_code, answer.json()["error"]

    nowhere = (
        404,
        {"message": "model not found", "type": "invalid_request_error", "param": "model", "code": "model_not_found"},
    )
    assert await error(model="none") == nowhere
    assert await error() == nowhere  # there is one, but not for this key
    status, said = await error(model="tensors")
    assert (status, said["param"], said["code"]) == (400, "model", "invalid_value")
    assert said["message"].startswith("model: this model takes tensors inputs")
    status, said = await error(model="new")
    assert (status, said["type"], said["code"]) == (503, "server_error", "model_loading")
    for model in (None, 1, "x" * 1025):
        status, said = await error(model=model)
        assert (status, said["param"], said["code"]) == (400, "model", "invalid_value")


async def test_a_prompt_that_is_too_long() -> None:
    house = House()
    for path, fields, param, whose in (
        (CHAT, {"messages": [{"role": "user", "content": "long"}]}, "prompt", ""),
        (CHAT, {"messages": [{"role": "user", "content": "long"}], "n": 2}, "prompt", ""),
        (TEXT, {"prompt": "long"}, "prompt", ""),
        (TEXT, {"prompt": ["a", "long"], "n": 2}, "prompt", "prompt 1: "),
        (TEXT, {"prompt": "long", "stream": True}, "prompt", ""),
        (EMBED, {"input": "long"}, "input", ""),
        (EMBED, {"input": ["a", "b", "long"]}, "input", "input 2: "),
    ):
        answer = await house.post(path, {**ASKED[path], **fields})
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "message": f"{whose}this model's maximum context length is exceeded: 9 tokens, and 8 fit",
            "type": "invalid_request_error",
            "param": param,
            "code": "context_length_exceeded",
        }


@pytest.mark.parametrize(
    ("error", "param", "message"),
    [
        (Unsupported("sampling.top_k: not here", param="sampling.top_k"), "top_k", "top_k: not here"),
        (Unsupported("this model draws nothing", param="sampling.seed"), "seed", "this model draws nothing"),
        (InvalidInput("top_logprobs: none", param="top_logprobs"), "logprobs", "logprobs: none"),
        (InvalidInput("tools.0: a reserved name", param="tools.0"), "tools.0", "tools.0: a reserved name"),
        (InvalidInput("not in this language"), None, "not in this language"),
        (
            InvalidInput("messages.1.content.2.image.data: no picture", param="messages.1.content.2.image.data"),
            "messages.1.content.2.image_url.url",
            "messages.1.content.2.image_url.url: no picture",
        ),
    ],
    ids=str,
)
async def test_what_a_workflow_refuses_is_called_as_its_caller_knows_it(
    error: InvalidInput, param: str | None, message: str
) -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        raise error

    house = House()
    house.add("strict", ScriptedClient(whole), kind="generate")
    answer = await house.post(CHAT, {**ASKED[CHAT], "model": "strict"})
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert (told["param"], told["message"]) == (param, message)


# ---- at the door -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "code"),
    [
        ("POST", "/v1/engines", 404, "invalid_request_error", "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "invalid_request_error", "method_not_allowed"),
        ("DELETE", "/v1/models/gpt", 405, "invalid_request_error", "method_not_allowed"),
    ],
)
async def test_urls_of_this_protocol(method: str, path: str, status: int, kind: str, code: str) -> None:
    answer = await House().request(method, path)
    assert answer.status_code == status
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == (kind, code)
    assert answer.json()["error"]["param"] is None


@pytest.mark.parametrize("path", ["/v1/workflows/m/none", "/v1/workflows/", "/none"])
async def test_other_urls_stay_native(path: str) -> None:
    assert set((await House().get(path)).json()["error"]) == {"code", "message", "request_id", "retryable"}


async def test_keys_and_media_types() -> None:
    _, key = mint_key("alice")
    answer = await House(Keys([key])).post(CHAT, ASKED[CHAT], headers={"authorization": "Bearer sk-wrong"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json() == {
        "error": {
            "message": "a valid API key is needed",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    form = await Front().post(CHAT, b"{}", headers={"content-type": "text/plain"})
    assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_what_was_sent_is_in_no_answer_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    house = House()
    for path, asked in ASKED.items():
        for fields in (
            {"temperature": "canary"},
            {"user": ["canary"]},
            {"prompt": ["canary", 1]},
            {"input": {"canary": 1}},
        ):
            answer = await house.post(path, {**asked, **fields, "logit_bias": {"canary": 1}})
            assert "canary" not in answer.text
    assert "canary" not in json.dumps(house.lines.texts) + caplog.text
