"""Anthropic's own way of asking and answering, and what it means in our types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.workflows.css.dialects import anthropic_events, typed
from tests.workflows.css.played import asked_for, chunks_of, ending, played
from tests.workflows.remote.faulty_upstream import answer
from workflows.errors import InvalidInput, Unsupported, UpstreamFailed
from workflows.remote.secret import SecretRef
from workflows.types.text import Generated, Usage

ASKED: Final = {"messages": [{"role": "user", "content": "hi"}]}
TOOLS: Final = [{"name": "weather", "description": "of a city", "parameters": {"type": "object"}}]
ANTHROPIC: Final[dict[str, Any]] = {"provider": "anthropic", "model": "claude"}


def message(*content: Mapping[str, Any], stop_reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": 3}
    return {"type": "message", "content": list(content), "stop_reason": stop_reason, "usage": usage, **more}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


async def sent(key: SecretRef, asked: object, **options: Any) -> dict[str, Any]:
    _, body = await asked_for(message(text("x")), asked, key=key, **ANTHROPIC, **options)
    return body


# ---- requests -----------------------------------------------------------------------------------------------------------


async def test_a_plain_question(key: SecretRef) -> None:
    assert await sent(key, ASKED) == {
        "model": "claude",
        "messages": [{"role": "user", "content": [text("hi")]}],
        "max_tokens": 128,
    }
    assert (await sent(key, {"prompt": "hi"}))["messages"] == [{"role": "user", "content": [text("hi")]}]


async def test_a_length_is_always_said(key: SecretRef) -> None:
    unlimited = {**ASKED, "sampling": {"max_tokens": None}}
    assert (await sent(key, unlimited))["max_tokens"] == 4096
    assert (await sent(key, unlimited, max_new_tokens=50))["max_tokens"] == 50


async def test_instructions_stand_apart_and_results_of_tools_together(key: SecretRef) -> None:
    calls = [{"id": f"c{place}", "name": "weather", "arguments": '{"city": "Oslo"}'} for place in (1, 2)]
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "warm", "tool_call_id": "c1"},
        {"role": "tool", "content": "cold", "tool_call_id": "c2"},
        {"role": "user", "content": "so?"},
    ]
    body = await sent(key, {"messages": turns})
    used = [{"type": "tool_use", "id": f"c{place}", "name": "weather", "input": {"city": "Oslo"}} for place in (1, 2)]
    results = [
        {"type": "tool_result", "tool_use_id": f"c{place}", "content": [text(said)]}
        for place, said in ((1, "warm"), (2, "cold"))
    ]
    assert body["system"] == "be brief\n\nbe kind"
    assert body["messages"] == [
        {"role": "user", "content": [text("hi")]},
        {"role": "assistant", "content": used},
        {"role": "user", "content": [*results, text("so?")]},
    ]


async def test_tools_and_how_they_are_chosen(key: SecretRef) -> None:
    body = await sent(key, {**ASKED, "tools": [*TOOLS, {"name": "now"}]})
    assert body["tools"] == [
        {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]
    for said, meant in (
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"name": "now"}, {"type": "tool", "name": "now"}),
    ):
        asked = {**ASKED, "tools": [{"name": "now"}], "tool_choice": said}
        assert (await sent(key, asked))["tool_choice"] == meant
    single = {**ASKED, "tools": [{"name": "now"}], "parallel_tool_calls": False}
    assert (await sent(key, single))["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


async def test_images_and_json(key: SecretRef) -> None:
    parts = [
        {"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="},
        {"type": "remote_image", "url": "https://example.org/a.png"},
        text("?"),
    ]
    form = {"type": "json_schema", "name": "n", "json_schema": {"type": "object"}}
    body = await sent(key, {"messages": [{"role": "user", "content": parts}], "response_format": form})
    data = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert body["messages"][0]["content"] == [
        {"type": "image", "source": data},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        text("?"),
    ]
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"sampling": {"temperature": 0.5}}, "sampling.temperature"),
        ({"sampling": {"top_k": 5}}, "sampling.top_k"),
        ({"sampling": {"seed": 5}}, "sampling.seed"),
        ({"sampling": {"logit_bias": {"5": 1.0}}}, "sampling.logit_bias"),
        ({"top_logprobs": 0}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_it_does_not_have(key: SecretRef, more: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        await sent(key, {**ASKED, **more})
    assert caught.value.param == param


async def test_the_older_version_still_draws_as_it_is_told(key: SecretRef) -> None:
    asked = {**ASKED, "sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 5}}
    async with played(answer(200, message(text("x"))), key=key, api_version="2023-06-01", **ANTHROPIC) as (
        workflow,
        upstream,
    ):
        await workflow.ainference(asked)
        (request,) = upstream.asked
        with pytest.raises(InvalidInput) as caught:
            await workflow.ainference({**ASKED, "sampling": {"temperature": 1.5}})
    body = request.json()
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 5)
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "x-api-key" in request.headers
    assert "authorization" not in request.headers
    assert caught.value.param == "sampling.temperature"


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"'])
async def test_arguments_of_a_call_that_are_no_object(key: SecretRef, arguments: str) -> None:
    call = {"id": "c1", "name": "weather", "arguments": arguments}
    with pytest.raises(InvalidInput) as caught:
        await sent(key, {"messages": [*ASKED["messages"], {"role": "assistant", "tool_calls": [call]}]})
    assert caught.value.param == "messages.1.tool_calls"


# ---- answers ------------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_and_a_stream_are_the_same(key: SecretRef) -> None:
    given, _ = await asked_for(message(text("hel"), text("lo")), ASKED, key=key, **ANTHROPIC)
    chunks, body = await chunks_of(anthropic_events(["hel", "lo"]), ASKED, key=key, **ANTHROPIC)
    counted = Usage(prompt_tokens=7, completion_tokens=3)
    assert given == Generated(text="hello", finish_reason="stop", usage=counted)
    assert [chunk.text for chunk in chunks] == ["hel", "lo", ""]
    assert ending(chunks).usage == counted
    assert Generated.fold(chunks) == given
    assert body["stream"] is True
    assert "stream_options" not in body


async def test_what_was_read_counts_with_what_was_known_and_what_is_kept(key: SecretRef) -> None:
    usage = {
        "input_tokens": 7,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 20,
        "output_tokens": 30,
        "output_tokens_details": {"thinking_tokens": 25},
    }
    given, _ = await asked_for(message(text("x"), usage=usage), ASKED, key=key, **ANTHROPIC)
    assert given.usage == Usage(prompt_tokens=127, completion_tokens=30, cached_tokens=100, reasoning_tokens=25)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("max_tokens", "length"), ("refusal", "content_filter"), ("model_context_window_exceeded", "length")],
)
async def test_reasons_for_the_end(key: SecretRef, said: str, meant: str) -> None:
    given, _ = await asked_for(message(text("x"), stop_reason=said), ASKED, key=key, **ANTHROPIC)
    assert given.finish_reason == meant


async def test_a_turn_that_it_only_paused_is_no_answer(key: SecretRef) -> None:
    with pytest.raises(UpstreamFailed):
        await asked_for(message(text("x"), stop_reason="pause_turn"), ASKED, key=key, **ANTHROPIC)


@pytest.mark.parametrize(("include", "ends"), [(False, "one "), (True, "one STOP")])
async def test_the_stop_string_that_it_tells(key: SecretRef, include: bool, ends: str) -> None:
    asked = {**ASKED, "sampling": {"stop": ["STOP"]}, "include_stop": include}
    told = message(text("one "), stop_reason="stop_sequence", stop_sequence="STOP")
    given, body = await asked_for(told, asked, key=key, **ANTHROPIC)
    events = anthropic_events(["one "], "stop_sequence", stop_sequence="STOP")
    chunks, _ = await chunks_of(events, asked, key=key, **ANTHROPIC)
    assert body["stop_sequences"] == ["STOP"]
    assert given == Generated.fold(chunks)
    assert (given.text, given.finish_reason, given.stop_string) == (ends, "stop", "STOP")


async def test_calls_whole_and_piece_by_piece(key: SecretRef) -> None:
    used = [
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
    ]
    asked = {**ASKED, "tools": TOOLS}
    whole, _ = await asked_for(message(text("so"), *used, stop_reason="tool_use"), asked, key=key, **ANTHROPIC)
    events = anthropic_events(["so"], "tool_use")
    pieces = ['{"city": ', '"Oslo"}']
    events[-2:-2] = [
        typed({"type": "content_block_start", "index": 1, "content_block": {**used[0], "input": {}}}),
        typed({"type": "ping"}),
        *(
            typed(
                {
                    "type": "content_block_delta",
                    "index": 1,
                    "delta": {"type": "input_json_delta", "partial_json": piece},
                }
            )
            for piece in pieces
        ),
        typed({"type": "content_block_stop", "index": 1}),
        typed({"type": "content_block_start", "index": 2, "content_block": used[1]}),
        typed({"type": "content_block_stop", "index": 2}),
    ]
    chunks, _ = await chunks_of(events, asked, key=key, **ANTHROPIC)
    for given in (whole, Generated.fold(chunks)):
        calls = given.tool_calls or []
        assert (given.text, given.finish_reason) == ("so", "tool_calls")
        assert [(call.id, call.name, json.loads(call.arguments)) for call in calls] == [
            ("a", "weather", {"city": "Oslo"}),
            ("b", "weather", {}),
        ]


async def test_thoughts_are_not_told(key: SecretRef) -> None:
    events = anthropic_events(["yes"])
    events[1:1] = [
        typed({"type": "content_block_start", "index": 9, "content_block": {"type": "thinking", "thinking": ""}}),
        typed({"type": "content_block_delta", "index": 9, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        typed({"type": "content_block_stop", "index": 9}),
    ]
    chunks, _ = await chunks_of(events, ASKED, key=key, **ANTHROPIC)
    assert [chunk.text for chunk in chunks] == ["yes", ""]


async def test_usage_that_is_missing_is_estimated(key: SecretRef) -> None:
    events = [
        each for each in anthropic_events(["yes"]) if b"message_delta" not in each and b"message_stop" not in each
    ]
    events.append(typed({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    chunks, _ = await chunks_of(events, ASKED, key=key, **ANTHROPIC)
    assert ending(chunks).usage.estimated is True  # type: ignore[union-attr]
