"""What one endpoint does with a request: a body for the provider, and an answer out of what comes back. No resilience.

Errors of the library that asks, and of what reads its answers, leave as they are: `workflows.remote` knows what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote

from workflows.errors import Unsupported
from workflows.inference.css.answers import Answer
from workflows.inference.css.anthropic_answers import AnthropicReader
from workflows.inference.css.anthropic_requests import message_body
from workflows.inference.css.asked import AskEmbedding, AskText
from workflows.inference.css.clients import Client
from workflows.inference.css.openai_answers import OpenAIReader, read_embedding
from workflows.inference.css.openai_forms import EmbeddingsForm
from workflows.inference.css.openai_requests import chat_body, completion_body, embedding_body
from workflows.inference.css.parameters import check_embed
from workflows.inference.css.providers import PROVIDERS, Endpoint, ProviderName, Takes
from workflows.remote.clock import Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_exception
from workflows.remote.usage import TokenCounter
from workflows.types.conversation import Message
from workflows.types.embed import Embedding
from workflows.types.text import Generated, TextChunk

__all__ = ["END", "Asking", "Means", "Order", "writing"]

_AFTERWORD_S: Final = 2.0
"""How long the usage, and the end of the stream, may take once the answer is whole. Without them it is whole all the same."""
END: Final[Any] = object()
_NO_MATTER: Final = frozenset({FailureKind.CUT, FailureKind.SILENT})


@dataclass(frozen=True, slots=True)
class Means:
    """What a replica asks with.

    Attributes:
        counter: Counts what the provider does not tell.
        open_encoder: See `workflows.inference.speech.encoders`, where something is to be said aloud.
    """

    client: Client
    counter: TokenCounter
    clock: Clock
    open_encoder: Any = None


@dataclass(frozen=True, slots=True)
class Order:
    """A request, ready to be sent.

    Attributes:
        asked: As it is to be read and counted.
        echo: What the answer is to begin with, which the provider is not asked for.
    """

    asked: Any
    path: str
    body: Mapping[str, Any]
    echo: str = ""


class Asking(ABC):
    """One endpoint of one provider.

    Args:
        most: No answer is longer than so many tokens.

    Attributes:
        types: Input, output and chunk of the workflow.
    """

    types: ClassVar[tuple[Any, Any, Any]]

    def __init__(self, provider: ProviderName, endpoint: Endpoint, takes: Takes, most: int | None) -> None:
        self._provider = provider
        self._endpoint = endpoint
        self._takes = takes
        self._most = most

    @property
    def streams(self) -> bool:
        return self.types[2] is not Any

    def order(self, asked: Any, model: str) -> Order:
        """Raises Unsupported and InvalidInput for what the provider does not have."""
        path = self._takes.path.format(model=quote(model, safe=""))
        return Order(asked, path, {"model": model, **self._body(asked)})

    @abstractmethod
    def _body(self, asked: Any) -> dict[str, Any]: ...

    @abstractmethod
    async def whole(self, order: Order, means: Means) -> Any:
        """One answer."""

    def pieces(self, order: Order, means: Means) -> AsyncGenerator[Any]:
        """The chunks of an answer; None is a sign of life, with nothing to tell."""
        raise NotImplementedError


class _Reader(Protocol):
    answer: Answer

    def push(self, event: Any) -> TextChunk | None: ...


class _Texts(Asking):
    types = (AskText, Generated, TextChunk)

    def order(self, asked: AskText, model: str) -> Order:
        if asked.echo and asked.prompt is None:
            raise Unsupported("echo: only of a prompt that is text", param="echo")
        if self._endpoint == "chat" and asked.messages is None and asked.prompt is not None:
            said = Message(role="user", content=asked.prompt)
            conversation = asked.model_copy(update={"messages": [said], "prompt": None})
            made = super().order(conversation, model)
        else:
            made = super().order(asked, model)
        return replace(made, echo=asked.prompt or "") if asked.echo else made

    def _body(self, asked: AskText) -> dict[str, Any]:
        if PROVIDERS[self._provider].sdk == "anthropic":
            return message_body(asked, self._takes, self._provider, self._most)
        made = chat_body if self._endpoint == "chat" else completion_body
        return made(asked, self._takes, self._provider, self._most)

    def _reader(self, order: Order, means: Means) -> _Reader:
        if PROVIDERS[self._provider].sdk == "anthropic":
            return AnthropicReader(order.asked)
        return OpenAIReader(order.asked, self._takes, means.counter.id_of)

    async def whole(self, order: Order, means: Means) -> Generated:
        reader = self._reader(order, means)
        said = await means.client.ask(order.path, order.body)
        with _readable():
            first = reader.push(said)
        last = await self._last(reader, order, means)
        with _readable():
            return Generated.fold([last] if first is None else [first, last])

    async def pieces(self, order: Order, means: Means) -> AsyncGenerator[TextChunk | None]:
        reader = self._reader(order, means)
        asks = self._takes.usage == "asked"
        body = {**order.body, "stream_options": {"include_usage": True}} if asks else order.body
        async with aclosing(means.client.events(order.path, body)) as events:
            while (event := await next_event(events, reader.answer, means.clock)) is not END:
                with _readable():
                    chunk = reader.push(event)
                yield chunk
        yield await self._last(reader, order, means)

    async def _last(self, reader: _Reader, order: Order, means: Means) -> TextChunk:
        answer = reader.answer
        usage = answer.usage
        if usage is None and answer.finished:
            usage = await means.counter.usage(order.asked, answer.said)
        with _readable():
            return answer.last(usage)


class _Embeddings(Asking):
    types = (AskEmbedding, Embedding, Any)

    def _body(self, asked: AskEmbedding) -> dict[str, Any]:
        check_embed(asked, self._takes, self._provider)
        return embedding_body(asked, self._takes)

    async def whole(self, order: Order, means: Means) -> Embedding:
        said = await means.client.ask(order.path, order.body)
        with _readable():
            form = EmbeddingsForm.model_validate(said)
        asked: AskEmbedding = order.asked
        if form.usage is not None:
            tokens = form.usage.prompt_tokens
        elif asked.tokens is not None:
            tokens = len(asked.tokens)
        else:
            tokens = await means.counter.text(asked.text or "", specials=True)
        return read_embedding(asked, form, tokens)


def writing(provider: ProviderName, endpoint: Endpoint, takes: Takes, most: int | None) -> Asking:
    """For an endpoint that writes text, or vectors."""
    kind = _Embeddings if endpoint == "embeddings" else _Texts
    return kind(provider, endpoint, takes, most)


async def next_event(events: AsyncGenerator[object], answer: Answer, clock: Clock) -> object:
    """The next event, or `END`: also where an answer that is whole breaks off, or goes on without saying anything."""
    try:
        async with clock.limit(_AFTERWORD_S if answer.finished else None):
            return await anext(events, END)
    except Exception as raised:
        failure = of_exception(raised) if answer.finished else None
        if failure is None or failure.kind not in _NO_MATTER:
            raise
        return END


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except ValueError:
        problem = UpstreamFailure(FailureKind.MALFORMED, detail="an answer of another form")
    else:
        return
    raise problem  # out here: what pydantic says shows what was answered
