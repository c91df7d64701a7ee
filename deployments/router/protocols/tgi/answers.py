"""A workflow's answer as this protocol tells it: whole, or as events of one token each.

A stream is whole if its last event has `generated_text`. A workflow that tells no tokens is streamed piece by piece, unless
details are asked for, with `null` in place of what is not known of a token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final

from deployments.router.protocols.tables import Headers
from deployments.router.protocols.tgi.parameters import NO_TOKENS, Asked
from deployments.router.sse import json_event
from workflows.errors import BadOutput, Unsupported

__all__ = ["Telling", "whole_answer"]

_FAULTS: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an answer of another form raises."""


def whole_answer(asked: Asked, output: Any) -> tuple[dict[str, Any], Headers]:
    """The answer to one request, and how many tokens it was. Raises BadOutput, and Unsupported for details without tokens."""
    with _readable():
        usage = output["usage"]
        counts = (b"x-prompt-tokens", usage["prompt_tokens"]), (b"x-generated-tokens", usage["completion_tokens"])
        headers = [(name, b"%d" % count) for name, count in counts]
        said: dict[str, Any] = {"generated_text": _whole_text(asked, output["text"])}
        if asked.parameters.details:
            said["details"] = _details(asked, output)
    return said, headers


class Telling:
    """One stream being told: `event` for each chunk, in order, and `until_end` around all of them.

    Texts of tokens that stand for text join to what is generated: half a character has none, the token that completes it
    has all of it.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._index = 0
        self._texts: list[str] = []
        self._untold = ""
        self._ended = False

    async def until_end(self, groups: AsyncGenerator[list[Any]]) -> AsyncGenerator[list[Any]]:
        """The same groups of chunks. Raises BadOutput if they stop before the answer has ended."""
        async with aclosing(groups):
            async for group in groups:
                yield group
        if not self._ended:
            raise BadOutput("the workflow's stream ended before its answer did")

    def event(self, chunk: Any) -> bytes:
        """The events of one chunk: one for every token in it. Raises as `whole_answer` does."""
        with _readable():
            return self._events(chunk)

    def _events(self, chunk: Mapping[str, Any]) -> bytes:
        self._texts.append(chunk["text"])
        self._untold += chunk["text"]
        self._ended = chunk.get("finish_reason") is not None
        tokens = chunk.get("tokens")
        if (self._asked.parameters.details or self._asked.parameters.top_n_tokens) and not _known(tokens):
            raise _no_tokens()
        told = [self._event(token, text) for token, text in zip(tokens or (), self._shares(tokens or ()), strict=True)]
        if not told and (self._ended or (tokens is None and self._untold)):
            told.append(self._event(None, self._untold))
            self._untold = ""
        if self._ended:
            told[-1]["generated_text"] = _whole_text(self._asked, "".join(self._texts))
            if self._asked.parameters.details:
                told[-1]["details"] = {**_ended(chunk), "input_length": chunk["usage"]["prompt_tokens"]}
        return b"".join(map(json_event, told))

    def _shares(self, tokens: Sequence[Mapping[str, Any]]) -> list[str]:
        """What each token has of the text that was not told yet: its own as far as that is next, the last one the rest."""
        speaking = [index for index, token in enumerate(tokens) if not token["special"]]
        shares = []
        for index, token in enumerate(tokens):
            own = share = token["text"]
            if not token["special"]:
                is_next = self._untold.startswith(own)
                share = self._untold if index == speaking[-1] else own if is_next else ""
                self._untold = self._untold[len(share) :]
            shares.append(share)
        return shares

    def _event(self, token: Mapping[str, Any] | None, text: str) -> dict[str, Any]:
        self._index += 1
        said: dict[str, Any] = {"index": self._index, "token": _token(token, text)}
        if token is not None and self._asked.parameters.top_n_tokens:
            said["top_tokens"] = _top_tokens(token)
        return {**said, "generated_text": None, "details": None}


@contextmanager
def _readable() -> Generator[None]:
    """For reading what a workflow gave: BadOutput where that is something else than it should be."""
    try:
        yield
    except _FAULTS as cause:
        raise BadOutput("the workflow gave no answer of its kind, generate") from cause


def _whole_text(asked: Asked, text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError
    return asked.inputs + text if asked.parameters.return_full_text else text


def _details(asked: Asked, output: Mapping[str, Any]) -> dict[str, Any]:
    tokens = output.get("tokens")
    if tokens is None or not _known(tokens):
        raise _no_tokens()
    details = {**_ended(output), "prefill": [], "tokens": [_token(token, token["text"]) for token in tokens]}
    if asked.parameters.top_n_tokens:
        details["top_tokens"] = [_top_tokens(token) for token in tokens]
    return details


def _ended(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Why and where an answer ended, from the whole one or its last chunk."""
    reason = "eos_token" if answer.get("stop_string") is None else "stop_sequence"
    return {
        "finish_reason": "length" if answer["finish_reason"] == "length" else reason,
        "generated_tokens": answer["usage"]["completion_tokens"],
        "seed": answer.get("seed"),
    }


def _token(token: Mapping[str, Any] | None, text: str) -> dict[str, Any]:
    """None is a piece of text of which nothing else is known."""
    if token is None:
        return {"id": None, "text": text, "logprob": None, "special": not text}
    return {"id": token["id"], "text": text, "logprob": token["logprob"], "special": token["special"]}


def _top_tokens(token: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_token(other, other["text"]) for other in token["top"]]


def _known(tokens: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether they are told as this protocol tells them: some remote models say no ids."""
    return tokens is not None and all(token["id"] is not None for token in tokens)


def _no_tokens() -> Unsupported:
    return Unsupported(NO_TOKENS, param="details")
