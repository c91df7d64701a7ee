"""The router's front for tests: the real app and dispatcher over a scripted `WorkflowClient`, and an ASGI caller.

httpx's own ASGI transport waits for whole answers, so streams and callers who leave are driven by `Visit`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpx
from starlette.types import Message, Scope

from deployments.client import Item, Outcome, Timing
from deployments.config import RouterArgs
from deployments.router.app import build_app
from deployments.router.directory import Directory, Entry, State
from deployments.router.dispatch import Dispatcher
from deployments.router.edge import Edge
from deployments.router.keys import Keys
from deployments.router.metrics import Metrics
from deployments.standing import Standing
from deployments.statistics import Statistics
from workflows.card import Card, Signature, TensorSpec
from workflows.context import CallContext
from workflows.errors import WorkflowError

Answer = Callable[[Any, CallContext], Awaitable[Any]]
Chunks = Callable[[Any], AsyncGenerator[list[Any]]]

SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", dtype="float32", shape=[-1, 2])],
    outputs=[TensorSpec(name="x", dtype="float32", shape=[-1, 2])],
)


async def echo(input_data: Any, call: CallContext) -> Any:
    """For tensors: the inputs as outputs; for everything else: the input."""
    if isinstance(input_data, dict) and "inputs" in input_data:
        return {"outputs": input_data["inputs"], "parameters": {}}
    return input_data


class ScriptedClient:
    """A workflow without a replica: what it answers is a function of the test."""

    def __init__(self, answer: Answer = echo, chunks: Chunks | None = None) -> None:
        self.answer = answer
        self.chunks = chunks
        self.calls: list[CallContext] = []

    async def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        self.calls += [item.call for item in items]
        for index, item in enumerate(items):
            try:
                outcome = Outcome(await self.answer(item.input_data, item.call), timing=Timing(0.002, 0.001, 4))
            except WorkflowError as error:
                outcome = Outcome(error=error.with_traceback(None))  # as one that came over a lane
            yield [(index, outcome)]

    async def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        self.calls.append(item.call)
        assert self.chunks is not None
        chunks = self.chunks(item.input_data)
        try:
            async for group in chunks:
                yield group
        finally:
            await chunks.aclose()

    async def cancel(self, request_ids: Sequence[str]) -> None: ...

    async def tell_waiting(self, caller: str, items: float) -> None: ...

    async def card(self) -> Card:
        raise NotImplementedError

    async def unload(self, timeout_s: float) -> list[Standing]:
        raise NotImplementedError

    async def load(self, timeout_s: float) -> list[Standing]:
        raise NotImplementedError

    async def statistics(self) -> Statistics:
        raise NotImplementedError


class Script:
    """A stream that a test steers: it gives what was put in, raises exceptions, and ends at None.

    Attributes:
        asked: How often it was asked for more.
        begun: Set when it is asked for the first time.
        closed: How often it has ended.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.begun = asyncio.Event()
        self.closed = 0
        self._steps: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, *steps: Any) -> None:
        for step in steps:
            self._steps.put_nowait(step)

    async def chunks(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        try:
            while True:
                self.asked += 1
                self.begun.set()
                step = await self._steps.get()
                if step is None:
                    return
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed += 1


class Lines:
    """The access log as parsed lines."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, line: str) -> None:
        self.texts.append(line)

    @property
    def last(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.texts[-1])
        return line


class Front:
    """An app with workflows that tests add."""

    def __init__(self, keys: Keys | None = None, **args: Any) -> None:
        self.directory = Directory()
        self.metrics = Metrics(entries=self.directory)
        self.lines = Lines()
        self.app: Edge = build_app(
            self.directory, RouterArgs.model_validate(args), keys or Keys(), self.metrics, self.lines
        )

    def add(
        self,
        name: str,
        client: ScriptedClient | None = None,
        *,
        kind: str = "json",
        state: State = "ready",
        reason: str = "",
        with_card: bool = True,
        aliases: Iterable[str] = (),
    ) -> ScriptedClient:
        client = client or ScriptedClient()
        signature = SIGNATURE if kind == "tensors" else None
        schema: dict[str, Any] = {"$ref": "#/$defs/Body[int]", "$defs": {"Body[int]": {"type": "object"}}}
        card = Card(
            name=name,
            summary=f"The workflow {name}",
            kind=kind,
            input_schema=schema,
            output_schema={"type": "object"},
            chunk_schema={"type": "string"} if client.chunks else None,
            streams=client.chunks is not None,
            signature=signature,
            aliases=list(aliases),
        )
        dispatcher = Dispatcher(client, observe=lambda timing: self.metrics.observe_outcome(name, timing))
        entry = Entry(name, dispatcher, state, reason, card=card if with_card else None)
        self.directory.put(entry)
        return client

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as caller:
            return await caller.request(method, path, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """`body` is sent as JSON, or as it is where it is bytes."""
        if isinstance(body, bytes):
            options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
            return await self.request("POST", path, content=body, **options)
        return await self.request("POST", path, json=body, **options)


class Visit:
    """One request, seen message by message; `leave()` hangs up."""

    def __init__(
        self, app: Edge, method: str, path: str, body: Any = None, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        pairs = [("host", "localhost"), ("content-type", "application/json"), *headers]
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8000),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
        }
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.room = asyncio.Event()
        self.room.set()
        self._app = app
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self._app(self.scope, self._incoming.get, self._send)

    async def _send(self, message: Message) -> None:
        await self.room.wait()
        self.messages.put_nowait(message)

    @property
    def untouched(self) -> bool:
        """Whether nothing of the body was taken."""
        return not self._incoming.empty()

    def silence(self) -> None:
        """Send no body."""
        self._incoming = asyncio.Queue()

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def next(self) -> Message:
        async with asyncio.timeout(5):
            return await self.messages.get()

    def rest(self) -> list[Message]:
        return [self.messages.get_nowait() for _ in range(self.messages.qsize())]
