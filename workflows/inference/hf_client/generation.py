"""Text from `huggingface_hub`'s client: a prompt goes on as TGI has it, a conversation as OpenAI has it.

Each attempt has a client of its own, closed with it: a stream's connection is held by its client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from workflows.errors import Unsupported
from workflows.inference.hf_client.connection import Connection
from workflows.inference.hub_chat import HUB_CHAT, chat_pieces, chat_request, whole_chat
from workflows.inference.tgi_wire import (
    TgiAnswer,
    TgiEvent,
    TgiStream,
    parameters_of,
    prompt_of,
    told_usage,
    whole_answer,
)
from workflows.remote.clock import Clock
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.remote.usage import TokenCounter
from workflows.types.text import Generate, Generated, TextChunk

__all__ = ["HubText"]

# What the client's method has arguments for; the rest goes into its `extra_body`.
_ARGUMENTS: Final = frozenset(
    {
        *("frequency_penalty", "logit_bias", "logprobs", "max_tokens", "presence_penalty", "response_format", "seed"),
        *("stop", "temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
    }
)


class HubText:
    """What one workflow asks about text. Its methods are attempts: they raise UpstreamFailure and the caller's errors.

    Args:
        prompts: Whether a prompt may be sent as it is, and not only a conversation.
        counter: Of tokens that the upstream does not tell.
    """

    def __init__(self, connection: Connection, *, prompts: bool, counter: TokenCounter, clock: Clock) -> None:
        self._connection = connection
        self._prompts = prompts
        self._counter = counter
        self._clock = clock

    def check(self, asked: Generate) -> None:
        """Raises InvalidInput for what cannot be asked here."""
        if asked.messages is not None:
            chat_request(asked, HUB_CHAT)
        elif not self._prompts:
            param = "prompt" if asked.prompt is not None else "prompt_tokens"
            raise Unsupported(f"{param}: the upstream takes messages only", param=param)
        else:
            prompt_of(asked)
            self._parameters(asked)

    async def whole(self, asked: Generate, model: str | None) -> Generated:
        return await (self._said(asked, model) if asked.messages is not None else self._continued(asked, model))

    def pieces(self, asked: Generate, model: str | None) -> AsyncGenerator[TextChunk | None]:
        """None is a sign of life, with nothing to tell."""
        return self._saying(asked, model) if asked.messages is not None else self._continuing(asked, model)

    # ---- prompts -------------------------------------------------------------------------------------------------------

    async def _continued(self, asked: Generate, model: str | None) -> Generated:
        async with self._connection.client(model) as (client, heard):
            given = await client.text_generation(asked.prompt, details=True, **self._parameters(asked))
            answer = TgiAnswer.model_validate(dict(given))
            usage = await told_usage(
                answer.details, heard.headers, lambda: self._counter.usage(asked, answer.generated_text)
            )
            return whole_answer(asked, answer, usage)

    async def _continuing(self, asked: Generate, model: str | None) -> AsyncGenerator[TextChunk | None]:
        async with self._connection.client(model) as (client, heard):
            stream = TgiStream(asked)
            events = await client.text_generation(asked.prompt, details=True, stream=True, **self._parameters(asked))
            async with aclosing(events):
                async for event in events:
                    yield stream.chunk(TgiEvent.model_validate(dict(event)))
            if stream.last is None:
                raise UpstreamFailure(FailureKind.CUT, detail="no last token")
            yield stream.end(
                await told_usage(stream.last.details, heard.headers, lambda: self._counter.usage(asked, stream.text))
            )

    def _parameters(self, asked: Generate) -> dict[str, Any]:
        parameters = parameters_of(asked)
        if (
            parameters["max_new_tokens"] is None
        ):  # the client would leave it out, and the server take a number of its own
            raise Unsupported("sampling.max_tokens: the upstream must be told a number", param="sampling.max_tokens")
        return parameters

    # ---- conversations -------------------------------------------------------------------------------------------------

    async def _said(self, asked: Generate, model: str | None) -> Generated:
        async with self._connection.client(model) as (client, _):
            given = await client.chat_completion(**_chat(asked), model=model)
            return await whole_chat(asked, HUB_CHAT, given, self._counter)

    async def _saying(self, asked: Generate, model: str | None) -> AsyncGenerator[TextChunk | None]:
        async with self._connection.client(model) as (client, _):
            events = await client.chat_completion(
                **_chat(asked), model=model, stream=True, stream_options={"include_usage": True}
            )
            async with (
                aclosing(events),
                aclosing(chat_pieces(asked, HUB_CHAT, events, self._counter, self._clock)) as pieces,
            ):
                async for piece in pieces:
                    yield piece


def _chat(asked: Generate) -> dict[str, Any]:
    body = chat_request(asked, HUB_CHAT)
    arguments = {name: body.pop(name) for name in ("messages", *_ARGUMENTS) if name in body}
    return {**arguments, "extra_body": body or None}
