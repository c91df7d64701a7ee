"""Token ids to text, one id at a time, without ever giving out half a character. Knows no model and no tokenizer class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["IncrementalText"]

_BROKEN: Final = "\ufffd"
# A UTF-8 character is at most four bytes, so at most three bytes of an unfinished one can have been decoded so far.
_MAX_UNFINISHED: Final = 3
# What a decoder looks back at (a leading space, a byte before this one) lies within a few tokens.
_CONTEXT: Final = 8
_MAX_WINDOW: Final = 32


class IncrementalText:
    """Decodes a growing list of token ids; the pieces joined are the text of all ids together.

    Decoding everything anew for each id would cost the square of the length; decoding each id alone would lose spaces and
    break characters. So a window of the latest ids is decoded, and only what is new in it is given out.

    While the text ends in a replacement character, everything new is held: decoders with byte fallback (Llama 2, Gemma)
    show a whole run of bytes as broken until its last character is complete.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._given = ""  # the window's text as far as it was given out
        self._ends: list[int] = []  # places in the window where the text ended with a whole character and was given out

    def push(self, token: int) -> str:
        """The text that became complete with this token, often one word, sometimes nothing."""
        self._window.append(token)
        text = self._decode(self._window)
        piece = ""
        if not text.endswith(_BROKEN):
            piece = self._give(text)
            if piece:
                self._ends.append(len(self._window))
        if len(self._window) >= _MAX_WINDOW:
            piece += self._shorten(text)
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come: an unfinished character, shown as the replacement character."""
        piece = self._give(self._decode(self._window))
        self._window, self._given, self._ends = [], "", []
        return piece

    def _give(self, text: str) -> str:
        """What is new in the window's text."""
        given, self._given = self._given, text
        if text.startswith(given):
            return text[len(given) :]
        same = next(place for place, sign in enumerate(given) if not text.startswith(sign, place))
        # A run of bytes broke after its beginning had been given out whole: one sign says so, instead of one per byte.
        if text.startswith(_BROKEN, same):
            return _BROKEN + text[same:].lstrip(_BROKEN)
        return text[len(given) :]

    def _shorten(self, text: str) -> str:
        """Drop the oldest tokens of a full window. Gives out what can no longer be held, if there is such."""
        # Only between whole characters: a run of bytes that begins within one is broken.
        cuts = [end for end in self._ends[:-1] if end <= len(self._window) - _CONTEXT]
        if cuts:
            cut, last = cuts[-1], self._ends[-1]
            self._given = self._decode(self._window[cut:last])
            self._window = self._window[cut:]
            self._ends = [end - cut for end in self._ends if end > cut]
            return ""
        if not text.endswith(_BROKEN):
            self._window.pop()  # one more of many that are no text: what follows may still lean on what stands before them
            return ""
        piece = self._give(_finished(text))
        self._window = self._window[-_CONTEXT:]
        self._given = _finished(self._decode(self._window))
        self._ends = []
        return piece


def _finished(text: str) -> str:
    """Without what may still turn into other characters."""
    tail = text[-_MAX_UNFINISHED:]
    return text[: len(text) - len(tail) + len(tail.rstrip(_BROKEN))]
