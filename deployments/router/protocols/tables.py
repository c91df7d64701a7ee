"""From an error's `code` to what a protocol answers: status, headers, body. One table per protocol; no other translation.

HTTP's protocols share one mapping to statuses, from which TGI's differs, and gRPC has its own.

A stream that has begun has no status left: then only the body is used, as an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from deployments.router.refusals import MethodNotAllowed
from workflows.errors import WorkflowError

__all__ = [
    "GRPC",
    "HUGGING_FACE",
    "NATIVE",
    "OPENAI",
    "OPEN_INFERENCE",
    "TGI",
    "ErrorTable",
    "GrpcErrorTable",
    "Headers",
    "Trailers",
    "native_error",
]

Headers = list[tuple[bytes, bytes]]
Trailers = list[tuple[str, str]]

_STATUS: Final[Mapping[str, int]] = {
    "parse": 400,
    "invalid": 400,
    "context": 400,
    "unauth": 401,
    "forbidden": 403,
    "no_model": 404,
    "no_route": 404,
    "method": 405,
    "slow_body": 408,
    "conflict": 409,
    "too_large": 413,
    "uri": 414,
    "media": 415,
    "host": 421,
    "limited": 429,
    "hdr": 431,
    "cancelled": 499,  # in logs only: nobody is there to hear it
    "internal": 500,
    "bad_output": 500,
    "upstream": 502,
    "overload": 503,
    "loading": 503,
    "deadline": 504,
}
# The rest of the body was not read, so the connection cannot be used again.
_CLOSING: Final = frozenset({"too_large", "slow_body", "uri", "hdr"})


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """How one protocol says what went wrong.

    Attributes:
        statuses: HTTP status by code; complete, and a code that is not in it is answered as `internal`.
        body: The JSON body for an error and a request id; it gets errors whose message may be shown.
    """

    statuses: Mapping[str, int]
    body: Callable[[WorkflowError, str], Any]

    def shown(self, error: WorkflowError) -> WorkflowError:
        """The error as callers see it: a fault of ours says nothing but that it is one."""
        return _shown(error, self.statuses)

    def status(self, error: WorkflowError) -> int:
        return self.statuses[self.shown(error).code]

    def headers(self, error: WorkflowError) -> Headers:
        headers: Headers = []
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % _whole_seconds(error.retry_after_s)))
        if error.code == "unauth":
            headers.append((b"www-authenticate", b"Bearer"))
        elif error.code == "media":
            headers.append((b"accept", b"application/json"))
            headers.append((b"accept-encoding", b"identity"))
        elif error.code in _CLOSING:
            headers.append((b"connection", b"close"))
        elif isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allowed.encode()))
        if error.may_have_run and error.code == "deadline":
            headers.append((b"x-should-retry", b"false"))  # official SDKs repeat a 5xx by themselves
        return headers


def _shown(error: WorkflowError, known: Container[str]) -> WorkflowError:
    return error if error.code in known and error.code != "internal" else WorkflowError()


def _whole_seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def _text(error: WorkflowError) -> str:
    """The message, also where a model's text in it is no valid Unicode."""
    return _as_unicode(error.message)


def _as_unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def native_error(error: WorkflowError, request_id: str) -> dict[str, Any]:
    """What stands in `error`, in an answer, an event or a member of a batch."""
    return {
        "code": error.code,
        "message": _text(error),
        "request_id": request_id,
        "retryable": error.retryable,
    }


