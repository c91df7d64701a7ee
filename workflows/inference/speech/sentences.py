"""A text as the pieces that a model says one at a time: sentences, or parts of those that are too long. Knows no audio.

Lazy: a window of the text is looked at when its sentences are needed, so that a long text costs no more memory or time at
once than a short one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sentencex

__all__ = ["Piece", "pieces"]

# Sentences are longer than this only where there are none, and looking at more takes the segmenter more than a millisecond.
_WINDOW_CHARS: Final = 2048
# After a sentence, a paragraph, a part of a sentence, and where a sentence was cut in its midst.
_SENTENCE_S: Final = 0.25
_PARAGRAPH_S: Final = 0.6
_CLAUSE_S: Final = 0.12
_CUT_S: Final = 0.04
# A sign of these scripts is a syllable or more; a letter is about a third of one.
_WIDE_WEIGHT: Final = 3
_CLAUSE_END: Final = re.compile(r"[,;:\u2013\u2014\u3001\uff0c\uff1b\uff1a\u060c\u061b]+[\"'\u201d\u2019)\]]*\s*")
_BLANKS: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """What is said in one breath, and the silence after it. Where a window has nothing to say, one piece without a text."""

    text: str
    pause_s: float


def pieces(text: str, language: str, limit: int) -> Iterator[Piece]:
    """The pieces of a text in their order.

    Args:
        language: As `en` or `pt-BR`; one that the segmenter does not know is cut as one that it knows is.
        limit: How long a piece may be, in letters; a sign of Chinese, Japanese or Korean counts as three of them.
    """
    language = re.split("[-_]", language, maxsplit=1)[0].lower()
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW_CHARS]
        found = sentencex.segment(language, window)
        ends_sentence = True
        if start + len(window) < len(text):
            if len(found) > 1:
                found.pop()  # the window may have cut it
            else:
                ends_sentence = False
                found = [window[: window.rfind(" ") + 1 or _whole_signs(text, start + len(window)) - start]]
        start += sum(map(len, found))
        silent = True
        for index, sentence in enumerate(found):
            following = found[index + 1] if index + 1 < len(found) else text[start : start + 2]
            after = _pause(sentence, following) if ends_sentence else _CUT_S
            for piece in _of_sentence(sentence, after, limit):
                silent = False
                yield piece
        if silent:
            yield Piece("", 0.0)


def _pause(sentence: str, following: str) -> float:
    blanks = sentence[len(sentence.rstrip()) :] + following[: len(following) - len(following.lstrip())]
    return _PARAGRAPH_S if blanks.count("\n") > 1 else _SENTENCE_S


def _of_sentence(sentence: str, after: float, limit: int) -> Iterator[Piece]:
    rest = _BLANKS.sub(" ", sentence).strip()
    while any(map(str.isalnum, rest)):
        end = _fitting(rest, limit)
        pause = after
        if end < len(rest):
            end, pause = _cut(rest, end)
        said = rest[:end].strip()
        if any(map(str.isalnum, said)):
            yield Piece(said, pause)
        rest = rest[end:].strip()


def _fitting(text: str, limit: int) -> int:
    """How many characters of a text a piece has room for: at least one, if there is one."""
    if len(text) * _WIDE_WEIGHT <= limit:
        return len(text)
    room = limit
    for place, sign in enumerate(text):
        room -= _WIDE_WEIGHT if unicodedata.east_asian_width(sign) in "WF" else 1
        if room < 0:
            return max(place, 1)
    return len(text)


def _cut(text: str, most: int) -> tuple[int, float]:
    """Where to cut a text that is too long, and the silence there: after a clause, else a word, else anywhere."""
    head = text[:most]
    clauses = [found.end() for found in _CLAUSE_END.finditer(head) if found.end() > most // 3]
    if clauses:
        return clauses[-1], _CLAUSE_S
    blank = text[: most + 1].rfind(" ")
    return (blank, _CUT_S) if blank > 0 else (_whole_signs(text, most), _CUT_S)


def _whole_signs(text: str, end: int) -> int:
    """Not between a letter and the marks that belong to it: accents, and the vowels of Thai or Hindi."""
    back = end
    while back > 1 and end - back < 8 and unicodedata.category(text[back]).startswith("M"):
        back -= 1
    return back
