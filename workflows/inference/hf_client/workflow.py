"""Any task of any model that Hugging Face's inference client can ask for: at its providers, or at an address of yours.

request -> arguments of one of the client's methods -> Upstream: when, and how often -> the client, on our transport
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, create_model

from workflows.async_base import AsyncInferenceWorkflow
from workflows.card import Card
from workflows.context import current_call
from workflows.errors import InvalidInput, ModelNotFound, NotReady
from workflows.inference.hf_client.asking import Arguments
from workflows.inference.hf_client.connection import OF_A_PROVIDER, OF_THE_HUB, Connection
from workflows.inference.hf_client.generation import HubText
from workflows.inference.hf_client.providers import addresses
from workflows.inference.hf_client.spoken import check_speak, speech_of
from workflows.inference.hf_client.tasks import REFUSED, TASKS, HFTask
from workflows.models.finding import check_model
from workflows.models.sources import ModelSources
from workflows.remote.address import address
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.model_id import ModelId
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import Secret, SecretRef
from workflows.remote.upstream import Upstream
from workflows.remote.usage import TokenCounter
from workflows.types.embed import Embed
from workflows.types.exchange import Exchange
from workflows.types.media import media_type
from workflows.types.speech import Speak
from workflows.types.text import Generate, TextChunk

__all__ = ["HFInferenceClientWorkflow"]

_TEXT: Final = frozenset({"text-generation", "conversational"})
_SPEAKS_TGI: Final = frozenset({"hf-inference"})
_LEAST_PAUSE_S: Final = 0.5
_MOST_PAUSE_S: Final = 10.0
_MEDIA: Final = ("image", "audio")


@dataclass(frozen=True, slots=True)
class _Order:
    """A request that can be asked."""

    asked: Exchange
    model: str | None
    arguments: Arguments


class HFInferenceClientWorkflow(AsyncInferenceWorkflow[Exchange, Exchange, Any]):
    """Asks a model by Hugging Face's inference API: at one of its providers, or at an address of yours.

    Its kind is that of its task: `generate` for `text-generation` and `conversational`, `embed` for `feature-extraction`,
    `speech` for `text-to-speech`, else `task`. What the API has no words for is refused by name.

    Args:
        task: As the hub calls it. `text-generation` continues prompts, as TGI does it, and answers conversations;
            `conversational` only answers.
        base_url: The address of an inference endpoint, or of anything that speaks like one.
        provider: Who is asked where there is no `base_url`, by its name at the hub, or `auto`.
        model: By its id at the hub; at an address, what the answer to a conversation is asked of.
        models: Others that a request may name as its `model`.
        key: Where the token stands. It is read by `setup()`, in the replica, and goes to the upstream alone.
        bill_to: The organization that pays; for a token of the hub.
        wait_for_model: Wait while the upstream says that it is still loading the model, as long as the caller's time and
            `upstream.total_s` allow, and what it says that it takes. Otherwise, callers are told when to come back.
        tokenizer: Of the model, to count tokens that the upstream does not tell: a directory, or an id where `root` is None,
            see `workflows.models.finding.resolve_model`. Without one such counts are guesses, and say so.
        root, sources: Where it lies.
        upstream: Limits, retries and patience; see `workflows.remote.policy`.
    """

    # Asked twice, a model says another thing, which is as good: it costs more, but does no harm.
    retry_safe: ClassVar[bool] = True
    clock: Clock = SYSTEM_CLOCK

    def __init__(
        self,
        task: HFTask,
        *,
        base_url: str | None = None,
        provider: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None,
        model: ModelId | None = None,
        models: Annotated[list[ModelId], Field(max_length=256)] | None = None,
        key: SecretRef | None = None,
        bill_to: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] | None = None,
        wait_for_model: bool = True,
        tokenizer: str | None = None,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        upstream: UpstreamPolicy | None = None,
    ) -> None:
        if task in REFUSED:
            raise InvalidInput(f"task: {REFUSED[task]}", param="task")
        if (base_url is None) == (provider is None):
            raise InvalidInput("base_url, provider: give one of them", param="base_url")
        if provider is not None:
            _check_provider(task, provider, model, key)
        elif models and task != "conversational":
            raise InvalidInput(f"models: an address has one model for {task}", param="models")
        self._name: HFTask = task
        self._task = TASKS[task]
        self._address = None if base_url is None else address("base_url", base_url, key)
        self._provider = provider
        self._models = dict.fromkeys([model, *(models or ())])
        self._key = key
        self._bill_to = bill_to
        self._waits = wait_for_model
        self._tokenizer = tokenizer
        self._root, self._sources = root, sources
        self._policy = upstream or UpstreamPolicy()
        self.concurrency = self._policy.places

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        if self._tokenizer is not None:
            check_model(self._tokenizer, self._root, self._sources)

    async def do_setup(self) -> None:
        """Read the key, and ask the hub who serves the model; the upstream itself is asked nothing.

        Raises InvalidInput naming an option, or WorkflowError.
        """
        import huggingface_hub
        from huggingface_hub.inference._common import MimeBytes
        from huggingface_hub.inference._providers import get_provider_helper

        from workflows.remote.transport import http_client

        self._file: Callable[[bytes, str | None], bytes] = MimeBytes
        self._helper_for: Callable[..., Any] = get_provider_helper
        if self._name == "text-to-speech":
            import soundfile

            self._soundfile = soundfile
        transformers: Any = None
        if self._tokenizer is not None:
            import transformers
        self._counter = await asyncio.to_thread(
            TokenCounter.found, transformers, self._tokenizer, self._root, self._sources
        )
        key = None if self._key is None else await asyncio.to_thread(self._key.read, self.clock)
        word = self._word(key)
        origin = self._address
        if origin is None:
            origin = await asyncio.to_thread(self._origin, word)
        http = await asyncio.to_thread(http_client, self._policy, origin, key=key, clock=self.clock)
        client: Any = huggingface_hub.AsyncInferenceClient
        make = partial(
            client,
            provider=self._provider,
            token=word,
            bill_to=self._bill_to,
            headers={"user-agent": "infernet-serve"},
        )
        self._connection = Connection(make, http, self._address)
        prompts = self._name == "text-generation"
        self._text = HubText(self._connection, prompts=prompts, counter=self._counter, clock=self.clock)
        self._upstream = Upstream(self._provider or "hf", self._policy, clock=self.clock)

    async def do_teardown(self) -> None:
        await self._connection.aclose()
        del self._connection, self._text, self._upstream

    def _word(self, key: Secret | None) -> str:
        """What the library gets in the key's place."""
        of_the_hub = key is not None and key.reveal().startswith(OF_THE_HUB)
        if self._bill_to is not None and not of_the_hub:
            raise InvalidInput("bill_to: only a token of the hub, hf_..., can be billed to others", param="bill_to")
        return OF_THE_HUB if of_the_hub else OF_A_PROVIDER

    def _origin(self, word: str) -> str:
        ask = partial(addresses, self._helper_for, str(self._provider), key=word, media=self._task.media)
        models = [model for model in self._models if model is not None]
        origin = ask(self._name, models)
        if self._name == "text-generation":
            ask("conversational", models)
        return origin

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Exchange) -> _Order:
        """Raises ModelNotFound, and InvalidInput for what the API has no words for."""
        default = next(iter(self._models))
        model = getattr(input_data, "model", None) or default
        if model not in self._models:
            raise ModelNotFound(param="model")
        if isinstance(input_data, Generate):
            self._text.check(input_data)
            return _Order(input_data, model, {})
        if isinstance(input_data, Speak):
            check_speak(input_data)
        arguments = self._task.arguments(input_data)
        for name in _MEDIA:
            if name in arguments:
                arguments[name] = self._file(arguments[name], media_type(arguments[name]))
        return _Order(input_data, model, arguments)

    async def do_run_model(self, preprocessed_data: _Order) -> Exchange:
        order, ends = preprocessed_data, self.clock.now() + self._policy.total_s
        while True:
            try:
                return await self._upstream.ask(lambda attempt: self._whole(order), at_most_s=ends - self.clock.now())
            except NotReady as error:
                await self._until_loaded(error, ends)

    async def do_stream(self, preprocessed_data: _Order) -> AsyncGenerator[TextChunk]:
        order, ends = preprocessed_data, self.clock.now() + self._policy.total_s
        assert isinstance(order.asked, Generate)
        asked = order.asked
        while True:
            made = self._upstream.stream(
                lambda attempt: self._text.pieces(asked, order.model), at_most_s=ends - self.clock.now()
            )
            try:
                async with aclosing(made) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except NotReady as error:
                await self._until_loaded(error, ends)

    async def _whole(self, order: _Order) -> Exchange:
        """One attempt."""
        if isinstance(order.asked, Generate):
            return await self._text.whole(order.asked, order.model)
        async with self._connection.client(order.model) as (client, _):
            if self._task.unopened is not None:
                given = await self._unopened(client, order.arguments, self._task.unopened)
            else:
                given = await getattr(client, self._task.method)(**order.arguments)
            if isinstance(order.asked, Speak):
                return await asyncio.to_thread(speech_of, self._soundfile, order.asked, given)
            if isinstance(order.asked, Embed):
                tokens = await self._counter.text(order.asked.text or "", specials=True)
                return self._task.read(order.asked, given, tokens)
            return self._task.read(order.asked, given)

    async def _unopened(self, client: Any, arguments: Arguments, inputs: str) -> bytes:
        """A picture's file, or what holds some: all that the client's method does, but for opening them."""
        helper = self._helper_for(client.provider, task=self._name, model=client.model)
        request = helper.prepare_request(
            inputs=arguments[inputs],
            parameters={name: value for name, value in arguments.items() if name != inputs},
            headers=client.headers,
            model=client.model,
            api_key=client.token,
        )
        body = await client._inner_post(request)
        given: bytes = await asyncio.to_thread(helper.get_response, body, request)
        return given

    async def _until_loaded(self, error: NotReady, ends: float) -> None:
        """Wait as long as the upstream says that it takes; it is looked at again now and then, since that is a guess.

        Raises the error where the caller has no time for that, or the policy, whose time `ends`.
        """
        pause, left = max(error.retry_after_s or 0.0, _LEAST_PAUSE_S), ends - self.clock.now()
        callers = current_call().seconds_left()
        if not self._waits or pause >= (left if callers is None else min(left, callers)):
            raise error
        await self.clock.sleep(min(pause, _MOST_PAUSE_S))

    # ---- what it is ------------------------------------------------------------------------------------------------

    def card(self, name: str, summary: str = "") -> Card:
        card = super().card(name, summary)
        known: dict[str, Any] = {"model": next(iter(self._models))}
        if card.kind == "task":
            known["task"] = self._name
        return card.model_copy(update=known)

    @property
    def streams(self) -> bool:
        return self._name in _TEXT

    @cached_property
    def _types(self) -> tuple[Any, Any, Any]:
        """Those of the task, which is an option and no class of its own, with a `model` where there are several."""
        asks: type[Exchange] = self._task.asks
        if len(self._models) > 1:
            asks = create_model(asks.__name__, __base__=asks, __doc__=asks.__doc__, model=(ModelId | None, None))
        return asks, self._task.answers, TextChunk if self.streams else Any


def _check_provider(task: HFTask, provider: str, model: str | None, key: SecretRef | None) -> None:
    """Raises InvalidInput naming the option that is missing or wrong."""
    if model is None:
        raise InvalidInput("model: a provider has many: say which", param="model")
    if key is None:
        raise InvalidInput("key: providers answer nobody without a key: say where it stands", param="key")
    if task == "text-generation" and provider not in _SPEAKS_TGI:
        raise InvalidInput(f"task: {provider} only answers conversations: conversational", param="task")
