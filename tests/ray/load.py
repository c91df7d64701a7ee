"""A steady load on the router, that remembers every answer that was not the right one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["Load"]

CLIENTS = 4


class Load:
    """Clients that ask as soon as they have their answer; every second one with a new connection each time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._more = asyncio.Event()
        self.right: Counter[str] = Counter()
        self.failures: list[str] = []

    def unary(self, name: str, body: Any, expected: Any) -> None:
        """Begin to ask `name`; an answer must be 200 and, unless None, equal `expected`."""
        for number in range(CLIENTS):
            self._tasks.append(asyncio.create_task(self._ask(name, body, expected, fresh=number % 2 == 0)))

    def stream(self, name: str, body: Any) -> None:
        """Begin to read streams of `name`; each must end with its end mark."""
        for number in range(CLIENTS // 2):
            self._tasks.append(asyncio.create_task(self._read(name, body, fresh=number % 2 == 0)))

    async def answers(self, count: int, name: str = "") -> None:
        """Returns after `count` more right answers (of one workflow)."""
        goal = self._count(name) + count
        async with asyncio.timeout(120):
            while self._count(name) < goal:
                self._more.clear()
                await self._more.wait()

    async def until(self, true: Callable[[], bool]) -> None:
        """Keeps the load up until `true()`, which may block and is asked on a thread."""
        async with asyncio.timeout(120):
            while not await asyncio.to_thread(true):
                await self.answers(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def _count(self, name: str) -> int:
        return self.right[name] if name else self.right.total()

    async def _ask(self, name: str, body: Any, expected: Any, *, fresh: bool) -> None:
        async with contextlib.AsyncExitStack() as open_clients:
            client = await self._client(open_clients)
            while not self._stopping:
                if fresh:
                    await open_clients.aclose()
                    client = await self._client(open_clients)
                try:
                    answer = await client.post(f"/v1/workflows/{name}/inference", json=body)
                    right = answer.status_code == 200 and expected in (None, answer.json())
                    self._note(name, right, f"{answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    self._note(name, False, repr(error))

    async def _read(self, name: str, body: Any, *, fresh: bool) -> None:
        async with contextlib.AsyncExitStack() as open_clients:
            client = await self._client(open_clients)
            while not self._stopping:
                if fresh:
                    await open_clients.aclose()
                    client = await self._client(open_clients)
                last = ""
                try:
                    async with client.stream("POST", f"/v1/workflows/{name}/stream", json=body) as answer:
                        async for line in answer.aiter_lines():
                            last = line or last
                    self._note(f"{name} stream", last == "data: [DONE]", f"ended with {last[:200]}")
                except httpx.HTTPError as error:
                    self._note(name, False, repr(error))

    async def _client(self, open_clients: contextlib.AsyncExitStack) -> httpx.AsyncClient:
        return await open_clients.enter_async_context(
            httpx.AsyncClient(
                base_url=self._url, timeout=60, verify=False, headers={"content-type": "application/json"}
            )
        )

    def _note(self, name: str, right: bool, what: str) -> None:
        if right:
            self.right[name] += 1
        else:
            self.failures.append(f"{name}: {what}")
        self._more.set()
