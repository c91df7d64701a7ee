"""Hugging Face's inference API over HTTP: every workflow that it has words for, each at its own URL, `/hf/{name}`.

What a workflow is decides what is asked of it: a task, vectors, or text, which is TGI's protocol, as the hub itself has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.audio import audio_reply
from deployments.router.protocols.huggingface.requests import Asked, read_body
from deployments.router.protocols.huggingface.singles import SINGLES, Single
from deployments.router.protocols.huggingface.speech import speech_input
from deployments.router.protocols.huggingface.tasks import form_of
from deployments.router.protocols.huggingface.vectors import PARAMETERS, text_inputs, vectors
from deployments.router.protocols.openai.chat import chat_completions
from deployments.router.protocols.tables import HUGGING_FACE
from deployments.router.protocols.tgi.http import compat_generate
from deployments.router.request import Protocol, Reply, Request, Route, json_reply
from workflows.errors import InvalidInput, WorkflowError

__all__ = ["PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("hugging_face", "/hf", HUGGING_FACE)


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router."""

    async def ask(request: Request) -> Reply | None:
        body = await request.json()
        entry = workflows.find(request, request.params[0])
        card = workflows.card(entry)
        if card.kind == "generate":
            read_body(body)
            return await compat_generate(workflows, request, entry, _without_options(body))
        if card.kind == "embed":
            asked = read_body(body, PARAMETERS)
            return await _asked_together(workflows, request, entry, asked, text_inputs, vectors)
        if card.kind == "speech":
            return await _said(workflows, request, entry, read_body(body))
        single = SINGLES.get(card.task or "") if card.kind == "task" else None
        if single is not None:
            return await _asked_alone(workflows, request, entry, single, body)
        form = form_of(card)
        return await _asked_together(workflows, request, entry, read_body(body), form.inputs, form.answer)

    async def chat(request: Request) -> Reply | None:
        body = await request.json()
        return await chat_completions(workflows, request, body, workflows.find(request, request.params[0]))

    base = "/hf/{name}"
    return [
        Route("POST", base, ask, PROTOCOL, body="json"),
        Route("POST", f"{base}/", ask, PROTOCOL, body="json"),
        Route("POST", f"{base}/v1/chat/completions", chat, PROTOCOL, body="json"),
    ]


async def _asked_together(
    workflows: Workflows,
    request: Request,
    entry: Entry,
    asked: Asked,
    inputs: Callable[[Asked, int], list[dict[str, Any]]],
    answer: Callable[[Asked, Sequence[Any]], Any],
) -> Reply:
    """All of a request's inputs, or the first error among them."""
    given = inputs(asked, request.limits.max_batch_items)
    if len(given) == 1:
        try:
            outcomes: Sequence[Any] = [await workflows.ask(request, entry, given[0])]
        except InvalidInput as error:
            raise _as_asked(error) from error.__cause__
    else:
        outcomes = await workflows.ask_all(request, entry, given)
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, InvalidInput):
                raise _as_asked(outcome, f"input {place}: ")
            if isinstance(outcome, WorkflowError):
                raise outcome
    return json_reply(answer(asked, outcomes))


async def _asked_alone(workflows: Workflows, request: Request, entry: Entry, single: Single, body: Any) -> Reply:
    return single.reply(await workflows.ask(request, entry, single.input(body)))


async def _said(workflows: Workflows, request: Request, entry: Entry, asked: Asked) -> Reply:
    try:
        return audio_reply(await workflows.ask(request, entry, speech_input(asked)))
    except InvalidInput as error:
        raise _as_asked(error) from error.__cause__


def _as_asked(error: InvalidInput, whose: str = "") -> InvalidInput:
    """The error as the caller's own names have it."""
    message = error.message.replace("decoding.", "generate_parameters.", 1)
    if message.startswith("text: "):
        message = message.replace("text", "inputs", 1)
    return type(error)(whose + message, param=error.param)


def _without_options(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "options"}
