"""Text from the `text-generation` package's client: prompts by its `generate`, conversations by its chat.

Each call has a client of its own, through which the call finds our transport; see `session`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from workflows.inference.hub_chat import TGI_CHAT, chat_pieces, chat_request, whole_chat
from workflows.inference.tgi_client.own_client import Body
from workflows.inference.tgi_client.session import Call
from workflows.inference.tgi_failures import readable
from workflows.inference.tgi_wire import TgiStream, parameters_of, prompt_of, told_usage, whole_answer
from workflows.remote.clock import Clock
from workflows.remote.failures import FailureKind, UpstreamFailure
from workflows.remote.usage import TokenCounter
from workflows.types.text import Generate, Generated, TextChunk

if TYPE_CHECKING:
    import httpx2

__all__ = ["TgiText"]

_MODEL: Final = "tgi"


class TgiText:
    """What one workflow asks. Its methods are attempts: they raise UpstreamFailure and the caller's errors.

    Args:
        make: The package's `AsyncClient`, as an instance of ours; see `library`.
        http: Our transport.
        counter: Of tokens that the server does not tell.
    """

    def __init__(
        self, make: Callable[..., Any], http: httpx2.AsyncClient, address: str, counter: TokenCounter, clock: Clock
    ) -> None:
        self._make = make
        self._http = http
        self._address = address
        self._counter = counter
        self._clock = clock

    @staticmethod
    def check(asked: Generate) -> None:
        """Raises InvalidInput for what the server has no words for."""
        if asked.messages is not None:
            _chat(asked, stream=False)
        else:
            prompt_of(asked)
            parameters_of(asked)

    async def whole(self, asked: Generate) -> Generated:
        async with self._client() as (client, call):
            if asked.messages is not None:
                said = await client._chat_single_response(_chat(asked, stream=False))
                return await whole_chat(asked, TGI_CHAT, said, self._counter)
            answer = await client.generate(asked.prompt, **_arguments(asked))
            usage = await told_usage(
                answer.details, call.headers, lambda: self._counter.usage(asked, answer.generated_text)
            )
            return whole_answer(asked, answer, usage)

    async def pieces(self, asked: Generate) -> AsyncGenerator[TextChunk | None]:
        """None is a sign of life, with nothing to tell."""
        made = self._saying(asked) if asked.messages is not None else self._continuing(asked)
        async with aclosing(made) as pieces:
            async for piece in pieces:
                yield piece

    async def _continuing(self, asked: Generate) -> AsyncGenerator[TextChunk | None]:
        stream = TgiStream(asked)
        async with self._client() as (client, call):
            async with aclosing(client.generate_stream(asked.prompt, **_arguments(asked))) as events:
                async for event in events:
                    yield stream.chunk(event)
            if stream.last is None:
                raise UpstreamFailure(FailureKind.CUT, detail="no last token")
            yield stream.end(
                await told_usage(stream.last.details, call.headers, lambda: self._counter.usage(asked, stream.text))
            )

    async def _saying(self, asked: Generate) -> AsyncGenerator[TextChunk | None]:
        async with self._client() as (client, _):
            events = client._chat_stream_response(_chat(asked, stream=True))
            async with (
                aclosing(events),
                aclosing(chat_pieces(asked, TGI_CHAT, events, self._counter, self._clock)) as pieces,
            ):
                async for piece in pieces:
                    yield piece

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[tuple[Any, Call]]:
        """For one attempt; says of an answer that cannot be read that it cannot be read: as UpstreamFailure."""
        call = Call(self._http)
        with readable():
            yield self._make(self._address, headers=call), call


def _arguments(asked: Generate) -> dict[str, Any]:
    """As the package calls them."""
    parameters = parameters_of(asked)
    if "stop" in parameters:
        parameters["stop_sequences"] = parameters.pop("stop")
    return parameters


def _chat(asked: Generate, *, stream: bool) -> Body:
    body = chat_request(asked, TGI_CHAT)
    form: Mapping[str, Any] | None = body.get("response_format")
    if form is not None:  # there it is a grammar
        schema = form.get("json_schema", {}).get("schema", {"type": "object"})
        body["response_format"] = {"type": "json_object", "value": schema}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    return Body(model=_MODEL, **body, stream=stream, **options)
