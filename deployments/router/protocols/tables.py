"""From an error's `code` to what a protocol answers: status, headers, body. One table per protocol; no other translation.

A stream that has begun has no status left: then only the body is used, as an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deployments.router.refusals import MethodNotAllowed
from workflows.errors import DeadlineExceeded, WorkflowError

__all__ = ["NATIVE", "OPEN_INFERENCE", "ErrorTable", "Headers", "native_error"]

Headers = list[tuple[bytes, bytes]]

_STATUS: Final[Mapping[str, int]] = {
    "parse": 400,
    "invalid": 400,
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
        if error.code in self.statuses and error.code != "internal":
            return error
        return WorkflowError()

    def status(self, error: WorkflowError) -> int:
        return self.statuses[self.shown(error).code]

    def headers(self, error: WorkflowError) -> Headers:
        headers: Headers = []
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        if error.code == "unauth":
            headers.append((b"www-authenticate", b"Bearer"))
        elif error.code == "media":
            headers.append((b"accept", b"application/json"))
            headers.append((b"accept-encoding", b"identity"))
        elif error.code in _CLOSING:
            headers.append((b"connection", b"close"))
        elif isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allowed.encode()))
        if error.may_have_run and isinstance(error, DeadlineExceeded):
            headers.append((b"x-should-retry", b"false"))  # official SDKs repeat a 5xx by themselves
        return headers


def _text(error: WorkflowError) -> str:
    """The message, also where a model's text in it is no valid Unicode."""
    return error.message if error.message.isascii() else error.message.encode("utf-8", "replace").decode()


def native_error(error: WorkflowError, request_id: str) -> dict[str, Any]:
    """What stands in `error`, in an answer, an event or a member of a batch."""
    return {
        "code": error.code,
        "message": _text(error),
        "request_id": request_id,
        "retryable": error.retryable,
    }


NATIVE: Final = ErrorTable(_STATUS, lambda error, request_id: {"error": native_error(error, request_id)})
OPEN_INFERENCE: Final = ErrorTable(_STATUS, lambda error, request_id: {"error": _text(error)})
