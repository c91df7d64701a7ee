"""One answer being put together from what a provider tells, in pieces or at once. Knows no provider's words.

What it gives obeys the exchange types: the text ends before its stop string whoever tells it, and the last chunk alone has
the reason for the end and the usage.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from workflows.inference.generation.stop_strings import StopStrings
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.types.text import FinishReason, Generate, TextChunk, Token, Usage
from workflows.types.tools import ToolCallPiece

__all__ = ["Answer"]


@dataclass(slots=True)
class _Call:
    id: str
    name: str


class Answer:
    """Push what comes, in order; `last()` once there is no more.

    Attributes:
        usage: As the provider told it last.
    """

    def __init__(self, asked: Generate) -> None:
        self._stops = StopStrings(asked.sampling.stop, include=asked.include_stop)
        self._include_stop = asked.include_stop
        self._top = asked.top_logprobs
        self._tells_tokens = False
        self._held: TextChunk | None = None  # where tokens are told, the last of them is in the last chunk
        self._said: list[str] = []
        self._calls: list[_Call] = []
        self._places: dict[object, int] = {}
        self._finish: FinishReason | None = None
        self._stop_string: str | None = None
        self.usage: Usage | None = None

    @property
    def finished(self) -> bool:
        """Whether it is whole, though its usage may still come."""
        return self._finish is not None

    @property
    def said(self) -> str:
        """All that the model has written, calls of tools included: what a count of its tokens goes by."""
        return "".join(self._said)

    @property
    def calls_tools(self) -> bool:
        return bool(self._calls)

    def push(
        self, text: str = "", tokens: Sequence[Token] | None = None, calls: Sequence[ToolCallPiece] = ()
    ) -> TextChunk | None:
        """The chunk that tells it; None where nothing of it can be told yet. Raises UpstreamFailure after the end."""
        if self.finished and (text or calls):
            raise UpstreamFailure(FailureKind.MALFORMED, detail="text after the end")
        self._said.append(text)
        certain = self._stops.push(text)
        if tokens is not None and self._top is not None:
            self._tells_tokens = True
        told = list(tokens or ()) if self._tells_tokens else None
        if not certain and not told and not calls:
            return None
        chunk = TextChunk(text=certain, tokens=told, tool_calls=list(calls) or None)
        if told is None:
            return chunk
        before, self._held = self._held, chunk
        return before

    def call(self, place: object, call_id: str | None, name: str | None, arguments: str) -> ToolCallPiece:
        """A piece of the call that the provider calls by `place`: its id and name come with the first one, and once.

        Raises UpstreamFailure for one that begins without a name.
        """
        index = self._places.get(place)
        if index is not None:
            self._said.append(arguments)
            return ToolCallPiece(index=index, arguments=arguments)
        if not name:
            raise UpstreamFailure(FailureKind.MALFORMED, detail="a tool call without a name")
        index = self._places[place] = len(self._calls)
        self._calls.append(_Call(call_id or f"call_{secrets.token_hex(12)}", name))
        self._said += [name, arguments]
        call = self._calls[index]
        return ToolCallPiece(index=index, id=call.id, name=call.name, arguments=arguments)

    def finish(self, reason: FinishReason, stop_string: str | None = None) -> None:
        """It has ended. `stop_string`: which one it was, where the provider says so."""
        self._finish = reason
        self._stop_string = stop_string

    def last(self, usage: Usage | None) -> TextChunk:
        """The last chunk. Raises UpstreamFailure where the answer never ended."""
        if self._finish is None or usage is None:
            raise UpstreamFailure(FailureKind.CUT, detail="no reason for the end")
        rest = self._stops.flush()
        if self._include_stop and self._stop_string is not None and self._stops.found is None:
            rest += self._stop_string
        found = self._stops.found or self._stop_string
        reason = "stop" if found is not None and self._finish == "length" else self._finish
        end = {"finish_reason": reason, "usage": usage, "stop_string": found}
        held = self._held or TextChunk(text="", tokens=[] if self._tells_tokens else None)
        return held.model_copy(update={**end, "text": held.text + rest})
