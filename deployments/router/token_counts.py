"""Which tokens whose key has used: read from answers and streams of every kind, and counted in the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from deployments.router.directory import Entry
from deployments.router.metrics import Metrics

__all__ = ["StreamCount", "count_answer"]

_READING: Final = ("embed", "task")


def count_answer(metrics: Metrics, entry: Entry, key: str, output: Any) -> bool:
    """Whether an answer or the last chunk of a stream said what it took. Text workflows say `usage`, those that only read
    say `tokens`."""
    if not isinstance(output, dict):
        return False
    usage = output.get("usage")
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(prompt) is int and type(completion) is int:
            metrics.tokens(entry.name, key, prompt, completion)
            return True
    elif entry.card is not None and entry.card.kind in _READING and type(output.get("tokens")) is int:
        metrics.tokens(entry.name, key, output["tokens"], 0)
        return True
    return False


class StreamCount:
    """One stream's: what its last chunk says, or else, if it broke off or was left, that so many chunks had come."""

    __slots__ = ("_chunks", "_entry", "_key", "_metrics", "_told")

    def __init__(self, metrics: Metrics, entry: Entry, key: str) -> None:
        self._metrics = metrics
        self._entry = entry
        self._key = key
        self._chunks = 0
        self._told = False

    def add(self, group: Sequence[Any]) -> None:
        self._chunks += len(group)
        self._told = count_answer(self._metrics, self._entry, self._key, group[-1]) or self._told

    def end(self) -> None:
        """A chunk of text has a token at least."""
        card = self._entry.card
        if not self._told and self._chunks and card is not None and card.kind == "generate":
            self._metrics.tokens(self._entry.name, self._key, 0, 0, cut=self._chunks)
