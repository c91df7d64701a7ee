"""What each provider calls the reasons for which an answer ends. Knows words only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.types.text import FinishReason

__all__ = ["finish_reason"]

_WORDS: Final[Mapping[FinishReason, tuple[str, ...]]] = {
    "stop": ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_sequences"),
    "length": ("length", "max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"),
    "tool_calls": ("tool_calls", "function_call", "tool_use"),
    "content_filter": ("content_filter", "safety", "refusal", "recitation"),
}
_REASONS: Final[Mapping[str, FinishReason]] = {word: reason for reason, words in _WORDS.items() for word in words}
_BROKEN_OFF: Final = frozenset({"error", "abort", "insufficient_system_resource"})


def finish_reason(said: str, *, calls: bool) -> FinishReason:
    """Ours for a provider's. Raises UpstreamFailure where it says that it broke off, or something that nobody knows.

    Args:
        calls: Whether the answer calls tools; some call that a `stop` in streams, and callers wait for `tool_calls`.
    """
    word = said.lower()
    if word in _BROKEN_OFF:
        raise UpstreamFailure(FailureKind.FAILED, detail="it broke off its answer by itself")
    reason = _REASONS.get(word)
    if reason is None:
        raise UpstreamFailure(FailureKind.MALFORMED, detail="an unknown reason for the end")
    return "tool_calls" if calls and reason == "stop" else reason
