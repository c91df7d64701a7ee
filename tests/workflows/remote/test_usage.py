"""Counting tokens where a provider does not: right to the token with the model's tokenizer, a guess that says so without."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE

from tests.workflows.tiny_transformers import save_tiny_llama
from workflows.errors import WorkflowError
from workflows.remote.usage import TokenCounter
from workflows.types import Generate, Usage
from workflows.types.conversation import Message

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TALK = Generate(messages=[Message(role="user", content="Hallo Welt"), Message(role="assistant", content="Ja?")])
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_llama(folder)
    return folder


@pytest.fixture
def counter(directory: Path) -> TokenCounter:
    return TokenCounter.open(transformers, directory)


@pytest.fixture
def talking(directory: Path) -> TokenCounter:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = CHAT
    return TokenCounter(tokenizer)


def tokens(directory: Path, text: str, specials: bool) -> int:
    return len(transformers.AutoTokenizer.from_pretrained(directory).encode(text, add_special_tokens=specials))


@pytest.mark.parametrize("text", ["", "Hallo Welt", "Grüße 🦀", "x" * 20_000], ids=lambda text: text[:10])
async def test_texts_are_counted_to_the_token(text: str, counter: TokenCounter, directory: Path) -> None:
    asked = Generate(prompt=text)
    assert await counter.usage(asked, text) == Usage(
        prompt_tokens=tokens(directory, text, True), completion_tokens=tokens(directory, text, False)
    )


async def test_conversations_are_counted_as_the_template_lays_them_out(talking: TokenCounter, directory: Path) -> None:
    laid_out = "<user>Hallo Welt<assistant>Ja?<assistant>"
    assert await talking.prompt(TALK) == (tokens(directory, laid_out, False), True)
    assert (await talking.usage(TALK, "x")).estimated is None


async def test_tokens_need_no_counting(counter: TokenCounter) -> None:
    assert await TokenCounter().prompt(Generate(prompt_tokens=[1, 2, 3])) == (3, True)
    assert await counter.prompt(Generate(prompt_tokens=[1, 2, 3])) == (3, True)


async def test_what_cannot_be_counted_is_guessed_and_says_so(counter: TokenCounter, talking: TokenCounter) -> None:
    image = {"type": "image", "media_type": "image/png", "data": PNG}
    seen = Generate(messages=[Message.model_validate({"role": "user", "content": [image]})])
    tools = TALK.model_copy(update={"tools": [{}]})
    for guesses, asked in ((counter, TALK), (talking, seen), (talking, tools), (TokenCounter(), TALK)):
        usage = await guesses.usage(asked, "answer")
        assert usage.estimated is True
        assert usage.prompt_tokens > 0
    assert (await talking.usage(TALK, "", more=True)).estimated is True


async def test_a_guess_without_a_tokenizer() -> None:
    usage = await TokenCounter().usage(Generate(prompt="x" * 400), "y" * 41)
    assert usage == Usage(prompt_tokens=100, completion_tokens=11, estimated=True)


async def test_a_template_that_does_not_take_a_conversation(directory: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert (await TokenCounter(tokenizer).prompt(TALK))[1] is False


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="cannot open this tokenizer"):
        TokenCounter.open(transformers, tmp_path)


def test_half_a_character_is_known_by_its_bytes(tmp_path: Path) -> None:
    byte_level = Tokenizer(BPE({"c": 0, "\u00e2": 1, "\u0124\u00ac": 2, "\u0120a": 3}, []))
    fallback = Tokenizer(BPE({"c": 0, "<0xE2>": 7}, []))
    counters = [
        TokenCounter(transformers.PreTrainedTokenizerFast(tokenizer_object=each)) for each in (byte_level, fallback)
    ]
    of = [
        ("\ufffd", b"\xe2"),
        ("\ufffd", b"\x82\xac"),
        ("\ufffd", b"\xff"),
        ("\ufffd", None),
        ("\ufffd", b""),
        ("c", b"\xe2"),
    ]
    assert [counters[0].id_of(text, raw) for text, raw in of] == [1, 2, None, None, None, 0]
    assert [counters[1].id_of(text, raw) for text, raw in of] == [7, None, None, None, None, 0]
    assert TokenCounter().id_of("\ufffd", b"\xe2") is None
