"""An answer's tokens between an engine and whoever reads them. Knows no engine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from workflows.errors import WorkflowError
from workflows.inference.generation.engine import Made, News

__all__ = ["BufferedAnswer"]


class BufferedAnswer:
    """See `Answer`. Belongs to its reader's event loop. Holds as many tokens as the answer may have, at most.

    Args:
        left: Called once, when the reader closes this before its end.
    """

    def __init__(self, left: Callable[[], None]) -> None:
        self.cached_tokens: int | None = None
        self._left = left
        self._tokens: deque[Made] = deque()
        self._error: WorkflowError | None = None
        self._ended = False
        self._wanted: asyncio.Future[None] | None = None

    def __aiter__(self) -> BufferedAnswer:
        return self

    async def __anext__(self) -> Made:
        while not self._tokens:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        return self._tokens.popleft()

    def close(self) -> None:
        if not self._ended:
            left, self._left = self._left, _nobody
            self._ended = True
            left()

    def receive(self, news: News) -> None:
        """What the engine has made; nothing after news that ended this."""
        self._tokens.extend(news.made)
        self.cached_tokens = news.cached_tokens
        self._error = self._error or news.error
        if news.ended:
            self._ended = True
            self._left = _nobody  # else engine and answer would hold each other until the garbage collector comes
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)


def _nobody() -> None:
    """Who hears of an answer being left once it has ended."""
