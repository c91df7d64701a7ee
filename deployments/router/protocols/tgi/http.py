"""Text Generation Inference over HTTP: every workflow that generates text under `/tgi/{name}`, and one at the root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.openai.chat import chat_completions
from deployments.router.protocols.openai.completions import completions
from deployments.router.protocols.tables import TGI
from deployments.router.protocols.tgi.answers import Telling, whole_answer
from deployments.router.protocols.tgi.info import model_info
from deployments.router.protocols.tgi.parameters import Asked, read_request
from deployments.router.request import Protocol, Reply, Request, Route, json_reply
from deployments.router.sse import send_events
from workflows.errors import ModelNotFound, Unsupported

__all__ = ["PROTOCOL", "compat_generate", "root_routes", "routes"]

PROTOCOL: Final = Protocol("tgi", "/tgi", TGI)
_NO_MARK: Final = b""
"""A stream's last event is the one with the whole text."""


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router for every workflow; OpenAI's routes among it are at the root anyway."""

    def find(request: Request) -> Entry:
        return workflows.find(request, request.params[0])

    async def health(request: Request) -> Reply:
        return _health(well=find(request).state == "ready")

    async def chat(request: Request) -> Reply | None:
        body = await request.json()
        return await chat_completions(workflows, request, body, find(request))

    async def text(request: Request) -> Reply | None:
        body = await request.json()
        return await completions(workflows, request, body, find(request))

    base = "/tgi/{name}"
    return [
        *_routes(workflows, base, base, find),
        *_routes(workflows, f"{base}/", base, find)[:1],
        Route("GET", f"{base}/health", health, PROTOCOL),
        Route("POST", f"{base}/v1/chat/completions", chat, PROTOCOL, body="json"),
        Route("POST", f"{base}/v1/completions", text, PROTOCOL, body="json"),
    ]


def root_routes(workflows: Workflows, name: str, draining: Callable[[], bool]) -> list[Route]:
    """The same for one workflow at the root, where its health is public and that of the router as well."""

    def find(request: Request) -> Entry:
        return workflows.find(request, name)

    async def health(request: Request) -> Reply:
        try:
            ready = workflows.directory.find(name).state == "ready"
        except ModelNotFound:
            ready = False
        return _health(well=ready and not draining())

    return [*_routes(workflows, "/", "", find), Route("GET", "/health", health, PROTOCOL, access="public")]


async def compat_generate(workflows: Workflows, request: Request, entry: Entry, body: Any) -> Reply | None:
    """Answer a body that says itself whether it wants a stream; a whole answer is a list of one. Raises the error tree."""
    asked = read_request(workflows.card(entry), body)
    if asked.stream:
        await _stream(workflows, request, entry, asked)
        return None
    return await _whole(workflows, request, entry, asked, in_list=True)


def _routes(workflows: Workflows, top: str, base: str, find: Callable[[Request], Entry]) -> list[Route]:
    """Those of the workflow that `find` finds; the one that takes everything is at `top`, and the first."""

    async def compat(request: Request) -> Reply | None:
        body = await request.json()
        return await compat_generate(workflows, request, find(request), body)

    async def generate(request: Request) -> Reply:
        body = await request.json()
        entry = find(request)
        asked = read_request(workflows.card(entry), body)
        if asked.stream:
            raise Unsupported("a stream comes from generate_stream", param="stream")
        return await _whole(workflows, request, entry, asked)

    async def generate_stream(request: Request) -> None:
        body = await request.json()
        entry = find(request)
        await _stream(workflows, request, entry, read_request(workflows.card(entry), body))

    async def info(request: Request) -> Reply:
        entry = find(request)
        return json_reply(model_info(entry, workflows.card(entry)))

    return [
        Route("POST", top, compat, PROTOCOL, body="json"),
        Route("POST", f"{base}/generate", generate, PROTOCOL, body="json"),
        Route("POST", f"{base}/generate_stream", generate_stream, PROTOCOL, body="json"),
        Route("GET", f"{base}/info", info, PROTOCOL),
    ]


async def _whole(workflows: Workflows, request: Request, entry: Entry, asked: Asked, *, in_list: bool = False) -> Reply:
    output = await workflows.ask(request, entry, asked.input_data(streaming=False))
    answer, headers = whole_answer(asked, output)
    reply = json_reply([answer] if in_list else answer)
    reply.headers += headers
    return reply


async def _stream(workflows: Workflows, request: Request, entry: Entry, asked: Asked) -> None:
    telling = Telling(asked)
    total_s = workflows.stream_seconds(request)
    chunks = workflows.chunks(request, entry, asked.input_data(streaming=True), at_most_s=total_s)
    await send_events(
        request,
        telling.until_end(chunks),
        first_chunk_s=request.limits.stream_first_chunk_s,
        total_s=total_s,
        event=telling.event,
        end_mark=_NO_MARK,
    )


def _health(*, well: bool) -> Reply:
    if well:
        return Reply(200, b"", [])
    return json_reply({"error": "the model cannot answer now", "error_type": "healthcheck"}, 503)
