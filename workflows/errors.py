"""What can go wrong, as one tree. No transport: each protocol has its own table from `code` to status and body.

    WorkflowError                 internal     a fault of ours; the message stays general
    |-- InvalidInput              invalid      the caller's input; `param` names the field
    |   |-- ContextTooLong        context      a text with more tokens than the model takes
    |   `-- Unsupported           invalid      the workflow cannot do what was asked
    |-- PermissionDenied          forbidden    known, but not allowed to do this (an operator's route, say)
    |-- ModelNotFound             no_model     absent, not listed or gated: the same answer for all three
    |-- Conflict                  conflict     the request contradicts one that came before
    |-- RateLimited               limited      the caller's share is used up
    |-- Overloaded                overload     no room now; nothing of the request was run
    |   `-- ReplicaLost           overload     the process that held the request is gone; it may have run
    |-- NotReady                  loading      not set up yet, or not any more
    |   `-- Unloaded              loading      taken out of memory by an operator, in the replica that was asked
    |-- DeadlineExceeded          deadline     the caller's time ran out; `may_have_run` says whether work began
    |-- Cancelled                 cancelled    the caller left; nobody hears this
    |-- UpstreamFailed            upstream     a remote model answered badly or not at all
    |   `-- UpstreamSilent        deadline     it took longer than its operator gives it; it may have run
    `-- BadOutput                 bad_output   the model gave something that must not be passed on

Messages are for callers: no library text, path, pid or address. The cause goes to the log, as `__cause__`.
Every field but the message is keyword-only with a default, so that the errors survive pickling.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BadOutput",
    "Cancelled",
    "Conflict",
    "ContextTooLong",
    "DeadlineExceeded",
    "InvalidInput",
    "ModelNotFound",
    "NotReady",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "ReplicaLost",
    "Unloaded",
    "Unsupported",
    "UpstreamFailed",
    "UpstreamSilent",
    "WorkflowError",
    "error_types",
]

MAX_MESSAGE_CHARS = 512


class WorkflowError(Exception):
    """The root of the tree; raised as such only for faults that have no better name.

    Args:
        message: For the caller; cut at 512 characters.
        param: The field of the input that is at fault, as a dotted path, where one is.
        retry_after_s: When trying again makes sense, in seconds from now; None when it does not.
        may_have_run: Whether the model may have seen the input before this was raised.
    """

    code: ClassVar[str] = "internal"
    default_message: ClassVar[str] = "internal error"

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        may_have_run: bool = False,
    ) -> None:
        self.message = (message or self.default_message)[:MAX_MESSAGE_CHARS]
        self.param = param
        self.retry_after_s = retry_after_s
        self.may_have_run = may_have_run
        super().__init__(self.message)

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later without being changed."""
        return self.retry_after_s is not None

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {"param": self.param, "retry_after_s": self.retry_after_s, "may_have_run": self.may_have_run}
        return (_rebuild, (type(self), self.message, fields))


def _rebuild(kind: type[WorkflowError], message: str, fields: dict[str, Any]) -> WorkflowError:
    return kind(message, **fields)


class InvalidInput(WorkflowError):
    code = "invalid"
    default_message = "invalid input"


class ContextTooLong(InvalidInput):
    code = "context"
    default_message = "context length exceeded"


class Unsupported(InvalidInput):
    default_message = "not supported by this workflow"


class PermissionDenied(WorkflowError):
    code = "forbidden"
    default_message = "not allowed"


class ModelNotFound(WorkflowError):
    code = "no_model"
    default_message = "model not found"


class Conflict(WorkflowError):
    code = "conflict"
    default_message = "conflicts with an earlier request"


class _Temporary(WorkflowError):
    """Errors that pass by themselves: a time to come back is always given."""

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after_s: float | None = 1.0,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, may_have_run=may_have_run)


class RateLimited(_Temporary):
    code = "limited"
    default_message = "rate limit exceeded"


class Overloaded(_Temporary):
    code = "overload"
    default_message = "overloaded, try again later"


class ReplicaLost(Overloaded):
    default_message = "the replica that held this request is gone"


class NotReady(_Temporary):
    code = "loading"
    default_message = "not ready"


class Unloaded(NotReady):
    """Nothing has run; it does not pass by itself, so there is no time to come back unless one is given."""

    default_message = "unloaded"

    def __init__(
        self,
        message: str = "",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, may_have_run=may_have_run)


class DeadlineExceeded(WorkflowError):
    code = "deadline"
    default_message = "deadline exceeded"


class Cancelled(WorkflowError):
    code = "cancelled"
    default_message = "cancelled"


class UpstreamFailed(WorkflowError):
    code = "upstream"
    default_message = "the upstream model failed"


class UpstreamSilent(UpstreamFailed):
    """To a caller a deadline has passed, if not theirs; to everybody else the upstream has failed, and others may answer."""

    code = "deadline"
    default_message = "the upstream model did not answer in time"


class BadOutput(WorkflowError):
    code = "bad_output"
    default_message = "the model gave an unusable output"


def error_types() -> list[type[WorkflowError]]:
    """Every public type of this module's tree, root first: what both ends of a wire know, and the protocols' tables cover."""
    found: list[type[WorkflowError]] = [WorkflowError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == __name__ and not kind.__name__.startswith("_")]
