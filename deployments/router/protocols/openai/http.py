"""OpenAI's protocol over HTTP, under `/v1`, beside the native one. Which routes there are."""

from __future__ import annotations

from typing import Final

from deployments.router.asking import Workflows
from deployments.router.protocols.openai.chat import chat_completions
from deployments.router.protocols.openai.completions import completions
from deployments.router.protocols.openai.embeddings import embeddings
from deployments.router.protocols.openai.models import listed_models, model
from deployments.router.protocols.openai.speech import listed_voices, speech
from deployments.router.protocols.tables import OPENAI
from deployments.router.request import Protocol, Reply, Request, Route, json_reply

__all__ = ["PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("openai", "/v1", OPENAI)


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router."""

    async def index(request: Request) -> Reply:
        return json_reply(listed_models(workflows, request))

    async def one(request: Request) -> Reply:
        return json_reply(model(workflows, request, "/".join(request.params)))

    async def chat(request: Request) -> Reply | None:
        return await chat_completions(workflows, request, await request.json())

    async def text(request: Request) -> Reply | None:
        return await completions(workflows, request, await request.json())

    async def embed(request: Request) -> Reply:
        return await embeddings(workflows, request, await request.json())

    async def speak(request: Request) -> Reply | None:
        return await speech(workflows, request, await request.json())

    async def voices(request: Request) -> Reply:
        return json_reply(listed_voices(workflows, request))

    return [
        Route("GET", "/v1/models", index, PROTOCOL),
        Route("GET", "/v1/models/{name}", one, PROTOCOL),
        Route("GET", "/v1/models/{owner}/{name}", one, PROTOCOL),
        Route("POST", "/v1/chat/completions", chat, PROTOCOL, body="json"),
        Route("POST", "/v1/completions", text, PROTOCOL, body="json"),
        Route("POST", "/v1/embeddings", embed, PROTOCOL, body="json"),
        Route("POST", "/v1/audio/speech", speak, PROTOCOL, body="json"),
        Route("GET", "/v1/audio/voices", voices, PROTOCOL),
    ]
