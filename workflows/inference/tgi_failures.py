"""Errors as Hugging Face's servers tell them, and its two clients after them: what they mean. Nothing they say is repeated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from workflows.errors import ContextTooLong, InvalidInput, NotReady, Overloaded, WorkflowError
from workflows.remote.failures import FailureKind, UpstreamFailure, of_status

__all__ = ["failure_of_answer", "failure_of_event", "readable"]

_MAX_LOADING_S: Final = 3600.0
# Of TGI: "`inputs` must have less than 1024 tokens. Given: 2000", "`inputs` tokens + `max_new_tokens` must be <= 2048".
_TOO_LONG: Final = re.compile(r"must have less than \d+ tokens|tokens.{0,40} must be <=|context length")
_FIELD: Final = re.compile(r"`([a-z_]{2,32})`")
# What callers know it as.
_FIELDS: Final[Mapping[str, str]] = {
    "inputs": "prompt",
    "max_new_tokens": "sampling.max_tokens",
    "truncate": "truncate",
    "top_n_tokens": "top_logprobs",
    "grammar": "response_format",
    **{
        name: f"sampling.{name}"
        for name in ("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "seed")
    },
    "stop": "sampling.stop",
    "stop_sequences": "sampling.stop",
}
_UNREADABLE: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)
_CLIENTS: Final = ("huggingface_hub", "text_generation")


def failure_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
    """Of an answer with another status than 2xx.

    Args:
        headers: By lower-case names.
        body: As far as it was read; anything.
    """
    told = _told(body)
    kind, text = told.get("error_type"), told.get("error")
    text = text if isinstance(text, str) else ""
    if status == 503:
        seconds = told.get("estimated_time")
        if isinstance(seconds, int | float) and type(seconds) is not bool and 0 <= seconds < math.inf:
            return _loading(min(float(seconds), _MAX_LOADING_S))
    if isinstance(kind, str) and kind in _TYPES:
        return _of_type(kind, text, status, of_status(status, headers).retry_after_s)
    if status in (400, 413, 422) and _TOO_LONG.search(text):
        return UpstreamFailure(FailureKind.REJECTED, status=status, error=ContextTooLong())
    return of_status(status, headers)


def _failure_in_stream(raised: Exception) -> UpstreamFailure | None:
    """Of what a client raises while it reads an answer that began well; None for what it did not make of the answer."""
    cls = type(raised)
    if cls.__module__.partition(".")[0] in _CLIENTS:
        kind = _CLASSES.get(cls.__name__)
        return None if kind is None else _of_type(kind, str(raised), None, None)
    if isinstance(raised, _UNREADABLE):
        return UpstreamFailure(FailureKind.MALFORMED, detail=cls.__name__)
    return None


@contextmanager
def readable() -> Iterator[None]:
    """Around what one of the two clients does: of an answer that cannot be read it says so, as UpstreamFailure."""
    try:
        yield
    except (WorkflowError, UpstreamFailure):
        raise
    except Exception as raised:
        failure = _failure_in_stream(raised)
        if failure is None:
            raise
    else:
        return
    raise failure  # out here, without what led to it: that may hold what callers sent


def failure_of_event(event: Mapping[str, Any]) -> UpstreamFailure:
    """Of an event that tells an error, in TGI's words or in OpenAI's."""
    told, kind = event.get("error"), event.get("error_type")
    text = told if isinstance(told, str) else ""
    return _of_type(kind if isinstance(kind, str) and kind in _TYPES else "generation", text, None, None)


def _of_type(kind: str, text: str, status: int | None, retry_after_s: float | None) -> UpstreamFailure:
    failure, detail = _TYPES[kind], f"error type {kind}"
    if failure is FailureKind.REJECTED:
        if _TOO_LONG.search(text):
            error: InvalidInput = ContextTooLong()
        else:
            named = _FIELD.search(text)
            field = _FIELDS.get(named[1]) if named else None
            says = "the upstream model does not take this input"
            error = InvalidInput(f"{field}: {says}" if field else says, param=field)
        return UpstreamFailure(failure, status=status, error=error, detail=detail)
    if failure is FailureKind.LIMITED:
        return UpstreamFailure(
            failure,
            status=status,
            retry_after_s=retry_after_s,
            error=Overloaded("the upstream model is overloaded", retry_after_s=retry_after_s or 1.0),
            detail=detail,
        )
    return UpstreamFailure(failure, status=status, retry_after_s=retry_after_s, detail=detail)


def _loading(seconds: float) -> UpstreamFailure:
    """Not a fault that speaks against the upstream, and no use in asking again before that."""
    return UpstreamFailure(
        FailureKind.LIMITED,
        status=503,
        retryable=False,
        error=NotReady("the upstream model is being loaded", retry_after_s=seconds),
        detail="the model is being loaded",
    )


def _told(body: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


_TYPES: Final[Mapping[str, FailureKind]] = {
    "generation": FailureKind.FAILED,
    "incomplete_generation": FailureKind.CUT,
    "incomplete_generation_stream": FailureKind.CUT,
    "overloaded": FailureKind.LIMITED,
    "validation": FailureKind.REJECTED,
    "template_error": FailureKind.REJECTED,
    "tool_error": FailureKind.REJECTED,
}
# As both clients call what a stream's error event says.
_CLASSES: Final[Mapping[str, str]] = {
    "GenerationError": "generation",
    "IncompleteGenerationError": "incomplete_generation",
    "OverloadedError": "overloaded",
    "ValidationError": "validation",
    "UnknownError": "generation",
    "BadRequestError": "validation",
    "ShardNotReadyError": "generation",
    "ShardTimeoutError": "generation",
    "NotFoundError": "generation",
    "RateLimitExceededError": "overloaded",
}
