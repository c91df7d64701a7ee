"""Texts cut into what is said in one breath: languages, texts without ends, and texts that are no language at all."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from workflows.inference.speech.sentences import Piece, pieces

SIGNS = [
    "a",
    "A.",
    ".",
    "!",
    "?",
    "1.",
    "。",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\u0301",
    "😀",
    "(",
    ")",
    '"',
    "e.g. ",
    "…",
    "한",
    "กิ",
]


def texts(text: str, language: str = "en", limit: int = 300) -> list[str]:
    return [piece.text for piece in pieces(text, language, limit) if piece.text]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["Dr. Smith paid $3.50, e.g. today.", 'He said "no."', "Why?", "Well...", "Bye!"]),
        ("de-AT", ["Am 3. Mai kam er z.B. nicht.", "Warum?", "Ja!"]),
        ("zh", ["今天天气很好。", "你好吗\uff1f", "我很好\uff01", "再见。"]),
        ("ja", ["今日は。", "元気ですか\uff1f", "はい\uff01"]),
        ("ar", ["مرحبا.", "كيف حالك؟", "أنا بخير!"]),
        ("hi", ["नमस्ते।", "आप कैसे हैं?", "धन्यवाद॥", "और"]),
        ("xx", ["One.", "Two."]),
        ("../x", ["One.", "Two."]),
    ],
)
def test_sentences_end_as_their_language_has_it(language: str, expected: list[str]) -> None:
    between = "" if language in ("zh", "ja") else " "
    assert texts(between.join(expected), language) == expected


@pytest.mark.parametrize("text", ["今天天气很好。你好吗\uff1f", "كيف حالك؟ أنا بخير.", "नमस्ते। धन्यवाद।"])
def test_their_ends_are_known_without_the_language(text: str) -> None:
    assert len(texts(text, "en")) == 2


def test_silences_tell_paragraphs_from_sentences_from_parts() -> None:
    assert list(pieces("One. Two.\n\nThree, and then four.", "en", 16)) == [
        Piece("One.", 0.25),
        Piece("Two.", 0.6),
        Piece("Three,", 0.12),
        Piece("and then four.", 0.25),
    ]


@pytest.mark.parametrize("text", ["x" * 200_000, "word " * 40_000, "one, " * 40_000, "字" * 60_000, "\n" * 200_000])
def test_a_text_without_sentences_is_cut_and_takes_no_memory(text: str) -> None:
    wide = 3 if "字" in text else 1
    length = 0
    tracemalloc.start()
    try:
        for piece in pieces(text, "en", 180):
            assert len(piece.text) * wide <= 180
            length += len(piece.text.replace(" ", ""))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert length == len("".join(text.split()))


@pytest.mark.parametrize("sign", ["กิ", "e\u0301", "कि", "\u0e01\u0e34\u0e48"])
def test_marks_stay_with_their_letter(sign: str) -> None:
    for piece in pieces(sign * 2000, "en", 50):
        assert piece.text.replace(sign, "") == ""


def test_no_letter_is_lost_or_said_twice() -> None:
    draw = random.Random(7)
    for _ in range(100):
        text = "".join(draw.choice(SIGNS) for _ in range(draw.randrange(1, 5000)))
        limit = draw.choice([16, 60, 180, 300])
        said = texts(text, draw.choice(["en", "zh", "th"]), limit)
        assert [sign for sign in "".join(said) if sign.isalnum()] == [sign for sign in text if sign.isalnum()]
        assert all(any(map(str.isalnum, piece)) and len(piece) <= limit for piece in said)