_OPENAI: Final[Mapping[str, tuple[str, str]]] = {
    "parse": ("invalid_request_error", "invalid_json"),
    "invalid": ("invalid_request_error", "invalid_value"),
    "context": ("invalid_request_error", "context_length_exceeded"),
    "unauth": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", "model_not_allowed"),
    "no_model": ("invalid_request_error", "model_not_found"),
    "no_route": ("invalid_request_error", "unknown_url"),
    "method": ("invalid_request_error", "method_not_allowed"),
    "slow_body": ("invalid_request_error", "request_timeout"),
    "conflict": ("invalid_request_error", "idempotency_conflict"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "uri": ("invalid_request_error", "uri_too_long"),
    "media": ("invalid_request_error", "unsupported_media_type"),
    "host": ("permission_error", "unknown_host"),
    "limited": ("rate_limit_error", "rate_limit_exceeded"),
    "hdr": ("invalid_request_error", "headers_too_large"),
    "cancelled": ("server_error", "cancelled"),
    "internal": ("server_error", "internal_error"),
    "bad_output": ("server_error", "non_finite_output"),
    "upstream": ("server_error", "upstream_error"),
    "overload": ("server_error", "server_is_overloaded"),
    "loading": ("server_error", "model_loading"),
    "deadline": ("server_error", "deadline_exceeded"),
}
"""What OpenAI's clients know an error by: its type and its code."""
_TOO_LONG: Final = ("context length exceeded", "this model's maximum context length is exceeded")
"""What workflows say, and what gateways look for to try a model with a longer context: they know it by OpenAI's words only."""


def _openai_error(error: WorkflowError) -> dict[str, Any]:
    kind, code = _OPENAI[error.code]
    param = None if error.param is None else _as_unicode(error.param)
    message = _text(error)
    if error.code == "context":
        message = message.replace(*_TOO_LONG, 1)
    return {"message": message, "type": kind, "param": param, "code": code}


NATIVE: Final = ErrorTable(_STATUS, lambda error, request_id: {"error": native_error(error, request_id)})
OPEN_INFERENCE: Final = ErrorTable(_STATUS, lambda error, request_id: {"error": _text(error)})
OPENAI: Final = ErrorTable(_STATUS, lambda error, request_id: {"error": _openai_error(error)})

# ---- TGI ---------------------------------------------------------------------------------------------------------------

_TGI_OWN_STATUS: Final[Mapping[str, int]] = {"overload": 429, "upstream": 424, "bad_output": 424}
_TGI_STATUS: Final[Mapping[str, int]] = {
    code: _TGI_OWN_STATUS.get(code, 422 if status == 400 else status) for code, status in _STATUS.items()
}
_TGI_TYPES: Final[Mapping[str, str]] = {
    "unauth": "unauthorized",
    "forbidden": "forbidden",
    "host": "forbidden",
    "no_model": "not_found",
    "no_route": "not_found",
    "conflict": "conflict",
    "slow_body": "timeout",
    "deadline": "timeout",
    "limited": "overloaded",
    "overload": "overloaded",
    "loading": "overloaded",
    "upstream": "generation",
    "bad_output": "generation",
    "internal": "generation",
}
"""What TGI's clients know an error by, where it is not `validation`: whatever else the caller would have to change."""

TGI: Final = ErrorTable(
    _TGI_STATUS,
    lambda error, request_id: {"error": _text(error), "error_type": _TGI_TYPES.get(error.code, "validation")},
)

# ---- Hugging Face ------------------------------------------------------------------------------------------------------


def _hugging_face_error(error: WorkflowError) -> dict[str, Any]:
    """Its clients read `error_type` where they have asked for text, and older ones how long a model takes to load."""
    said = {"error": _text(error), "error_type": _TGI_TYPES.get(error.code, "validation")}
    if error.code == "loading" and error.retry_after_s is not None:
        return {**said, "estimated_time": error.retry_after_s}
    return said


HUGGING_FACE: Final = ErrorTable(_STATUS, lambda error, request_id: _hugging_face_error(error))

# ---- gRPC --------------------------------------------------------------------------------------------------------------

_CODES: Final[Mapping[str, grpc.StatusCode]] = {
    "parse": grpc.StatusCode.INVALID_ARGUMENT,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "context": grpc.StatusCode.INVALID_ARGUMENT,
    "unauth": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "no_model": grpc.StatusCode.NOT_FOUND,
    "no_route": grpc.StatusCode.UNIMPLEMENTED,
    "method": grpc.StatusCode.UNIMPLEMENTED,
    "slow_body": grpc.StatusCode.DEADLINE_EXCEEDED,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "uri": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "media": grpc.StatusCode.UNIMPLEMENTED,
    "host": grpc.StatusCode.PERMISSION_DENIED,
    "limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "hdr": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "cancelled": grpc.StatusCode.CANCELLED,
    "internal": grpc.StatusCode.INTERNAL,
    "bad_output": grpc.StatusCode.INTERNAL,
    "upstream": grpc.StatusCode.UNAVAILABLE,
    "overload": grpc.StatusCode.UNAVAILABLE,
    "loading": grpc.StatusCode.UNAVAILABLE,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
}
NEVER: Final = "-1"


@dataclass(frozen=True, slots=True)
class GrpcErrorTable:
    """The same over gRPC: a status, its text, and metadata that come with it.

    When to try again is said twice: as HTTP says it, and as gRPC's own retries heed it. (A `google.rpc.RetryInfo` would
    be a third time, in a package of its own, for clients that read it themselves.)
    """

    statuses: Mapping[str, grpc.StatusCode]

    def shown(self, error: WorkflowError) -> WorkflowError:
        """The error as callers see it: a fault of ours says nothing but that it is one."""
        return _shown(error, self.statuses)

    def status(self, error: WorkflowError) -> grpc.StatusCode:
        return self.statuses[self.shown(error).code]

    def text(self, error: WorkflowError) -> str:
        return _text(self.shown(error))

    def trailers(self, error: WorkflowError) -> Trailers:
        if error.retry_after_s is not None:
            milliseconds = max(0, math.ceil(error.retry_after_s * 1e3))
            return [
                ("retry-after", str(_whole_seconds(error.retry_after_s))),
                ("grpc-retry-pushback-ms", str(milliseconds)),
            ]
        if error.may_have_run and error.code == "deadline":
            return [("x-should-retry", "false"), ("grpc-retry-pushback-ms", NEVER)]
        return []


GRPC: Final = GrpcErrorTable(_CODES)
