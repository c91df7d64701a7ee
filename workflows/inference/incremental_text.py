"""Token ids to text, one id at a time, without ever giving out half a character. Knows no model and no tokenizer class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["IncrementalText"]

_BROKEN: Final = "\ufffd"
# A UTF-8 character is at most four bytes, so at most three bytes of an unfinished one can have been decoded so far.
_MAX_HELD: Final = 3
# What a decoder looks back at (a leading space, a byte before this one) lies within a few tokens.
_CONTEXT: Final = 8
_MAX_WINDOW: Final = 32


class IncrementalText:
    """Decodes a growing list of token ids; the pieces joined are the text of all ids together.

    Decoding everything anew for each id would cost the square of the length; decoding each id alone would lose spaces and
    break characters. So a window of the latest ids is decoded, and only what is new in it is given out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = 0  # characters of the window's text that were given out

    def push(self, token: int) -> str:
        """The text that became complete with this token, often one word, sometimes nothing."""
        self._window.append(token)
        text = self._decode(self._window)
        complete = len(text) - _unfinished(text)
        piece = text[self._given : complete]
        self._given = max(self._given, complete)
        if len(self._window) >= _MAX_WINDOW:
            self._window = self._window[-_CONTEXT:]
            text = self._decode(self._window)
            self._given = len(text) - _unfinished(text)
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come: an unfinished character, shown as the replacement character."""
        piece = self._decode(self._window)[self._given :]
        self._window, self._given = [], 0
        return piece


def _unfinished(text: str) -> int:
    """How many characters at the end may still turn into others."""
    tail = text[-_MAX_HELD:]
    return len(tail) - len(tail.rstrip(_BROKEN))
