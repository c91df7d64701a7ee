"""Text Generation Inference's own clients, and Hugging Face's, pointed at a router: answers, streams, errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub import errors as hub_errors
from text_generation import AsyncClient, Client
from text_generation import errors as tgi_errors
from text_generation.types import Message

from deployments.config import RouterArgs
from deployments.router.keys import Keys, mint_key
from tests.clients.system import System, running
from tests.clients.words import NUMBERS, Words

# What its calls of pydantic's `dict` say; it is not ours to mend.
old_pydantic = pytest.mark.filterwarnings(
    "ignore:The `dict` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20"
)
pytestmark = pytest.mark.usefixtures("online")
ALL: Final = " " + " ".join(NUMBERS)


@pytest.fixture(scope="module")
def words() -> Iterator[System]:
    with running({"words": Words()}, RouterArgs(tgi_root="words")) as made:
        yield made


@pytest.fixture(params=["/tgi/words", "/tgi/words/", ""], ids=["path", "slash", "root"])
def url(words: System, request: pytest.FixtureRequest) -> str:
    return f"http://{words.http}{request.param}"


# ---- text_generation ----------------------------------------------------------------------------------------------------


@old_pydantic
async def test_text_generation_has_whole_answers_with_details(url: str) -> None:
    client, other = Client(url), AsyncClient(url)
    for said in (client.generate("seven"), await other.generate("seven")):
        assert said.generated_text == " eight nine"
        assert (said.details.finish_reason, said.details.generated_tokens) == ("eos_token", 3)
        assert (said.details.prefill, said.details.seed, said.details.best_of_sequences) == ([], None, None)
        assert [(token.id, token.text, token.logprob, token.special) for token in said.details.tokens] == [
            (8, " eight", -0.25, False),
            (9, " nine", -0.25, False),
            (99, "</s>", -0.125, True),
        ]


@old_pydantic
async def test_text_generation_streams_the_same(url: str) -> None:
    streamed = list(Client(url).generate_stream("seven"))
    assert streamed == [each async for each in AsyncClient(url).generate_stream("seven")]
    assert "".join(each.token.text for each in streamed if not each.token.special) == " eight nine"
    assert [each.generated_text for each in streamed] == [None, None, " eight nine"]
    assert streamed[-1].details.finish_reason == "eos_token"
    assert streamed[-1].details.generated_tokens == len(streamed) == 3


@old_pydantic
async def test_all_that_text_generation_can_say(words: System) -> None:
    url = f"http://{words.http}/tgi/words"
    parameters: dict[str, Any] = {
        "do_sample": True,
        "max_new_tokens": 5,
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.5,
        "return_full_text": True,
        "seed": 7,
        "stop_sequences": ["three"],
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.5,
        "truncate": 1,
        "typical_p": 0.5,
        "watermark": False,
        "top_n_tokens": 2,
    }
    for said in (
        Client(url).generate("start", best_of=1, decoder_input_details=False, **parameters),
        await AsyncClient(url).generate("start", **parameters),
    ):
        assert said.generated_text == "start zero one two three"
        assert (said.details.finish_reason, said.details.seed) == ("stop_sequence", 7)
        assert [[other.text for other in top] for top in said.details.top_tokens] == [[" zero", " one"]] * 4
    *_, last = Client(url).generate_stream("start", **parameters)
    assert (last.generated_text, last.details.seed) == ("start zero one two three", 7)
    assert [other.text for other in last.top_tokens] == [" zero", " one"]


@old_pydantic
@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("long", {}, tgi_errors.ValidationError),
        ("hi", {"stop_sequences": ["."] * 17}, tgi_errors.ValidationError),
        ("hi", {"watermark": True}, tgi_errors.ValidationError),
        ("hi", {"seed": 1 << 63}, tgi_errors.ValidationError),
        ("full", {}, tgi_errors.OverloadedError),
        ("broken", {}, tgi_errors.GenerationError),
        ("unreachable", {}, tgi_errors.GenerationError),
    ],
)
async def test_text_generation_raises_its_own_errors(
    words: System, prompt: str, options: dict[str, Any], error: type[Exception]
) -> None:
    url = f"http://{words.http}/tgi/words"
    with pytest.raises(error):
        Client(url).generate(prompt, **options)
    with pytest.raises(error):
        await AsyncClient(url).generate(prompt, **options)
    with pytest.raises(error):
        list(Client(url).generate_stream(prompt, **options))
    with pytest.raises(error):
        [each async for each in AsyncClient(url).generate_stream(prompt, **options)]


@old_pydantic
async def test_text_generation_hears_of_a_stream_that_breaks(words: System) -> None:
    url = f"http://{words.http}/tgi/words"
    heard: list[str] = []
    with pytest.raises(tgi_errors.GenerationError, match="it broke"):
        heard.extend(each.token.text for each in Client(url).generate_stream("break"))
    assert heard == [" zero", " one"]
    stream = AsyncClient(url).generate_stream("break")
    assert [(await anext(stream)).token.text for _ in heard] == heard
    with pytest.raises(tgi_errors.GenerationError, match="it broke"):
        await anext(stream)


@old_pydantic
def test_text_generation_finds_only_what_its_key_covers() -> None:
    key, kept = mint_key("somebody", workflows=["words"])
    with running({"words": Words(), "hidden": Words()}, RouterArgs(), Keys([kept])) as guarded:
        url, headers = f"http://{guarded.http}/tgi", {"authorization": f"Bearer {key}"}
        assert Client(f"{url}/words", headers).generate("eight").generated_text == " nine"
        assert InferenceClient(f"{url}/words", token=key).text_generation("eight") == " nine"
        with pytest.raises(tgi_errors.UnknownError, match="a valid API key is needed"):
            Client(f"{url}/words").generate("eight")
        for name in ("hidden", "none"):
            with pytest.raises(tgi_errors.NotFoundError, match="model not found"):
                Client(f"{url}/{name}", headers).generate("eight")


@old_pydantic
async def test_text_generation_chats(words: System) -> None:
    url, messages = f"http://{words.http}/tgi/words", [Message(role="user", content="seven")]
    for said in (
        Client(url).chat(messages, max_tokens=2, seed=1, temperature=0.5),
        await AsyncClient(url).chat(messages, max_tokens=2, seed=1, temperature=0.5),
    ):
        assert said.choices[0].message.content == " eight nine"
        assert (said.choices[0].finish_reason, said.usage["completion_tokens"]) == ("length", 2)
    with pytest.raises(tgi_errors.OverloadedError, match="full"):
        Client(url).chat([Message(role="user", content="full")])


# ---- huggingface_hub ----------------------------------------------------------------------------------------------------


async def test_inference_client_has_text_and_streams_it(url: str) -> None:
    client = InferenceClient(url)
    assert client.text_generation("seven", max_new_tokens=1) == " eight"
    assert client.text_generation("hi") == ALL
    streamed = list(client.text_generation("seven", stream=True))
    assert streamed == [" eight", " nine", "</s>"]  # as from TGI; with details the last one is marked
    async with AsyncInferenceClient(url) as other:
        assert await other.text_generation("seven", max_new_tokens=1) == " eight"
        stream = await other.text_generation("seven", stream=True)
        assert [piece async for piece in stream] == streamed
    client.close()


async def test_inference_client_has_details(url: str) -> None:
    client = InferenceClient(url)
    async with AsyncInferenceClient(url) as other:
        for said in (
            client.text_generation("seven", details=True, top_n_tokens=1),
            await other.text_generation("seven", details=True, top_n_tokens=1),
        ):
            assert said.details is not None
            assert (said.generated_text, said.details.finish_reason) == (" eight nine", "eos_token")
            assert [token.id for token in said.details.tokens] == [8, 9, 99]
            top: Any = said.details.top_tokens  # which the client leaves as they came
            assert [[token["text"] for token in tokens] for tokens in top] == [[" zero"], [" zero"], []]
    streamed = list(client.text_generation("seven", details=True, stream=True))
    assert [each.index for each in streamed] == [1, 2, 3]
    assert [(each.token.id, each.token.special) for each in streamed] == [(8, False), (9, False), (99, True)]
    assert streamed[-1].generated_text == " eight nine"
    assert streamed[-1].details is not None
    assert (streamed[-1].details.input_length, streamed[-1].details.generated_tokens) == (1, 3)
    client.close()


PARAMETERS: Final[dict[str, Any]] = {
    "best_of": 1,
    "do_sample": True,
    "frequency_penalty": 0.5,
    "max_new_tokens": 3,
    "repetition_penalty": 1.5,
    "return_full_text": True,
    "seed": 7,
    "stop": ["one"],
    "temperature": 0.5,
    "top_k": 3,
    "top_n_tokens": 2,
    "top_p": 0.5,
    "truncate": 1,
    "typical_p": 0.5,
    "watermark": False,
}
DRAWN: Final = {"do_sample", "temperature", "top_k", "top_p", "typical_p"}


def test_every_pair_of_parameters_has_its_own_effect_and_that_of_the_other(words: System) -> None:
    client = InferenceClient(f"http://{words.http}/tgi/words")
    for some in (*combinations(PARAMETERS, 2), *combinations(PARAMETERS, len(PARAMETERS) - 1), tuple(PARAMETERS)):
        given = {name: PARAMETERS[name] for name in some}
        reason = "stop_sequence" if "stop" in given else "length" if "max_new_tokens" in given else "eos_token"
        text = {"stop_sequence": " zero one", "length": " zero one two", "eos_token": ALL}[reason]
        whole = f"hi there{text}" if "return_full_text" in given else text
        seed = None if DRAWN.isdisjoint(given) else given.get("seed", 1)
        said = client.text_generation("hi there", details=True, **given)
        assert (said.generated_text, said.details.finish_reason, said.details.seed) == (whole, reason, seed), some
        assert client.text_generation("hi there", **given) == whole, some
        streamed = list(client.text_generation("hi there", details=True, stream=True, **given))
        spoken = "".join(each.token.text for each in streamed if not each.token.special)
        assert (spoken, streamed[-1].generated_text) == (text, whole), some
        last = streamed[-1].details
        assert last is not None
        assert (last.finish_reason, last.seed) == (reason, seed), some
        assert last.input_length == (1 if "truncate" in given else 2), some
    client.close()


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("", {}, hub_errors.ValidationError),
        ("long", {}, hub_errors.ValidationError),
        ("hi", {"temperature": 0.0}, hub_errors.ValidationError),
        ("hi", {"top_p": 1.0}, hub_errors.ValidationError),
        ("hi", {"best_of": 2, "do_sample": True}, hub_errors.ValidationError),
        ("hi", {"watermark": True}, hub_errors.ValidationError),
        ("hi", {"adapter_id": "a"}, hub_errors.ValidationError),
        ("hi", {"grammar": {"type": "regex", "value": "a"}}, hub_errors.ValidationError),
        ("hi", {"details": True, "decoder_input_details": True}, hub_errors.ValidationError),
        ("full", {}, hub_errors.OverloadedError),
        ("broken", {}, hub_errors.GenerationError),
    ],
)
async def test_inference_client_raises_its_own_errors(
    words: System, prompt: str, options: dict[str, Any], error: type[Exception]
) -> None:
    url = f"http://{words.http}/tgi/words"
    client = InferenceClient(url)
    for stream in (False, True):
        with pytest.raises(error):
            client.text_generation(prompt, stream=stream, **options)
        async with AsyncInferenceClient(url) as other:
            with pytest.raises(error):
                await other.text_generation(prompt, stream=stream, **options)
    client.close()


async def test_inference_client_hears_of_a_stream_that_breaks(words: System) -> None:
    url = f"http://{words.http}/tgi/words"
    heard: list[str] = []
    client = InferenceClient(url)
    with pytest.raises(hub_errors.GenerationError, match="it broke"):
        heard.extend(client.text_generation("break", stream=True))
    assert heard == [" zero", " one"]
    async with AsyncInferenceClient(url) as other:
        stream = aiter(await other.text_generation("break", stream=True))
        assert [await anext(stream) for _ in heard] == heard
        with pytest.raises(hub_errors.GenerationError, match="it broke"):
            await anext(stream)
    client.close()


async def test_inference_client_chats(words: System) -> None:
    url, messages = f"http://{words.http}/tgi/words", [{"role": "user", "content": "seven"}]
    client = InferenceClient(url)
    said = client.chat_completion(messages, max_tokens=2)
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == (" eight nine", "length")
    pieces = list(client.chat_completion(messages, stream=True))
    async with AsyncInferenceClient(url) as other:
        assert await other.chat_completion(messages, max_tokens=2, seed=1) is not None
        streamed = [piece async for piece in await other.chat_completion(messages, stream=True)]
    for heard in (pieces, streamed):
        assert "".join(piece.choices[0].delta.content or "" for piece in heard) == " eight nine"
        assert heard[-1].choices[0].finish_reason == "stop"
    with pytest.raises(hub_errors.GenerationError, match="it broke"):
        list(client.chat_completion([{"role": "user", "content": "break"}], stream=True))
    client.close()


async def test_inference_client_asks_what_the_model_is_and_how_it_is(url: str) -> None:
    client = InferenceClient(url, provider="hf-inference")
    assert client.health_check()
    said = client.get_endpoint_info()
    assert (said["model_id"], said["model_pipeline_tag"]) == ("words", "text-generation")
    async with AsyncInferenceClient(url, provider="hf-inference") as other:
        assert await other.get_endpoint_info() == said
    assert not InferenceClient(f"{url.rstrip('/')}/none", provider="hf-inference").health_check()


# ---- a real model -------------------------------------------------------------------------------------------------------


PROMPT: Final = "The for statement"


@pytest.fixture
def tiny(system: System) -> str:
    return f"http://{system.http}/tgi/tiny-gpt"


@old_pydantic
def test_a_real_models_greedy_answer_is_the_same_whoever_asks(system: System, tiny: str) -> None:
    alone = system.direct(
        "tiny-gpt", {"prompt": PROMPT, "sampling": {"max_tokens": 8, "temperature": 0.0}, "top_logprobs": 0}
    )
    said = Client(tiny).generate(PROMPT, max_new_tokens=8)
    assert (said.generated_text, said.details.finish_reason) == (alone.text, "length")
    assert [token.id for token in said.details.tokens] == [token.id for token in alone.tokens]
    for token, expected in zip(said.details.tokens, alone.tokens, strict=True):
        assert token.logprob == pytest.approx(expected.logprob, abs=1e-4)
    streamed = list(Client(tiny).generate_stream(PROMPT, max_new_tokens=8))
    assert [each.token.id for each in streamed] == [token.id for token in alone.tokens]
    assert streamed[-1].generated_text == alone.text
    client = InferenceClient(tiny)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=8, stream=True)) == alone.text
    assert client.text_generation(PROMPT, max_new_tokens=8, return_full_text=True) == PROMPT + alone.text
    client.close()


@old_pydantic
@pytest.mark.parametrize("seed", range(5))
def test_a_real_models_wild_answer_streams_what_it_says_as_a_whole(tiny: str, seed: int) -> None:
    wild: dict[str, Any] = {"do_sample": True, "temperature": 2.0, "seed": seed, "max_new_tokens": 60}
    said = Client(tiny).generate(PROMPT, **wild)
    streamed = list(Client(tiny).generate_stream(PROMPT, **wild))
    assert "".join(each.token.text for each in streamed if not each.token.special) == said.generated_text
    assert streamed[-1].generated_text == said.generated_text
    assert [each.token.id for each in streamed] == [token.id for token in said.details.tokens]
    assert said.details.seed == streamed[-1].details.seed == seed


def test_a_real_models_stop_sequence_is_part_of_its_answer(tiny: str) -> None:
    client = InferenceClient(tiny)
    whole = client.text_generation(PROMPT, max_new_tokens=8)
    stop = whole[4:9]
    said = client.text_generation(PROMPT, max_new_tokens=8, stop=[stop], details=True)
    assert said.details is not None
    assert said.details.finish_reason == "stop_sequence"
    assert whole.startswith(said.generated_text)
    assert stop in said.generated_text
    assert "".join(token.text for token in said.details.tokens) == said.generated_text
    streamed = client.text_generation(PROMPT, max_new_tokens=8, stop=[stop], stream=True)
    assert "".join(streamed) == said.generated_text
    client.close()


def test_a_real_model_reads_the_end_of_what_is_too_long_and_refuses_it_otherwise(tiny: str) -> None:
    client = InferenceClient(tiny)
    with pytest.raises(hub_errors.ValidationError, match="context length exceeded"):
        client.text_generation("for " * 2000, max_new_tokens=2)
    short = client.text_generation("for " * 2000, max_new_tokens=2, truncate=20, details=True, stream=True)
    *_, last = short
    assert last.details is not None
    assert last.details.input_length == 20
    assert client.chat_completion([{"role": "user", "content": PROMPT}], max_tokens=4).choices[0].message.content
    client.close()
