"""Token ids to text piece by piece: nothing lost, nothing broken, nothing late."""

from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from workflows.inference.generation.incremental_text import IncrementalText


def of_bytes(tokens: Sequence[int]) -> str:
    """The smallest byte-level tokenizer: a token is a byte."""
    return bytes(tokens).decode("utf-8", "replace")


def after_space(tokens: Sequence[int]) -> str:
    """Like sentencepiece: every token is a word with a space before it, but for the first of a text."""
    return " ".join(f"w{token}" for token in tokens)


WORD_TOKENS: Final = {"\u2581hi": 256, "\u2581there": 257, "\u2581": 258, "y": 259, "<s>": 260}


def _with_byte_fallback() -> Callable[[Sequence[int]], str]:
    """As Llama 2 decodes: a character that is no token is spelled in bytes, and a run of bytes is whole or all broken."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | WORD_TOKENS
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))


with_byte_fallback = _with_byte_fallback()


def pieces_of(tokens: Sequence[int], decode: Callable[[Sequence[int]], str] = of_bytes) -> list[str]:
    text = IncrementalText(decode)
    return [*(text.push(token) for token in tokens), text.flush()]


@given(st.text(max_size=80))
def test_valid_text_comes_out_whole_and_no_piece_is_broken(text: str) -> None:
    pieces = pieces_of(text.encode())
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


@given(st.lists(st.one_of(st.integers(0, 255), st.sampled_from([0xE2, 0x82, 0xAC, 0xF0, 0x9F])), max_size=120))
def test_any_bytes_come_out_as_when_decoded_at_once(tokens: list[int]) -> None:
    assert "".join(pieces_of(tokens)) == of_bytes(tokens)


def test_a_character_comes_with_its_last_byte() -> None:
    assert pieces_of("a€b".encode()) == ["a", "", "", "€", "b", ""]


def test_an_unfinished_character_is_given_at_the_end() -> None:
    assert pieces_of("a€".encode()[:-1]) == ["a", "", "", "\ufffd"]


def test_spaces_between_words_survive() -> None:
    words = list(range(100))
    pieces = pieces_of(words, after_space)
    assert "".join(pieces) == after_space(words)
    assert pieces[:3] == ["w0", " w1", " w2"]


def test_the_work_per_token_does_not_grow() -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return of_bytes(tokens)

    pieces_of([0xFF] * 5000, decode)
    assert longest <= 32


@given(st.lists(st.one_of(st.sampled_from(sorted(WORD_TOKENS.values())), st.characters(codec="utf-8")), max_size=80))
def test_a_tokenizer_with_byte_fallback_gives_whole_characters(parts: list[int | str]) -> None:
    tokens = [token for part in parts for token in ([part] if isinstance(part, int) else part.encode())]
    pieces = pieces_of(tokens, with_byte_fallback)
    assert "".join(pieces) == with_byte_fallback(tokens)
    if "\ufffd" not in parts:
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_in_a_run_of_bytes_comes_with_its_last_byte() -> None:
    tokens = [WORD_TOKENS["\u2581hi"], *"\U0001f600\U0001f600".encode(), WORD_TOKENS["\u2581there"]]
    assert pieces_of(tokens, with_byte_fallback) == ["hi", *["", "", "", "\U0001f600"] * 2, " there", ""]


def test_a_run_of_bytes_that_breaks_after_its_beginning_was_given_is_one_broken_character() -> None:
    tokens = [*"é".encode(), 0xFF, WORD_TOKENS["\u2581there"], WORD_TOKENS["y"]]
    assert pieces_of(tokens, with_byte_fallback) == ["", "é", "", "\ufffd there", "y", ""]


def test_tokens_that_are_no_text_do_not_take_the_space_of_what_follows() -> None:
    tokens = [WORD_TOKENS["\u2581hi"], *[WORD_TOKENS["<s>"]] * 100, WORD_TOKENS["\u2581there"]]
    assert "".join(pieces_of(tokens, with_byte_fallback)) == "hi there"
