"""Chat completions through the whole app: what the workflow is asked, and what the official client's types make of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from deployments.config import RouterArgs
from deployments.router.asking import Workflows
from deployments.router.edge import Edge
from deployments.router.keys import Keys, mint_key
from deployments.router.metrics import Metrics
from deployments.router.protocols.openai.chat import chat_completions
from deployments.router.protocols.openai.generation import FINGERPRINT
from deployments.router.protocols.tables import NATIVE
from deployments.router.request import Protocol, Reply, Request, Route
from tests.router.openai_house import CHAT, House, events, exact, token
from tests.router.router_front import ScriptedClient
from workflows.context import CallContext

HELLO = {"model": "gpt", "messages": [{"role": "user", "content": "a b"}]}


async def test_a_whole_answer() -> None:
    house = House()
    before = int(time.time())
    answer = await house.post(CHAT, {**HELLO, "model": "org/gpt"}, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine"
    body = answer.json()
    exact(ChatCompletion, body)
    assert body.pop("id").startswith("chatcmpl-mine.")
    assert before <= body.pop("created") <= time.time()
    assert body == {
        "object": "chat.completion",
        "model": "org/gpt",
        "system_fingerprint": FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }
    assert house.seen == [{"messages": HELLO["messages"], "sampling": {"max_tokens": None}}]
    assert (house.lines.last["workflow"], house.lines.last["code"]) == ("gpt", "ok")


async def test_a_conversation_is_its_texts_with_the_roles_that_models_know() -> None:
    house = House()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two", "cache_control": {}}]
    before: dict[str, Any] = {
        "role": "assistant",
        "content": "c",
        "refusal": None,
        "tool_calls": [],
        "audio": None,
        "annotations": [],
    }
    messages = [
        {"role": "system", "content": "a", "name": "somebody"},
        {"role": "developer", "content": "b"},
        before,
        {"role": "tool", "content": "d", "tool_call_id": "x"},
        {"role": "user", "content": parts},
    ]
    assert (await house.post(CHAT, {**HELLO, "messages": messages})).status_code == 200
    assert house.seen[0]["messages"] == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "tool", "content": "d", "tool_call_id": "x"},
        {"role": "user", "content": "one two"},
    ]


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"max_tokens": None, "temperature": None, "stop": None, "seed": None, "n": None}, {"max_tokens": None}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"top_p": 0}, {"top_p": 2.2250738585072014e-308}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"seed": -1}, {"seed": (1 << 63) - 1}),
        ({"logit_bias": {"5": -100, "0": 1.5}}, {"logit_bias": {"5": -100, "0": 1.5}}),
        ({"presence_penalty": 1, "frequency_penalty": -2}, {"presence_penalty": 1, "frequency_penalty": -2}),
        ({"top_k": 3, "min_p": 0.1, "typical_p": 0.9}, {"top_k": 3, "min_p": 0.1, "typical_p": 0.9}),
        ({"top_k": -1}, {}),
        ({"top_k": 0}, {}),
        ({"repetition_penalty": 1.2, "min_tokens": 2}, {"repetition_penalty": 1.2, "min_tokens": 2}),
    ],
    ids=str,
)
async def test_how_tokens_are_chosen(fields: dict[str, Any], sampling: dict[str, Any]) -> None:
    house = House()
    assert (await house.post(CHAT, {**HELLO, **fields})).status_code == 200
    assert house.seen[0]["sampling"] == {"max_tokens": None, **sampling}


async def test_what_is_said_beside_the_sampling() -> None:
    house = House()
    await house.post(CHAT, {**HELLO, "include_stop_str_in_output": True, "truncate_prompt_tokens": 5, "logprobs": True})
    said = {key: value for key, value in house.seen[0].items() if key not in {"messages", "sampling"}}
    assert said == {"include_stop": True, "truncate": 5, "top_logprobs": 0}


async def test_several_answers_have_seeds_of_their_own_and_the_prompt_counts_once() -> None:
    house = House()
    body = (await house.post(CHAT, {**HELLO, "n": 3, "seed": (1 << 63) - 2})).json()
    exact(ChatCompletion, body)
    last = (1 << 63) - 1
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert texts == [f"a{seed}b{seed}" for seed in (last - 1, last, 0)]
    assert body["usage"]["prompt_tokens"] == 2
    assert body["usage"]["completion_tokens"] == 9
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert len({call.request_id for call in house.gpt.calls}) == 3


async def test_tokens_with_their_logprobs() -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        usage = {"prompt_tokens": 1, "completion_tokens": 4}
        tokens = [
            token("é", -0.25, ("é", -0.25), ("\ufffd", -2.0)),
            token("\ufffd", float("-inf")),
            token("</s>", -0.1, special=True),
        ]
        return {"text": "é", "finish_reason": "length", "usage": usage, "tokens": tokens}

    house = House()
    house.add("gpt", ScriptedClient(whole), kind="generate")
    body = (await house.post(CHAT, {**HELLO, "logprobs": True, "top_logprobs": 2})).json()
    exact(ChatCompletion, body)
    assert body["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "é",
                "logprob": -0.25,
                "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.25, "bytes": [195, 169]},
                    {"token": "\ufffd", "logprob": -2.0, "bytes": None},
                ],
            },
            {"token": "\ufffd", "logprob": -9999.0, "bytes": None, "top_logprobs": []},
        ],
        "refusal": None,
    }


async def test_tokens_that_are_known_from_before_and_tokens_that_are_not_shown() -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        seed = input_data["sampling"]["seed"]
        usage = {"prompt_tokens": 5, "completion_tokens": 9, "cached_tokens": seed, "reasoning_tokens": seed}
        return {"text": "a", "finish_reason": "stop", "usage": usage}

    house = House()
    house.add("thinker", ScriptedClient(whole), kind="generate")
    body = (await house.post(CHAT, {**HELLO, "model": "thinker", "n": 3, "seed": 1})).json()
    exact(ChatCompletion, body)
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 27,
        "total_tokens": 32,
        "prompt_tokens_details": {"cached_tokens": 1},  # of the first answer: the others find what it has read
        "completion_tokens_details": {"reasoning_tokens": 1 + 2 + 3},
    }
    usage = (await house.post(CHAT, {**HELLO, "model": "thinker", "seed": 0})).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_conversation_keeps_its_name_within_one_key() -> None:
    (alice, first), (bob, second) = mint_key("alice"), mint_key("bob")
    house = House(Keys([first, second]))

    async def session(secret: str, headers: dict[str, str] | None = None, **fields: Any) -> str | None:
        headers = {"authorization": f"Bearer {secret}", **(headers or {})}
        assert (await house.post(CHAT, {**HELLO, **fields}, headers=headers)).status_code == 200
        return house.gpt.calls[-1].session_id

    named = await session(alice, prompt_cache_key="é" * 1024)
    assert named is not None
    assert len(named) == 32
    assert named == await session(alice, prompt_cache_key="é" * 1024, user="u")
    assert named != await session(bob, prompt_cache_key="é" * 1024)
    of_user = await session(alice, user="somebody@example.com")
    assert of_user not in (None, named)
    assert "somebody" not in str(of_user)
    assert await session(alice) is None
    assert await session(alice, {"x-conversation-id": "c-1"}, user="u") == "c-1"


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("text", "non_finite_output"),
        ({"text": 1}, "non_finite_output"),
        ({"text": "a", "finish_reason": "stop"}, "non_finite_output"),
        ({"text": "a", "finish_reason": "stop", "usage": {}}, "internal_error"),
    ],
    ids=str,
)
async def test_what_is_no_text_is_our_fault(output: Any, code: str) -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        return output

    house = House()
    house.add("gpt", ScriptedClient(whole), kind="generate")
    answer = await house.post(CHAT, HELLO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, code)


# ---- for other protocols ---------------------------------------------------------------------------------------------------


def elsewhere(house: House) -> House:
    """The same answers at a path that names the workflow, in a protocol with errors of its own."""
    workflows = Workflows(house.directory, Metrics())

    async def chat(request: Request) -> Reply | None:
        body = await request.json()
        return await chat_completions(workflows, request, body, workflows.find(request, request.params[0]))

    mine = Protocol("mine", "/mine", NATIVE)
    route = Route("POST", "/mine/{name}/chat", chat, mine, body="json")
    house.app = Edge([route], [mine], RouterArgs(), Keys(), Metrics(), house.lines)
    return house


@pytest.mark.parametrize(("model", "told"), [({"model": "https://a/b"}, "https://a/b"), ({}, "gpt")])
async def test_a_path_may_name_the_workflow(model: dict[str, str], told: str) -> None:
    house = elsewhere(House())
    body = {"messages": HELLO["messages"], **model}
    answer = (await house.post("/mine/gpt/chat", body)).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == (told, "ab")
    streamed = await house.post("/mine/gpt/chat", {**body, "stream": True})
    assert {event["model"] for event in events(streamed.text)} == {told}


async def test_errors_are_those_of_the_other_protocol() -> None:
    house = elsewhere(House())
    answer = await house.post("/mine/gpt/chat", {"messages": []})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
    assert (await house.post("/mine/vectors/chat", HELLO)).json()["error"]["code"] == "invalid"
    late = await house.post("/mine/gpt/chat", {"messages": [{"role": "user", "content": "a break"}], "stream": True})
    *_, last, nothing = late.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "overload"
    assert nothing == ""
