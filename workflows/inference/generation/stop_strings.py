"""Where a text that arrives in pieces must end. Knows text only, no tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text before the stop string that is complete first; of two complete at the same place, before the longer.

    The answer does not depend on how the text was cut into pieces. What may still become a stop string is held back.

    Args:
        include: Cuts nothing: the text ends with the piece that completes a stop string, and nothing is held back.

    Attributes:
        found: The stop string, once there was one.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include
        self._held = ""
        self.found: str | None = None

    @property
    def stopped(self) -> bool:
        return self.found is not None

    def push(self, piece: str) -> str:
        """The text that is certain now that `piece` came; "" once `stopped`."""
        if self.found is not None:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        start, self.found = self._first(text)
        if self.found is not None:
            self._held = ""
            return piece if self._include else text[:start]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return piece if self._include else text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back: no more text will come."""
        rest, self._held = self._held, ""
        return "" if self._include else rest

    def _first(self, text: str) -> tuple[int, str | None]:
        places = [(place + len(stop), place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places)[1:] if places else (0, None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop`, short of all of it, with which `text` ends."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
