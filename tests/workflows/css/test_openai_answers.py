"""What those who follow OpenAI answer, whole and piece by piece, as our types tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from tests.workflows.css.dialects import DONE, chat_events, event
from tests.workflows.css.played import asked_for, chunks_of, ending, played
from tests.workflows.remote.faulty_upstream import Exchange, answer, parts
from tests.workflows.remote.hand_clock import HandClock
from workflows.errors import UpstreamFailed
from workflows.remote.policy import UpstreamPolicy
from workflows.types.text import Generated, Usage

ASKED: Final = {"messages": [{"role": "user", "content": "hi"}]}
USAGE: Final = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
TOOLS: Final = [{"name": "weather", "parameters": {"type": "object"}}]
CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def whole(message: dict[str, Any], finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], "usage": USAGE, **more}


async def collected(stream: AsyncGenerator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


async def test_a_whole_answer() -> None:
    usage = {
        **USAGE,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    given, _ = await asked_for(whole({"role": "assistant", "content": "hello"}, usage=usage), ASKED)
    counted = Usage(prompt_tokens=11, completion_tokens=5, cached_tokens=8, reasoning_tokens=2)
    assert given == Generated(text="hello", finish_reason="stop", usage=counted)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
    ],
)
async def test_reasons_for_the_end(said: str, meant: str) -> None:
    given, _ = await asked_for(whole({"content": "x"}, said), ASKED)
    assert given.finish_reason == meant


@pytest.mark.parametrize("said", ["error", "insufficient_system_resource", "the moon"])
async def test_a_reason_that_is_none_is_a_failure(said: str) -> None:
    with pytest.raises(UpstreamFailed):
        await asked_for(whole({"content": "x"}, said), ASKED)


async def test_a_whole_answer_with_calls() -> None:
    told = whole({"role": "assistant", "content": None, "tool_calls": [CALL]}, "tool_calls")
    given, _ = await asked_for(told, {**ASKED, "tools": TOOLS})
    (call,) = given.tool_calls
    assert (given.text, given.finish_reason) == ("", "tool_calls")
    assert (call.id, call.name, call.arguments) == ("call_1", "weather", '{"city": "Oslo"}')


async def test_calls_of_a_stream_are_put_together() -> None:
    def delta(*calls: dict[str, Any]) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]})

    events = [
        delta({"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}),
        delta({"index": 0, "id": "", "function": {"name": None, "arguments": '{"city":'}}),
        delta({"index": 1, "id": "b", "function": {"name": "weather", "arguments": "{}"}}),
        delta({"index": 0, "function": {"arguments": ' "Oslo"}'}}),
        *chat_events([], USAGE, finish_reason="tool_calls")[1:],
        DONE,
    ]
    chunks, _ = await chunks_of(events, {**ASKED, "tools": TOOLS})
    assert ending(chunks).finish_reason == "tool_calls"
    calls = Generated.fold(chunks).tool_calls or []
    assert [(call.id, call.name, call.arguments) for call in calls] == [
        ("a", "weather", '{"city": "Oslo"}'),
        ("b", "weather", "{}"),
    ]


async def test_whole_calls_within_a_stream_that_ends_with_stop() -> None:
    """As Gemini has it: no index, perhaps no id, and a reason that says nothing of calls."""
    call = {"id": "", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    events = [event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}), *chat_events([], USAGE)[1:]]
    events.insert(1, events[0])
    chunks, _ = await chunks_of(events, {**ASKED, "tools": TOOLS})
    assert ending(chunks).finish_reason == "tool_calls"
    first, second = Generated.fold(chunks).tool_calls or []
    assert first.name == second.name == "weather"
    assert first.id != second.id


async def test_a_refusal_is_what_the_model_said() -> None:
    given, _ = await asked_for(whole({"content": None, "refusal": "I will not."}), ASKED)
    assert (given.text, given.finish_reason) == ("I will not.", "content_filter")


async def test_parts_of_a_content_that_are_thoughts_are_no_answer() -> None:
    told = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    given, _ = await asked_for(whole({"content": told}), ASKED)
    assert given.text == "yes"


async def test_tokens_of_a_chat() -> None:
    tokens = [{"token": "he", "logprob": -0.5, "top_logprobs": [{"token": "he", "logprob": -0.5}]}]
    told = whole({"content": "he"})
    told["choices"][0]["logprobs"] = {"content": tokens}
    given, sent = await asked_for(told, {**ASKED, "top_logprobs": 1})
    (token,) = given.tokens
    assert (token.text, token.logprob, token.id) == ("he", -0.5, None)
    assert [(other.text, other.logprob) for other in token.top] == [("he", -0.5)]
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 1)


async def test_tokens_of_a_completion() -> None:
    logprobs = {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.25, -1.0],
        "top_logprobs": [{"a": -0.25, "c": -2.0}, {"c": -0.5, "b": -1.0}],
        "text_offset": [0, 1],
    }
    told = {"choices": [{"index": 0, "text": "ab", "logprobs": logprobs, "finish_reason": "length"}], "usage": USAGE}
    given, sent = await asked_for(told, {"prompt": "x", "top_logprobs": 1}, endpoint="completions")
    assert [(token.text, token.logprob, [other.text for other in token.top]) for token in given.tokens] == [
        ("a", -0.25, ["a"]),
        ("b", -1.0, ["c"]),
    ]
    assert (sent["prompt"], sent["logprobs"]) == ("x", 1)


async def test_tokens_of_a_stream_the_last_of_them_in_the_last_chunk() -> None:
    def told(text: str) -> bytes:
        logprobs = {"content": [{"token": text, "logprob": -0.5}]}
        return event({"choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs}]})

    events = [told("a"), told("b"), *chat_events([], USAGE)[1:]]
    chunks, _ = await chunks_of(events, {**ASKED, "top_logprobs": 0})
    assert [(chunk.text, [token.text for token in chunk.tokens or []]) for chunk in chunks] == [
        ("a", ["a"]),
        ("b", ["b"]),
    ]
    assert ending(chunks).finish_reason == "stop"


async def test_tokens_that_nobody_asked_for_are_not_told() -> None:
    told = whole({"content": "he"})
    told["choices"][0]["logprobs"] = {"content": [{"token": "he", "logprob": -0.5}]}
    given, _ = await asked_for(told, ASKED)
    assert given.tokens is None


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_a_stop_string_is_why_an_answer_ended_whatever_the_provider_says(reason: str) -> None:
    asked = {**ASKED, "sampling": {"stop": ["STOP"]}}
    given, _ = await asked_for(whole({"content": "one STOP"}, reason), asked)
    assert (given.text, given.finish_reason, given.stop_string) == ("one ", "stop", "STOP")


async def test_an_answer_that_does_not_say_why_it_ended_is_not_whole_though_its_usage_is_told() -> None:
    policy = UpstreamPolicy(attempts=1)
    with pytest.raises(UpstreamFailed, match="broke off"):
        await asked_for(whole({"content": "x"}, None), ASKED, upstream=policy)
    said = [event({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": USAGE}), DONE]
    with pytest.raises(UpstreamFailed, match="broke off"):
        await chunks_of(said, ASKED, upstream=policy)


async def test_a_whole_answer_in_place_of_a_stream_is_none_and_is_not_asked_for_again() -> None:
    async with played(answer(200, whole({"content": "x"}))) as (workflow, upstream):
        with pytest.raises(UpstreamFailed, match="cannot be read"):
            await collected(workflow.astream(ASKED))
        assert len(upstream.asked) == 1


@pytest.mark.parametrize("mark", [[DONE], []], ids=["with", "without"])
async def test_a_stream_with_and_without_a_mark_for_its_end(mark: list[bytes]) -> None:
    chunks, sent = await chunks_of([*chat_events(["hel", "lo"], USAGE), *mark], ASKED)
    assert [chunk.text for chunk in chunks] == ["hel", "lo", ""]
    assert ending(chunks).usage == Usage(prompt_tokens=11, completion_tokens=5)
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


async def test_a_whole_answer_and_a_stream_are_the_same() -> None:
    given, _ = await asked_for(whole({"content": "hello"}), ASKED)
    chunks, _ = await chunks_of([*chat_events(["hel", "lo"], USAGE), DONE], ASKED)
    assert Generated.fold(chunks) == given


async def test_usage_with_every_event_counts_as_it_was_told_last() -> None:
    """As Perplexity has it, which also repeats the whole message each time."""

    def told(made: int, text: str, so_far: str, reason: str | None = None) -> bytes:
        usage = {"prompt_tokens": 11, "completion_tokens": made, "total_tokens": 11 + made}
        choice = {"delta": {"content": text}, "message": {"content": so_far}, "finish_reason": reason}
        return event({"choices": [{"index": 0, **choice}], "usage": usage})

    chunks, sent = await chunks_of([told(1, "hel", "hel"), told(2, "lo", "hello", "stop")], ASKED, stream_usage="told")
    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert ending(chunks).usage == Usage(prompt_tokens=11, completion_tokens=2)
    assert "stream_options" not in sent


@pytest.mark.parametrize("then", [Exchange.reset, Exchange.cut], ids=["reset", "cut"])
async def test_what_breaks_off_after_the_answers_end_was_whole(then: Any) -> None:
    chunks, _ = await chunks_of(chat_events(["hello"], USAGE), ASKED, then)
    assert ending(chunks).usage == Usage(prompt_tokens=11, completion_tokens=5)


async def test_who_says_nothing_after_the_answers_end_is_not_waited_for() -> None:
    clock = HandClock()
    async with played(parts(chat_events(["hello"]), Exchange.until_left), clock=clock) as (workflow, _):
        asking = asyncio.create_task(collected(workflow.astream(ASKED)))
        await clock.until_waited_for(3)  # for the next event, for its bytes, and because the answer is whole
        clock.advance(3.0)
        chunks = await asking
    assert [chunk.text for chunk in chunks] == ["hello", ""]
    assert ending(chunks).usage.estimated  # type: ignore[union-attr]


async def test_text_after_the_end_is_a_failure() -> None:
    with pytest.raises(UpstreamFailed):
        await chunks_of([*chat_events(["hello"]), *chat_events(["again"])], ASKED)


@pytest.mark.parametrize("pieces", [["one STOP"], ["one S", "TOP"], ["one ", "STOP two"]])
async def test_a_stop_string_is_no_part_of_the_answer_even_if_the_upstream_says_so(pieces: list[str]) -> None:
    chunks, sent = await chunks_of(chat_events(pieces, USAGE), {**ASKED, "sampling": {"stop": ["STOP"]}})
    assert "".join(chunk.text for chunk in chunks) == "one "
    assert (ending(chunks).finish_reason, ending(chunks).stop_string) == ("stop", "STOP")
    assert sent["stop"] == ["STOP"]


async def test_what_only_begins_like_a_stop_string_is_told_in_the_end() -> None:
    chunks, _ = await chunks_of(chat_events(["one ST"], USAGE), {**ASKED, "sampling": {"stop": ["STOP"]}})
    assert "".join(chunk.text for chunk in chunks) == "one ST"
    assert ending(chunks).stop_string is None


async def test_vllm_tells_which_stop_string_it_was() -> None:
    told = whole({"content": "one "})
    told["choices"][0]["stop_reason"] = "STOP"
    given, _ = await asked_for(told, {**ASKED, "sampling": {"stop": ["STOP"]}})
    assert given.stop_string == "STOP"


async def test_a_prompt_comes_before_its_answer_where_that_was_asked_for() -> None:
    asked = {"prompt": "say ", "echo": True}
    given, sent = await asked_for(whole({"content": "hello"}), asked)
    chunks, _ = await chunks_of(chat_events(["hello"], USAGE), asked)
    assert given.text == "".join(chunk.text for chunk in chunks) == "say hello"
    assert sent["messages"] == [{"role": "user", "content": "say "}]
    assert "echo" not in sent


async def test_thoughts_are_not_told() -> None:
    thought = event({"choices": [{"index": 0, "delta": {"content": None, "reasoning_content": "hm"}}]})
    chunks, _ = await chunks_of([thought, thought, *chat_events(["yes"], USAGE)], ASKED)
    assert [chunk.text for chunk in chunks] == ["yes", ""]
