"""Tokens and their log probabilities, as chat and text completions tell them.

Tokens that stand for no text are not told. What JSON cannot say, the logarithm of no chance at all, is -9999, as OpenAI
has it for tokens that are very unlikely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["TokenColumns", "told_tokens"]

LEAST: Final = -9999.0
_HALF: Final = "\ufffd"
"""Of a character that a token has only a part of."""

Token = Mapping[str, Any]


def told_tokens(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """As chat completions have them: one object for each token."""
    return [
        {**_told(token), "top_logprobs": [_told(other) for other in token["top"]]}
        for token in tokens
        if not token["special"]
    ]


class TokenColumns:
    """As text completions have them: a list for each of their properties. Offsets go on over the chunks of a stream.

    `text_offset` is where a token begins in the answer, in characters.
    """

    def __init__(self) -> None:
        self._offset = 0

    def told(self, tokens: Sequence[Token]) -> dict[str, Any]:
        shown = [token for token in tokens if not token["special"]]
        offsets = []
        for token in shown:
            offsets.append(self._offset)
            self._offset += len(token["text"])
        return {
            "tokens": [token["text"] for token in shown],
            "token_logprobs": [_within(token["logprob"]) for token in shown],
            "top_logprobs": [_by_text(token) for token in shown],
            "text_offset": offsets,
        }


def _by_text(token: Token) -> dict[str, float]:
    """The most probable tokens and the chosen one; of those that look alike the most probable one."""
    found: dict[str, float] = {}
    for other in (*token["top"], token):
        found.setdefault(other["text"], _within(other["logprob"]))
    return found


def _told(token: Token) -> dict[str, Any]:
    text = token["text"]
    as_bytes = None if _HALF in text else list(text.encode())
    return {"token": text, "logprob": _within(token["logprob"]), "bytes": as_bytes}


def _within(logprob: float) -> float:
    return max(logprob, LEAST)
