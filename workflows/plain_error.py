"""Errors as plain data, by the names of the types that this library defines. Knows no process and no transport."""

from __future__ import annotations

from typing import Final

from workflows.errors import WorkflowError, error_types

__all__ = ["PlainError", "decode_error", "encode_error"]

PlainError = tuple[str, str, str | None, float | None, bool]

# Only the types of the library itself: who imports a workflow's own before this module knows more than the other side.
_BY_NAME: Final = {kind.__name__: kind for kind in error_types() if kind.__module__ == WorkflowError.__module__}


def encode_error(error: WorkflowError) -> PlainError:
    # For a workflow's own subclass, the nearest type that both sides know.
    kind = next(kind for kind in type(error).__mro__ if _BY_NAME.get(kind.__name__) is kind)
    return (kind.__name__, error.message, error.param, error.retry_after_s, error.may_have_run)


def decode_error(wire: PlainError) -> WorkflowError:
    name, message, param, retry_after_s, may_have_run = wire
    kind = _BY_NAME.get(name, WorkflowError)
    return kind(message, param=param, retry_after_s=retry_after_s, may_have_run=may_have_run)
