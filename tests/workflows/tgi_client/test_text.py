"""Text from a TGI server: what it is asked, and what its tokens, reasons and numbers are here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.workflows.remote.faulty_upstream import FaultyUpstream, answer, parts
from tests.workflows.tgi_client.tgi_dialects import event, tgi_events
from workflows.errors import (
    ContextTooLong,
    InvalidInput,
    Overloaded,
    Unsupported,
    UpstreamFailed,
    WorkflowError,
)
from workflows.inference.tgi_client.workflow import TGIClientInferenceWorkflow
from workflows.types.text import Generated, TextChunk

SHAPED = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "typical_p": 0.8, "seed": 7}


@asynccontextmanager
async def asking(*steps: Any) -> AsyncGenerator[tuple[TGIClientInferenceWorkflow, FaultyUpstream]]:
    async with FaultyUpstream() as upstream:
        upstream.plays(*steps)
        workflow = await TGIClientInferenceWorkflow(f"{upstream.url}/", ask_at_setup=False).asetup()
        try:
            yield workflow, upstream
        finally:
            await workflow.ateardown()


def _token(index: int, text: str, *, special: bool = False) -> dict[str, Any]:
    return {"id": index, "text": text, "logprob": -float(index), "special": special}


def _top(index: int) -> list[dict[str, Any]]:
    return [_token(index + 2, "worst"), _token(index, "best"), _token(index + 1, "next")]


def told(texts: Sequence[str], reason: str = "length", **more: Any) -> tuple[Any, Any]:
    """Steps of the same answer: whole, and streamed."""
    tokens = [_token(index, text, special=text == "</s>") for index, text in enumerate(texts)]
    text = "".join(token["text"] for token in tokens if not token["special"])
    ended = {"finish_reason": reason, "generated_tokens": len(texts), "seed": None, **more}
    tops = [_top(index) for index in range(len(texts))]
    details = {**ended, "prefill": [], "tokens": tokens, "top_tokens": tops}
    events = [event({"token": token, "top_tokens": tops[i]}) for i, token in enumerate(tokens[:-1])]
    last = {"generated_text": text, "details": {**ended, "input_length": 6}}
    events.append(event({"token": tokens[-1], "top_tokens": tops[-1], **last}))
    whole = answer(200, [{"generated_text": text, "details": details}], {"X-Prompt-Tokens": "6"})
    return whole, parts(events)


async def both(asked: dict[str, Any], texts: Sequence[str], reason: str = "length", **more: Any) -> Generated:
    """The answer, which is the same in pieces."""
    whole, streamed = told(texts, reason, **more)
    async with asking(whole, streamed) as (workflow, _):
        got = await workflow.ainference(asked)
        chunks = [chunk async for chunk in workflow.astream(asked)]
    assert Generated.fold(chunks) == got
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert all(isinstance(chunk, TextChunk) for chunk in chunks)
    return got


# ---- asking ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "parameters"),
    [
        ({}, {"max_new_tokens": 128, "do_sample": True}),
        ({"sampling": {"temperature": 0, "max_tokens": 3}}, {"max_new_tokens": 3, "do_sample": False}),
        ({"sampling": {**SHAPED, "temperature": 0}}, {"max_new_tokens": 128, "do_sample": False}),
        ({"sampling": SHAPED}, {"max_new_tokens": 128, "do_sample": True, **SHAPED}),
        ({"sampling": {"max_tokens": None}}, {"max_new_tokens": None, "do_sample": True}),
        (
            {"sampling": {"temperature": 0, "repetition_penalty": 1.5, "frequency_penalty": -0.5, "stop": ["x"]}},
            {"max_new_tokens": 128, "do_sample": False, "repetition_penalty": 1.5, "frequency_penalty": -0.5}
            | {"stop": ["x"]},
        ),
        (
            {"truncate": 5, "top_logprobs": 2, "sampling": {"temperature": 0}},
            {"max_new_tokens": 128, "do_sample": False, "truncate": 5, "top_n_tokens": 2},
        ),
        (
            {"response_format": {"type": "json_object"}},
            {"max_new_tokens": 128, "do_sample": True, "grammar": {"type": "json", "value": {"type": "object"}}},
        ),
    ],
)
async def test_a_prompt_is_asked_in_the_servers_words(asked: dict[str, Any], parameters: dict[str, Any]) -> None:
    whole, streamed = told(["a", "b"])
    async with asking(whole, streamed) as (workflow, upstream):
        await workflow.ainference({"prompt": "hi", **asked})
        assert [chunk async for chunk in workflow.astream({"prompt": "hi", **asked})]
        sent = [request.json() for request in upstream.asked]
        assert {request.target for request in upstream.asked} == {"/"}
    always = {"details": True, "return_full_text": False, "watermark": False, "decoder_input_details": False}
    for body, stream in zip(sent, (False, True), strict=True):
        stop = {"stop": parameters.get("stop", [])}
        assert body == {"inputs": "hi", "stream": stream, "parameters": {**always, **parameters, **stop}}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": "a", "sampling": {"min_tokens": 2}}, "sampling.min_tokens"),
        ({"prompt": "a", "sampling": {"presence_penalty": 1}}, "sampling.presence_penalty"),
        ({"prompt": "a", "sampling": {"logit_bias": {"1": 1}}}, "sampling.logit_bias"),
        ({"prompt_tokens": [1, 2]}, "prompt_tokens"),
        ({"prompt": ""}, "prompt"),
        ({"messages": [{"role": "user", "content": "a"}], "sampling": {"top_k": 2}}, "sampling.top_k"),
    ],
)
async def test_what_the_server_has_no_words_for_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    async with asking(answer(500)) as (workflow, upstream):
        with pytest.raises(Unsupported) as caught:
            await workflow.ainference(asked)
        assert caught.value.param == param
        assert not upstream.asked


async def test_a_conversation_goes_to_the_chat_whole_and_streamed() -> None:
    message = {"role": "assistant", "content": "hello you"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    whole = answer(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})
    pieces = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": " you"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = {
        "messages": [{"role": "user", "content": "hi"}],
        "sampling": {"max_tokens": 9, "temperature": 0.5, "stop": ["x"]},
        "response_format": {"type": "json_schema", "name": "s", "json_schema": schema},
    }
    async with asking(whole, parts([*map(event, pieces), b"data: [DONE]\n\n"])) as (workflow, upstream):
        got = await workflow.ainference(asked)
        chunks = [chunk async for chunk in workflow.astream(asked)]
        sent, streamed = (request.json() for request in upstream.asked)
        assert {request.target for request in upstream.asked} == {"/v1/chat/completions"}
    assert got == Generated.fold(chunks)
    assert (got.text, got.finish_reason, got.usage.completion_tokens) == ("hello you", "stop", 2)
    assert [chunk.text for chunk in chunks][:2] == ["hello", " you"]
    common = {"model": "tgi", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "temperature": 0.5}
    common |= {"stop": ["x"], "response_format": {"type": "json_object", "value": schema}}
    assert sent == {**common, "stream": False}
    assert streamed == {**common, "stream": True, "stream_options": {"include_usage": True}}


# ---- answers ---------------------------------------------------------------------------------------------------------------

GREEDY = {"temperature": 0}


async def test_an_answer_has_its_reason_its_numbers_and_no_special_tokens() -> None:
    got = await both({"prompt": "hi"}, ["a", "b", "</s>"], "eos_token", seed=9)
    assert (got.text, got.finish_reason, got.seed, got.tokens) == ("ab", "stop", 9, None)
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.estimated) == (6, 3, None)
    greedy = await both({"prompt": "hi", "sampling": GREEDY}, ["a"], seed=9)
    assert (greedy.seed, greedy.finish_reason) == (None, "length")


async def test_tokens_are_told_where_they_are_asked_for() -> None:
    got = await both({"prompt": "hi", "top_logprobs": 2}, ["a", "</s>"], "eos_token")
    assert got.tokens is not None
    first, last = got.tokens
    assert (first.id, first.text, first.logprob, first.special) == (0, "a", 0.0, False)
    assert (last.id, last.special, [other.text for other in last.top]) == (1, True, ["best", "next"])
    plain = await both({"prompt": "hi", "top_logprobs": 0}, ["a"])
    assert plain.tokens is not None
    assert plain.tokens[0].top == []


@pytest.mark.parametrize(
    ("include", "echo", "text"),
    [(False, False, "one "), (True, False, "one two"), (False, True, "hi one "), (True, True, "hi one two")],
)
async def test_a_stop_string_ends_the_text_which_the_server_tells_with_it(include: bool, echo: bool, text: str) -> None:
    asked = {"prompt": "hi ", "sampling": {"stop": ["two"]}, "include_stop": include, "echo": echo}
    got = await both(asked, ["one ", "t", "wo"], "stop_sequence")
    assert (got.text, got.finish_reason, got.stop_string) == (text, "stop", "two")


async def test_half_a_stop_string_is_text() -> None:
    got = await both({"prompt": "hi", "sampling": {"stop": ["two"]}}, ["one ", "t", "w"])
    assert (got.text, got.finish_reason, got.stop_string) == ("one tw", "length", None)


async def test_numbers_that_nobody_tells_are_a_guess_that_says_so() -> None:
    details = {"finish_reason": "length", "generated_tokens": 2, "prefill": [], "tokens": []}
    async with asking(answer(200, [{"generated_text": "ab", "details": details}])) as (workflow, _):
        usage = (await workflow.ainference({"prompt": "hello you"})).usage
    assert (usage.completion_tokens, usage.estimated) == (2, True)
    assert usage.prompt_tokens > 0


@pytest.mark.parametrize(
    "body",
    [
        *([], [[]], {}, [{"generated_text": 7}], [{"details": {}}], "text", None),
        [{"generated_text": "a", "details": {"finish_reason": "because"}}],
        [{"generated_text": "a", "details": {"finish_reason": "length", "generated_tokens": -1}}],
    ],
)
async def test_what_is_no_answer_is_the_servers_failure(body: Any) -> None:
    sent = [event(part) for part in (body if isinstance(body, list) else [body])]
    async with asking(answer(200, body), parts(sent)) as (workflow, _):
        with pytest.raises(UpstreamFailed):
            await workflow.ainference({"prompt": "hi"})
        with pytest.raises(UpstreamFailed):
            _ = [chunk async for chunk in workflow.astream({"prompt": "hi"})]


@pytest.mark.parametrize("tokens", [None, [{"id": None, "text": "a", "logprob": None, "special": False}]])
async def test_tokens_that_are_asked_for_and_not_told_are_the_servers_failure(tokens: Any) -> None:
    details = {"finish_reason": "length", "generated_tokens": 1, "input_length": 1, "tokens": tokens}
    async with asking(answer(200, [{"generated_text": "a", "details": details}])) as (workflow, _):
        assert (await workflow.ainference({"prompt": "hi"})).text == "a"
        with pytest.raises(UpstreamFailed):
            await workflow.ainference({"prompt": "hi", "top_logprobs": 0})


async def test_nothing_follows_the_last_token() -> None:
    last = {"token": _token(0, "a"), "generated_text": "a", "details": None}
    async with asking(parts([event(last), event(last)])) as (workflow, _):
        with pytest.raises(UpstreamFailed):
            _ = [chunk async for chunk in workflow.astream({"prompt": "hi"})]


# ---- errors ----------------------------------------------------------------------------------------------------------------

TOO_LONG = "`inputs` tokens + `max_new_tokens` must be <= 100. Given: 90 `inputs` tokens and 20 `max_new_tokens`"
ERRORS: list[tuple[int, dict[str, Any], type[WorkflowError], str | None]] = [
    (422, {"error": TOO_LONG, "error_type": "validation"}, ContextTooLong, None),
    (
        *(422, {"error": "`temperature` must be strictly positive", "error_type": "validation"}, InvalidInput),
        "sampling.temperature",
    ),
    (422, {"error": "nonsense", "error_type": "validation"}, InvalidInput, None),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, Overloaded, None),
    (424, {"error": "Request failed during generation", "error_type": "generation"}, UpstreamFailed, None),
    (500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, UpstreamFailed, None),
]


@pytest.mark.parametrize(("status", "body", "error", "param"), ERRORS, ids=str)
async def test_the_servers_errors_have_a_meaning_and_no_words(
    status: int, body: dict[str, Any], error: type[WorkflowError], param: str | None
) -> None:
    """As an answer's status, and within a stream that has begun."""
    begun = event({"token": _token(0, "a"), "generated_text": None, "details": None})
    for step in (answer(status, body), parts([begun, event(body)])):
        async with asking(step) as (workflow, _):
            with pytest.raises(WorkflowError) as caught:
                _ = [chunk async for chunk in workflow.astream({"prompt": "hi"})]
        assert type(caught.value) is error
        assert caught.value.param == param
        assert json.dumps(body["error"])[1:-1] not in caught.value.message


@pytest.mark.parametrize(
    "asked", [{"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}], ids=["prompt", "chat"]
)
async def test_a_whole_answer_in_place_of_a_stream_is_none_and_is_not_asked_for_again(asked: Any) -> None:
    async with asking(told(["a", "b"])[0]) as (workflow, upstream):
        with pytest.raises(UpstreamFailed, match="cannot be read"):
            await anext(workflow.astream(asked))
        assert len(upstream.asked) == 1


async def test_a_stream_without_a_last_token_has_broken_off() -> None:
    async with asking(parts(tgi_events()[:-1])) as (workflow, _):
        stream = workflow.astream({"prompt": "hi"})
        assert (await anext(stream)).text
        with pytest.raises(UpstreamFailed, match="broke off"):
            await anext(stream)
