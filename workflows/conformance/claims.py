"""How the conformance kit says what is wrong: one AssertionError in one sentence, with what was raised as its cause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflows.errors import WorkflowError

__all__ = ["comes", "must", "raises", "shown", "works"]


def must(holds: bool, otherwise: str, cause: object = None) -> None:
    if not holds:
        raise AssertionError(otherwise) from (cause if isinstance(cause, BaseException) else None)


def works(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"{what} raised {shown(error)}") from error


def raises(kind: type[WorkflowError], call: Callable[[], Any], what: str) -> None:
    try:
        got = call()
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise {kind.__name__}, not {shown(error)}") from error
    raise AssertionError(f"{what} must raise {kind.__name__}, but returned {shown(got)}")


async def comes(call: Callable[[], Awaitable[Any]], what: str) -> Any:
    try:
        return await call()
    except Exception as error:
        raise AssertionError(f"{what} raised {shown(error)}") from error


def shown(value: object) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= 300 else text[:300] + "..."
