"""A stream's chunks, however a workflow makes them: closed when they are left, given up when nobody waits for them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any

from workflows.context import current_call
from workflows.deadlines import given_up

__all__ = ["achunks", "awhile_wanted", "chunks", "while_wanted"]


def chunks(do_stream: Callable[[Any], Any], prepared: Any) -> Generator[Any]:
    """What the hook gives, a generator or any other iterator; closed, where it can be, at the end or when this is."""
    made = do_stream(prepared)
    if not isinstance(made, Iterable):
        raise _no_iterator(made)
    try:
        for chunk in made:  # noqa: UP028 - `yield from` would close it as well, and then it is closed twice
            yield chunk
    finally:
        close = getattr(made, "close", None)
        if callable(close):
            close()


async def achunks(do_stream: Callable[[Any], Any], prepared: Any) -> AsyncGenerator[Any]:
    """As `chunks`, for a hook that may be async."""
    made = do_stream(prepared)
    if inspect.isawaitable(made):
        made = await made
    if not isinstance(made, AsyncIterable | Iterable):
        raise _no_iterator(made)
    try:
        if isinstance(made, AsyncIterable):
            async for chunk in made:
                yield chunk
        else:
            for chunk in made:
                yield chunk
    finally:
        close = getattr(made, "aclose", None) or getattr(made, "close", None)
        closed = close() if callable(close) else None
        if inspect.isawaitable(closed):
            await closed


def while_wanted(made: Iterable[Any]) -> Iterator[Any]:
    """The chunks until the caller leaves or their time is up: a whole answer is given up where its stream would be."""
    call = current_call()
    for chunk in made:
        late = given_up(call, begun=True)
        if late is not None:
            raise late
        yield chunk


async def awhile_wanted(made: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """As `while_wanted`."""
    call = current_call()
    async for chunk in made:
        late = given_up(call, begun=True)
        if late is not None:
            raise late
        yield chunk


def _no_iterator(made: object) -> TypeError:
    return TypeError(f"do_stream must be a generator or return an iterator, not {type(made).__name__}")
