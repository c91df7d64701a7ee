"""Where a text that arrives in pieces must end: nothing of a stop string is ever given out. Knows text only, no tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text before the stop string that is complete first; of two complete at the same place, before the longer.

    The answer does not depend on how the text was cut into pieces. What may still become a stop string is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is certain now that `piece` came; "" once `stopped`."""
        if self.stopped:
            return ""
        text = self._held + piece
        start = self._first(text)
        if start is not None:
            self.stopped = True
            self._held = ""
            return text[:start]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back: no more text will come."""
        rest, self._held = self._held, ""
        return rest

    def _first(self, text: str) -> int | None:
        places = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places)[1] if places else None


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop`, short of all of it, with which `text` ends."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
