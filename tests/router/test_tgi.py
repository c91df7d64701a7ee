"""Text Generation Inference's protocol through the whole app: whole answers, streams, and what a model says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deployments.router.keys import Keys, mint_key
from tests.router.router_front import Front, ScriptedClient, Visit
from tests.router.tgi_front import END, FEW, USAGE, Model, chunk, events, house, token
from workflows.context import CallContext

DETAILS = {"inputs": "hi", "parameters": {"details": True}}
STREAM = "/tgi/m/generate_stream"


def told(number: int, text: str, *, special: bool = False, logprob: float = -0.25) -> dict[str, Any]:
    return {"id": number, "text": text, "logprob": logprob, "special": special}


# ---- whole answers ------------------------------------------------------------------------------------------------------


async def test_a_whole_text_is_an_object_and_from_the_top_a_list_of_one() -> None:
    model = Model([chunk("a", token(1, "a")), chunk("b", token(2, "b"), finish_reason="length")])
    front = house(model)
    alone = await front.post("/tgi/m/generate", FEW)
    assert (alone.status_code, alone.json()) == (200, {"generated_text": "ab"})
    assert (alone.headers["x-prompt-tokens"], alone.headers["x-generated-tokens"]) == ("3", "4")
    for path in ("/tgi/m", "/tgi/m/"):
        for stream in ({}, {"stream": False}, {"stream": None}):
            assert (await front.post(path, {**FEW, **stream})).json() == [{"generated_text": "ab"}]
    assert front.lines.last["protocol"] == "tgi"
    assert front.lines.last["workflow"] == "m"


async def test_details_are_tokens_and_why_the_answer_ended() -> None:
    model = Model([chunk("a", token(1, "a")), chunk("", END, finish_reason="stop", seed=7)])
    answer = (await house(model).post("/tgi/m/generate", DETAILS)).json()
    assert answer == {
        "generated_text": "a",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 4,
            "seed": 7,
            "prefill": [],
            "tokens": [told(1, "a"), told(0, "</s>", special=True, logprob=-0.5)],
        },
    }


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "stop"}, "eos_token"),
        ({"finish_reason": "stop", "stop_string": "."}, "stop_sequence"),
    ],
)
async def test_an_answer_ends_for_one_of_three_reasons(ended: dict[str, Any], reason: str) -> None:
    front = house(Model([chunk("a.", token(1, "a."), **ended)]))
    whole = (await front.post("/tgi/m/generate", DETAILS)).json()
    (event,) = events((await front.post(STREAM, DETAILS)).text)
    assert whole["details"]["finish_reason"] == event["details"]["finish_reason"] == reason


async def test_the_most_probable_tokens_in_the_place_of_each() -> None:
    other = told(5, "b", logprob=-1.5)
    model = Model([chunk("a", token(1, "a", top=[told(1, "a"), other]), finish_reason="length")])
    body = {"inputs": "hi", "parameters": {"details": True, "top_n_tokens": 2}}
    front = house(model)
    assert (await front.post("/tgi/m/generate", body)).json()["details"]["top_tokens"] == [[told(1, "a"), other]]
    (event,) = events((await front.post(STREAM, body)).text)
    assert event["top_tokens"] == [told(1, "a"), other]
    assert [seen["top_logprobs"] for seen in model.seen] == [2, 2]


async def test_the_full_text_begins_with_all_that_was_sent() -> None:
    front = house(Model([chunk("a", token(1, "a"), finish_reason="length")]))
    body = {"inputs": "hi ", "parameters": {"return_full_text": True, "truncate": 1}}
    assert (await front.post("/tgi/m/generate", body)).json() == {"generated_text": "hi a"}
    (event,) = events((await front.post(STREAM, body)).text)
    assert (event["token"]["text"], event["generated_text"]) == ("a", "hi a")


# ---- streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [STREAM, "/tgi/m", "/tgi/m/"])
async def test_a_stream_is_one_event_for_each_token_and_the_last_one_has_the_text(path: str) -> None:
    model = Model(
        [chunk("a", token(1, "a"))],
        [chunk("bc", token(2, "b"), token(3, "c")), chunk("", END, finish_reason="stop", seed=7)],
    )
    answer = await house(model).post(path, {**DETAILS, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream"
    nothing = {"generated_text": None, "details": None}
    ended = {"finish_reason": "eos_token", "generated_tokens": 4, "seed": 7, "input_length": 3}
    assert events(answer.text) == [
        {"index": 1, "token": told(1, "a"), **nothing},
        {"index": 2, "token": told(2, "b"), **nothing},
        {"index": 3, "token": told(3, "c"), **nothing},
        {
            "index": 4,
            "token": told(0, "</s>", special=True, logprob=-0.5),
            "generated_text": "abc",
            "details": ended,
        },
    ]
    assert model.seen[0]["top_logprobs"] == 0


async def test_without_details_a_stream_tells_its_tokens_all_the_same() -> None:
    (event,) = events((await house().post(STREAM, FEW)).text)
    assert event == {"index": 1, "token": told(1, "a"), "generated_text": "a", "details": None}


@pytest.mark.parametrize(
    ("groups", "texts"),
    [
        # Two halves of one character, told when it is whole, and alone.
        ([chunk("", token(1, "�")), chunk("é", token(2, "�"))], ["", "é"]),
        ([chunk("aé b", token(1, "a"), token(2, "�"), token(3, "�"), token(4, " b"))], ["a", "", "", "é b"]),
        # A tokenizer whose tokens have no spaces by themselves.
        ([chunk("the", token(1, "the")), chunk(" end", token(2, "end"))], ["the", " end"]),
        # Text that was held back, because it might have become a stop string.
        ([chunk("", token(1, "a")), chunk("ab", token(2, "b"))], ["", "ab"]),
        ([chunk("", token(1, "a")), chunk("a", END), chunk("b", token(2, "b"))], ["", "</s>", "ab"]),
    ],
)
async def test_texts_of_tokens_join_to_the_text(groups: list[Any], texts: list[str]) -> None:
    groups[-1] = {**groups[-1], "finish_reason": "length", "usage": USAGE}
    seen = events((await house(Model(groups)).post(STREAM, DETAILS)).text)
    assert [event["token"]["text"] for event in seen] == texts
    spoken = "".join(event["token"]["text"] for event in seen if not event["token"]["special"])
    assert spoken == seen[-1]["generated_text"]


async def test_a_last_chunk_without_a_token_still_ends_the_stream() -> None:
    model = Model([chunk("a", token(1, "a"))], [chunk("b", finish_reason="length")])
    first, last = events((await house(model).post(STREAM, DETAILS)).text)
    assert first["generated_text"] is None
    assert last["token"] == {"id": None, "text": "b", "logprob": None, "special": False}
    assert (last["generated_text"], last["details"]["finish_reason"]) == ("ab", "length")


def without_tokens() -> Model:
    pieces = [chunk("a"), chunk(""), chunk("b"), chunk("", finish_reason="length")]
    for piece in pieces:
        del piece["tokens"]
    return Model(pieces[:1], pieces[1:])


async def test_a_workflow_without_tokens_streams_pieces_of_text() -> None:
    seen = events((await house(without_tokens()).post(STREAM, FEW)).text)
    assert [event["token"] for event in seen] == [
        {"id": None, "text": "a", "logprob": None, "special": False},
        {"id": None, "text": "b", "logprob": None, "special": False},
        {"id": None, "text": "", "logprob": None, "special": True},
    ]
    assert [event["generated_text"] for event in seen] == [None, None, "ab"]


@pytest.mark.parametrize("path", ["/tgi/m/generate", STREAM])
async def test_details_of_tokens_that_are_not_told_are_refused(path: str) -> None:
    answer = await house(without_tokens()).post(path, DETAILS)
    said = "this workflow does not tell its tokens, which details are made of"
    assert (answer.status_code, answer.json()) == (422, {"error": said, "error_type": "validation"})


async def test_a_stream_that_breaks_says_so_and_has_no_text_as_a_whole() -> None:
    front = house(Model([chunk("a", token(1, "a"))], [chunk("b", token(2, "b"), finish_reason="length")]))
    first, last = events((await front.post(STREAM, {"inputs": "break"})).text)
    assert (first["token"]["text"], first["generated_text"]) == ("a", None)
    assert last == {"error": "the replica that held this request is gone", "error_type": "overloaded"}
    assert front.lines.last["code"] == "overload"


async def test_a_stream_that_stops_before_its_answer_has_ended_is_an_error() -> None:
    front = house(Model([chunk("a", token(1, "a"))]))
    _, last = events((await front.post(STREAM, FEW)).text)
    assert last == {"error": "the workflow's stream ended before its answer did", "error_type": "generation"}
    assert front.lines.last["code"] == "bad_output"


@pytest.mark.parametrize("odd", [[], "text", {"text": 1}, {"text": "a", "tokens": [1]}, {"text": "a", "tokens": [{}]}])
async def test_what_is_no_text_is_the_models_fault(odd: Any) -> None:
    async def whole(input_data: Any, call: CallContext) -> Any:
        return odd

    async def pieces(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield [odd]

    front = Front()
    front.add("m", ScriptedClient(whole, pieces), kind="generate")
    for path in ("/tgi/m/generate", STREAM):
        answer = await front.post(path, DETAILS)
        said = "the workflow gave no answer of its kind, generate"
        assert (answer.status_code, answer.json()) == (424, {"error": said, "error_type": "generation"})


async def test_whoever_leaves_a_stream_ends_it() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def pieces(input_data: Any) -> AsyncGenerator[list[Any]]:
        try:
            yield [chunk("a", token(1, "a"))]
            begun.set()
            await asyncio.Future()
        finally:
            ended.set()

    front = Front()
    front.add("m", ScriptedClient(chunks=pieces), kind="generate")
    visit = Visit(front.app, "POST", STREAM, FEW)
    task = visit.start()
    await begun.wait()
    visit.leave()
    async with asyncio.timeout(5):
        await task
        await ended.wait()
    assert (front.lines.last["status"], front.lines.last["code"]) == (200, "cancelled")


# ---- OpenAI's routes for the workflow in the path -----------------------------------------------------------------------


async def test_chat_and_text_completions_are_openais_whatever_model_they_name() -> None:
    model = Model([chunk("a", token(1, "a"), finish_reason="length")])
    front = house(model)
    turn = {"role": "user", "content": "hi"}
    for said in ({}, {"model": "tgi"}, {"model": None}):
        chat = (await front.post("/tgi/m/v1/chat/completions", {"messages": [turn], **said})).json()
        assert (chat["object"], chat["choices"][0]["message"]["content"]) == ("chat.completion", "a")
        text = (await front.post("/tgi/m/v1/completions", {"prompt": "hi", **said})).json()
        assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "a")
    assert model.seen[0]["messages"] == [turn]
    streamed = await front.post("/tgi/m/v1/chat/completions", {"messages": [turn], "stream": True})
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_their_errors_are_this_protocols(path: str) -> None:
    front = house(Model([chunk("a")], [chunk("b", finish_reason="length")]))
    refused = await front.post(f"/tgi/m{path}", {"messages": [], "prompt": []})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert (await front.post(f"/tgi/none{path}", {})).json()["error_type"] == "not_found"
    body = {"messages": [{"role": "user", "content": "break"}], "prompt": "break", "stream": True}
    answer = await front.post(f"/tgi/m{path}", body)
    last = events(answer.text)[-1]
    assert last == {"error": "the replica that held this request is gone", "error_type": "overloaded"}


# ---- the model, and the root --------------------------------------------------------------------------------------------


async def test_a_model_tells_what_it_takes() -> None:
    front = house()
    entry = front.directory.find("m")
    assert entry.card is not None
    unknown = (await front.get("/tgi/m/info")).json()
    assert (unknown["model_id"], unknown["max_total_tokens"], unknown["max_input_length"]) == ("m", None, None)
    entry.card = entry.card.model_copy(update={"model": "tiny", "context_tokens": 128, "concurrency": 8})
    said = (await front.get("/tgi/m/info")).json()
    assert (said["model_id"], said["model_pipeline_tag"]) == ("tiny", "text-generation")
    assert (said["max_total_tokens"], said["max_input_tokens"], said["max_input_length"]) == (128, 127, 127)
    assert (said["max_stop_sequences"], said["max_best_of"], said["max_batch_size"]) == (16, 1, 8)
    assert said["max_concurrent_requests"] == entry.dispatcher.max_queue
    assert (await front.get("/tgi/tensors/info")).status_code == 422


async def test_health_is_the_models() -> None:
    front = house()
    well = await front.get("/tgi/m/health")
    assert (well.status_code, well.content) == (200, b"")
    unwell = await front.get("/tgi/new/health")
    assert (unwell.status_code, unwell.json()["error_type"]) == (503, "healthcheck")
    assert (await front.get("/tgi/none/health")).status_code == 404
    assert (await front.get("/health")).json() == {"status": "ok"}


async def test_one_workflow_may_be_at_the_root() -> None:
    front = house(tgi_root="m")
    assert (await front.post("/", FEW)).json() == [{"generated_text": "a"}]
    assert (await front.post("/generate", FEW)).json() == {"generated_text": "a"}
    assert len(events((await front.post("/generate_stream", FEW)).text)) == 1
    assert (await front.get("/info")).json() == (await front.get("/tgi/m/info")).json()
    assert (await front.post("/tgi/m/generate", FEW)).status_code == 200
    refused = await front.post("/generate", {"inputs": ""})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")


async def test_without_it_the_root_is_nobodys() -> None:
    front = house()
    for method, path in (("POST", "/"), ("POST", "/generate"), ("POST", "/generate_stream"), ("GET", "/info")):
        answer = await front.request(method, path, json=FEW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_route")


async def test_health_at_the_root_is_that_of_the_workflow_and_of_the_router() -> None:
    _, kept = mint_key("somebody", role="operator")
    for keys in (None, Keys([kept])):
        front = Front(keys, tgi_root="m")
        assert (await front.get("/health")).status_code == 503
        front.add("m", kind="generate", state="loading", with_card=False)
        assert (await front.get("/health")).json()["error_type"] == "healthcheck"
        front.add("m", kind="generate")
        assert (await front.get("/health")).status_code == 200
        front.app.draining = True
        assert (await front.get("/health")).status_code == 503


async def test_the_root_needs_a_key_where_one_is_needed_and_finds_only_what_it_covers() -> None:
    (key, kept), (other, elsewhere) = mint_key("somebody"), mint_key("other", workflows=["b*"])
    front = Front(Keys([kept, elsewhere]), tgi_root="m")
    front.add("m", Model([chunk("a", token(1, "a"), finish_reason="length")]).client, kind="generate")
    keyless = await front.post("/generate", FEW)
    assert (keyless.status_code, keyless.json()["error_type"]) == (401, "unauthorized")
    assert (await front.post("/generate", FEW, headers={"authorization": f"Bearer {key}"})).status_code == 200
    hidden = await front.post("/generate", FEW, headers={"authorization": f"Bearer {other}"})
    assert (hidden.status_code, hidden.json()["error_type"]) == (404, "not_found")
