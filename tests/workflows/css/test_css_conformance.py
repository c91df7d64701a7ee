"""The conformance kit over an upstream that answers with what it was asked: one life, two lives, on other threads."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.workflows.css.dialects import DONE, chat_events
from tests.workflows.remote.faulty_upstream import Exchange, FaultyUpstream, answer, parts
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.side_loop import SideLoop
from workflows.testing import check_workflow


async def repeats(exchange: Exchange) -> None:
    """Says the last message again, word by word if that is asked for; of a text, how often each letter is in it."""
    asked = exchange.asked.json()
    if "input" in asked:
        vector = np.bincount(np.frombuffer(asked["input"].encode(), np.uint8), minlength=256).astype(float)
        told = {"data": [{"embedding": vector.tolist()}], "usage": {"prompt_tokens": len(asked["input"])}}
        await answer(200, told)(exchange)
        return
    text = asked["messages"][-1]["content"]
    usage = {"prompt_tokens": len(text), "completion_tokens": len(text)}
    if asked.get("stream"):
        await parts([*chat_events(text.split(" "), usage), DONE])(exchange)
    else:
        message = {"content": text.replace(" ", "")}
        told = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        await answer(200, json.dumps(told).encode())(exchange)


@pytest.fixture
def url() -> Iterator[str]:
    side = SideLoop()
    upstream = FaultyUpstream()
    upstream.plays(repeats)
    side.call(upstream.__aenter__)
    yield upstream.url
    side.call(upstream.__aexit__, None, None, None)
    side.close()


def test_chat(url: str) -> None:
    made = CSSInferenceWorkflow("openai-compatible", "m", base_url=url)
    check_workflow(made, {"prompt": "one two three"}, more=[{"messages": [{"role": "user", "content": "four"}]}])


def test_embeddings(url: str) -> None:
    made = CSSInferenceWorkflow("openai-compatible", "m", base_url=url, endpoint="embeddings")
    check_workflow(made, {"text": "one two three"}, more=[{"text": "four"}])
