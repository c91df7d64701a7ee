"""Conversations as Hugging Face's two clients carry them: OpenAI's bodies and answers, as plain JSON. Sends nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from workflows.inference.css.asking import END, next_event
from workflows.inference.css.openai_answers import OpenAIReader
from workflows.inference.css.openai_requests import chat_body
from workflows.inference.css.providers import Takes
from workflows.inference.tgi_failures import failure_of_event
from workflows.remote.clock import Clock
from workflows.remote.usage import TokenCounter
from workflows.types.text import Generate, Generated, TextChunk

__all__ = ["HUB_CHAT", "TGI_CHAT", "chat_pieces", "chat_request", "whole_chat"]

_PATH: Final = "/v1/chat/completions"
_TAKEN: Final = ("max_tokens", "temperature", "top_p", "frequency_penalty", "seed", "stop", "tools", "response_format")
HUB_CHAT: Final = Takes(
    _PATH,
    {name: name for name in (*_TAKEN, "presence_penalty", "logit_bias", "parallel_tool_calls", "top_logprobs")},
)
TGI_CHAT: Final = Takes(_PATH, {name: name for name in (*_TAKEN, "top_logprobs")}, images=frozenset({"image"}))
"""Of what OpenAI has, TGI takes `presence_penalty` and `logit_bias` and does nothing with them: so they are refused."""


def chat_request(asked: Generate, takes: Takes) -> dict[str, Any]:
    """The body for a conversation. Raises Unsupported and InvalidInput for what is not taken."""
    return chat_body(asked, takes, "the upstream", None)


async def whole_chat(asked: Generate, takes: Takes, said: Mapping[str, Any], counter: TokenCounter) -> Generated:
    """Raises UpstreamFailure, or ValueError for what is no answer."""
    reader = OpenAIReader(asked, takes, counter.id_of)
    first = reader.push(dict(said))
    last = await _last(reader, asked, counter)
    return Generated.fold([last] if first is None else [first, last])


async def chat_pieces(
    asked: Generate, takes: Takes, events: AsyncGenerator[Any], counter: TokenCounter, clock: Clock
) -> AsyncGenerator[TextChunk | None]:
    """The chunks of an answer; None is a sign of life, with nothing to tell. Raises as `whole_chat` does."""
    reader = OpenAIReader(asked, takes, counter.id_of)
    while (said := await next_event(events, reader.answer, clock)) is not END:
        if not isinstance(said, Mapping):
            raise ValueError("an event of another form")
        if said.get("error") is not None:
            raise failure_of_event(said)
        yield reader.push(dict(said))
    yield await _last(reader, asked, counter)


async def _last(reader: OpenAIReader, asked: Generate, counter: TokenCounter) -> TextChunk:
    usage = reader.answer.usage
    if usage is None and reader.answer.finished:
        usage = await counter.usage(asked, reader.answer.said)
    return reader.answer.last(usage)
