"""Token ids to text piece by piece: nothing lost, nothing broken, nothing late."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workflows.inference.incremental_text import IncrementalText


def of_bytes(tokens: Sequence[int]) -> str:
    """The smallest byte-level tokenizer: a token is a byte."""
    return bytes(tokens).decode("utf-8", "replace")


def after_space(tokens: Sequence[int]) -> str:
    """Like sentencepiece: every token is a word with a space before it, but for the first of a text."""
    return " ".join(f"w{token}" for token in tokens)


def pieces_of(tokens: Sequence[int], decode: object = of_bytes) -> list[str]:
    text = IncrementalText(decode)  # type: ignore[arg-type]
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
