"""Text completions through the whole app: prompts of every form, in lists and with several answers each."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from deployments.router.protocols.openai.generation import FINGERPRINT
from tests.router.openai_house import TEXT, House, exact, token
from tests.router.router_front import ScriptedClient
from workflows.context import CallContext


async def test_a_whole_answer() -> None:
    house = House()
    body = (await house.post(TEXT, {"model": "gpt", "prompt": "a b"}, headers={"x-request-id": "mine"})).json()
    exact(Completion, body)
    assert body.pop("id").startswith("cmpl-mine.")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "text_completion",
        "model": "gpt",
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }
    assert house.seen == [{"prompt": "a b", "sampling": {"max_tokens": 16}}]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("", [{"prompt": ""}]),
        (["a"], [{"prompt": "a"}]),
        (["a", ""], [{"prompt": "a"}, {"prompt": ""}]),
        ([0, 7, (1 << 31) - 1], [{"prompt_tokens": [0, 7, (1 << 31) - 1]}]),
        ([[1], [2, 3]], [{"prompt_tokens": [1]}, {"prompt_tokens": [2, 3]}]),
    ],
    ids=str,
)
async def test_a_prompt_is_text_or_tokens_or_a_list_of_either(prompt: Any, asked: list[Any]) -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        seen.append({key: value for key, value in input_data.items() if key != "sampling"})
        return {"text": "x", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    seen: list[Any] = []
    house = House()
    house.add("gpt", ScriptedClient(whole), kind="generate")
    answer = await house.post(TEXT, {"model": "gpt", "prompt": prompt})
    assert answer.status_code == 200, answer.text
    assert seen == asked
    assert answer.json()["usage"] == {
        "prompt_tokens": len(asked),
        "completion_tokens": len(asked),
        "total_tokens": 2 * len(asked),
    }


async def test_of_every_prompt_so_many_answers() -> None:
    house = House()
    body = (await house.post(TEXT, {"model": "gpt", "prompt": ["a", "b c"], "n": 2, "best_of": 2, "seed": 5})).json()
    exact(Completion, body)
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "a5"),
        (1, "a6"),
        (2, "b5c5"),
        (3, "b6c6"),
    ]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 10,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_echo_and_logprobs_are_the_workflows_to_give() -> None:
    house = House()
    for fields in ({"echo": True}, {"logprobs": 5}, {"logprobs": 0}, {"echo": False}):
        assert (await house.post(TEXT, {"model": "gpt", "prompt": "a", "max_tokens": 1, **fields})).status_code == 200
    sampling = {"max_tokens": 1}
    assert house.seen == [
        {"prompt": "a", "echo": True, "sampling": sampling},
        {"prompt": "a", "top_logprobs": 5, "sampling": sampling},
        {"prompt": "a", "top_logprobs": 0, "sampling": sampling},
        {"prompt": "a", "sampling": sampling},
    ]


async def test_tokens_with_their_logprobs() -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        tokens = [
            token("éa", -0.25, ("éa", -0.25), ("x", -2.0), ("x", -3.0)),
            token("b", float("-inf"), ("x", -0.5)),
            token("</s>", -0.1, special=True),
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": 3}
        return {"text": "éab", "finish_reason": "stop", "usage": usage, "tokens": tokens}

    house = House()
    house.add("gpt", ScriptedClient(whole), kind="generate")
    body = (await house.post(TEXT, {"model": "gpt", "prompt": "a", "logprobs": 2})).json()
    exact(Completion, body)
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["éa", "b"],
        "token_logprobs": [-0.25, -9999.0],
        "top_logprobs": [{"éa": -0.25, "x": -2.0}, {"x": -0.5, "b": -9999.0}],
        "text_offset": [0, 2],
    }
