"""Tokens that a provider does not tell are counted to the token where its tokenizer is known, and estimated where not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from transformers import AutoTokenizer

import workflows.demo
from tests.workflows.css.dialects import DONE, chat_events
from tests.workflows.css.played import asked_for, chunks_of, ending
from workflows import TransformersTextGenerationWorkflow
from workflows.types.text import Generated, Usage

TOKENIZER: Final[dict[str, Any]] = {"tokenizer": "tiny_gpt", "root": "package:workflows.demo"}
TURNS: Final = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "What is a list? A naïve question, with ünïcode — and “quotes”."},
]
ASKED: Final[dict[str, Any]] = {"messages": TURNS, "sampling": {"temperature": 0.0, "max_tokens": 24}}


@pytest.fixture(scope="module")
def local() -> Iterator[TransformersTextGenerationWorkflow]:
    """The model itself, whose own count cannot be wrong."""
    made = TransformersTextGenerationWorkflow(model="tiny_gpt", root="package:workflows.demo", engine="thread")
    made.setup()
    yield made
    made.teardown()


def tokens(text: str) -> list[int]:
    directory = Path(workflows.demo.__file__).parent / "tiny_gpt"
    found: list[int] = AutoTokenizer.from_pretrained(directory)(text, add_special_tokens=False)["input_ids"]
    return found


@pytest.mark.parametrize(
    "asked",
    [ASKED, {**ASKED, "messages": TURNS[1:]}, {"prompt": "If the file", "sampling": ASKED["sampling"]}],
    ids=["instructed", "asked", "continued"],
)
async def test_counted_to_the_token(local: TransformersTextGenerationWorkflow, asked: dict[str, Any]) -> None:
    answer: Generated = local.inference(asked)
    assert answer.finish_reason == "length"
    endpoint = "completions" if "prompt" in asked else "chat"
    text = {"text": answer.text} if "prompt" in asked else {"message": {"content": answer.text}}
    told = {"choices": [{"index": 0, "finish_reason": "length", **text}]}
    given, _ = await asked_for(told, asked, endpoint=endpoint, **TOKENIZER)
    made = len(tokens(answer.text))
    assert given.usage == Usage(prompt_tokens=answer.usage.prompt_tokens, completion_tokens=made)
    assert abs(made - answer.usage.completion_tokens) <= 1  # a model may say in two tokens what is one


async def test_a_stream_is_counted_like_a_whole_answer(local: TransformersTextGenerationWorkflow) -> None:
    answer: Generated = local.inference(ASKED)
    pieces = [answer.text[place : place + 7] for place in range(0, len(answer.text), 7)]
    events = [*chat_events(pieces, finish_reason="length"), DONE]
    chunks, _ = await chunks_of(events, ASKED, stream_usage="untold", **TOKENIZER)
    assert ending(chunks).usage == Usage(
        prompt_tokens=answer.usage.prompt_tokens, completion_tokens=len(tokens(answer.text))
    )


async def test_what_the_provider_tells_goes_before_any_count() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 2000}
    chunks, _ = await chunks_of([*chat_events(["x"], usage), DONE], ASKED, **TOKENIZER)
    assert ending(chunks).usage == Usage(prompt_tokens=1000, completion_tokens=2000)


async def test_thoughts_that_are_in_the_total_alone_are_counted(key: Any) -> None:
    """As xAI and Gemini have it."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 115,
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    told = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    for provider, made in (("xai", 105), ("openai", 5)):
        given, _ = await asked_for(told, ASKED | {"sampling": {}}, provider=provider, key=key)
        assert given.usage == Usage(prompt_tokens=10, completion_tokens=made, reasoning_tokens=100)


async def test_without_a_tokenizer_it_is_a_guess_and_says_so() -> None:
    told = {"choices": [{"message": {"content": "hello world"}, "finish_reason": "stop"}]}
    given, _ = await asked_for(told, ASKED)
    assert given.usage.estimated is True
    assert given.usage.completion_tokens == 3


async def test_tokens_that_are_half_a_character_are_known_by_their_bytes() -> None:
    def token(raw: Any, **more: Any) -> dict[str, Any]:
        return {"token": "\ufffd", "logprob": -0.5, "bytes": raw, **more}

    told = [
        token([0xE2], top_logprobs=[token([0xAC])]),
        token([0x84]),
        token(None),
        token(["x"]),
        token([256]),
        token("a"),
    ]
    choice = {"message": {"content": "\u2104"}, "finish_reason": "stop", "logprobs": {"content": told}}
    asked = {**ASKED, "top_logprobs": 1}
    given, _ = await asked_for({"choices": [choice]}, asked, endpoint="chat", **TOKENIZER)
    letters = AutoTokenizer.from_pretrained(Path(workflows.demo.__file__).parent / "tiny_gpt").get_vocab()
    assert [token.id for token in given.tokens] == [letters["â"], letters["Ħ"], None, None, None, None]
    assert [other.id for other in given.tokens[0].top] == [letters["¬"]]
