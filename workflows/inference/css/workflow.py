"""Models of closed-source providers and of anything that speaks as OpenAI does: one deployment asks one of them.

request -> Asking: a body in the provider's words -> Upstream: when, and how often -> Client: the provider's library
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workflows.async_base import AsyncInferenceWorkflow
from workflows.card import Card
from workflows.errors import InvalidInput, ModelNotFound
from workflows.inference.css.asking import Asking, Means, Order, writing
from workflows.inference.css.clients import Client, anthropic_client, key_header, openai_client
from workflows.inference.css.parameters import ours_for
from workflows.inference.css.providers import (
    PROVIDERS,
    Changes,
    Endpoint,
    ParameterName,
    ProviderName,
    UsageInStreams,
)
from workflows.inference.css.request_form import has_request_form, read_request_form
from workflows.inference.css.settings import address_of, taken, voices_of
from workflows.inference.css.speech import Speaking
from workflows.models.finding import check_model
from workflows.models.sources import ModelSources
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.model_id import ModelId
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef
from workflows.remote.upstream import Upstream
from workflows.remote.usage import TokenCounter
from workflows.types.exchange import Exchange
from workflows.types.text import MAX_TOKENS, Generated, TextChunk

__all__ = ["CSSInferenceWorkflow"]


class CSSInferenceWorkflow(AsyncInferenceWorkflow[Exchange, Exchange, Any]):
    """Asks a model that somebody else serves: OpenAI, Anthropic, Gemini, Mistral, and whoever speaks as OpenAI does.

    Its kind is that of its endpoint: `generate` for `chat` and `completions`, `embed` for `embeddings`, `speech`. What the
    provider does not have is refused by its name. Requests may also come in the form `{provider, endpoint, model, params}`;
    they choose neither provider nor key nor address.

    Args:
        provider: Whose API it is; `openai-compatible` is any that follows OpenAI's, at `base_url`.
        model: As the provider calls it; for `azure`, the name of the deployment there.
        endpoint: What of it is asked.
        models: Others that a request may name as its `model`.
        key: Where the provider's key stands. It is read by `setup()`, in the replica, and goes to the provider alone.
        base_url: Where the provider is asked, if that is not where it is for everybody.
        api_version: For `azure`, which needs one; for `anthropic`, `2023-06-01` is the last one that takes `temperature`,
            `top_p` and `top_k`.
        max_new_tokens: No answer is longer than this, whatever was asked for; `anthropic` has 4096 where nobody says it.
        context_tokens: Prompt and answer together, for the card; the provider holds the limit.
        voices: For `speech`: who callers may have speak, the first one where they do not say; by default OpenAI's own.
        parameters: Where a model is not like its provider's others: what callers may ask, by the name that the provider has
            for it; `refused` if it does not take it, `dropped` to leave it out without telling the caller.
        stream_usage: Whether streams tell their usage when `asked`, by themselves (`told`) or not at all (`untold`).
        tokenizer: Directory with the model's tokenizer, or an id, see `workflows.models.finding.resolve_model`: it counts the
            tokens of answers whose usage the provider does not tell, and knows the ids of those that it tells. Without it
            counts are estimated, and marked so, and tokens have no ids.
        root: Where it lies: a directory, or `package:name` for an installed Python package.
        sources: Where it comes from, or a file that says it; see `workflows.models.sources`.
        upstream: Limits, retries and patience; see `workflows.remote.policy`.

    Attributes:
        clock: What time passes by. Assign before `setup()`.
    """

    clock: Clock = SYSTEM_CLOCK
    # Asked twice, a model says another thing, which is as good: it costs more, but does no harm.
    retry_safe: ClassVar[bool] = True

    def __init__(
        self,
        provider: ProviderName,
        model: ModelId,
        *,
        endpoint: Endpoint = "chat",
        models: Annotated[list[ModelId], Field(max_length=256)] | None = None,
        key: SecretRef | None = None,
        base_url: str | None = None,
        api_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]{1,64}$")] | None = None,
        max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None,
        context_tokens: Annotated[int, Field(ge=1)] | None = None,
        voices: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=1024)
        ]
        | None = None,
        parameters: Annotated[
            dict[ParameterName, Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]], Field(max_length=64)
        ]
        | None = None,
        stream_usage: UsageInStreams | None = None,
        tokenizer: str | None = None,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        upstream: UpstreamPolicy | None = None,
    ) -> None:
        self._provider: ProviderName = provider
        self._models = dict.fromkeys([model, *(models or ())])
        self._key = key
        self._base_url = address_of(provider, base_url, key)
        self._api_version = api_version
        self._takes = taken(provider, endpoint, api_version, Changes(parameters or {}, stream_usage))
        self._endpoint: Endpoint = endpoint
        if endpoint == "speech":
            self._asking: Asking = Speaking(provider, self._takes, voices_of(provider, voices))
        else:
            self._asking = writing(provider, endpoint, self._takes, max_new_tokens)
        self._max_new_tokens = max_new_tokens
        self._context_tokens = context_tokens
        self._tokenizer = tokenizer
        self._root = root
        self._sources = sources
        self._policy = upstream or UpstreamPolicy()
        self.concurrency = self._policy.places

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        if self._tokenizer is not None:
            check_model(self._tokenizer, self._root, self._sources)

    async def do_setup(self) -> None:
        """Read the key and open the library's client. Asks the provider nothing: each question costs."""
        import httpx2

        from workflows.remote.transport import http_client

        transformers: Any = None
        if self._tokenizer is not None:
            import transformers
        counter = await asyncio.to_thread(TokenCounter.found, transformers, self._tokenizer, self._root, self._sources)
        sdk = PROVIDERS[self._provider].sdk
        key = None if self._key is None else await asyncio.to_thread(self._key.read, self.clock)
        header, prefix = key_header(sdk, self._api_version)
        http = await asyncio.to_thread(
            http_client, self._policy, self._base_url, key=key, key_header=header, key_prefix=prefix, clock=self.clock
        )
        if sdk == "anthropic":
            import anthropic

            self._client: Client = anthropic_client(anthropic, http, self._base_url, self._api_version)
        else:
            import openai

            self._client = openai_client(openai, httpx2.Response, http, self._base_url, self._api_version)
        encoders: Any = None
        if self._endpoint == "speech":
            from workflows.inference.speech import encoders
        self._means = Means(self._client, counter, self.clock, encoders and encoders.open_encoder)
        self._upstream = Upstream(self._provider, self._policy, clock=self.clock)

    async def do_teardown(self) -> None:
        await self._client.close()
        del self._client, self._means, self._upstream

    # ---- requests --------------------------------------------------------------------------------------------------

    def parse_input(self, input_data: Any) -> Exchange:
        """Also of the predecessor's form. Raises InvalidInput naming the field."""
        if has_request_form(input_data):
            input_data = read_request_form(input_data, self._provider, self._endpoint)
        return super().parse_input(input_data)

    def do_preprocessing(self, input_data: Exchange) -> Order:
        """Raises ModelNotFound, and InvalidInput for what the provider does not have."""
        model = getattr(input_data, "model", None) or next(iter(self._models))
        if model not in self._models:
            raise ModelNotFound(param="model")
        return self._asking.order(input_data, model)

    async def do_run_model(self, preprocessed_data: Order) -> Exchange:
        order = preprocessed_data
        try:
            answer: Exchange = await self._upstream.ask(lambda attempt: self._asking.whole(order, self._means))
        except InvalidInput as error:
            raise self._in_callers_words(error, order) from None
        if order.echo and isinstance(answer, Generated):
            return answer.model_copy(update={"text": order.echo + answer.text})
        return answer

    async def do_stream(self, preprocessed_data: Order) -> AsyncGenerator[TextChunk]:
        order = preprocessed_data
        echo = order.echo
        made = self._upstream.stream(lambda attempt: self._asking.pieces(order, self._means))
        try:
            async with aclosing(made) as chunks:
                async for chunk in chunks:
                    if echo:
                        yield TextChunk(text=echo)
                        echo = ""
                    yield chunk
        except InvalidInput as error:
            raise self._in_callers_words(error, order) from None

    def card(self, name: str, summary: str = "") -> Card:
        known: dict[str, Any] = {
            "model": next(iter(self._models)),
            "context_tokens": self._context_tokens,
            "max_new_tokens": self._max_new_tokens,
            # Providers tell texts of tokens alone; without their ids they are not told as who asks by the card wants them.
            "tells_tokens": self._tokenizer is not None and self._takes.parameters.get("top_logprobs") is not None,
        }
        if isinstance(self._asking, Speaking):
            known["voices"] = list(self._asking.voices)
        return super().card(name, summary).model_copy(update=known)

    @property
    def streams(self) -> bool:
        return self._asking.streams

    @cached_property
    def _types(self) -> tuple[Any, Any, Any]:
        """Those of the endpoint, which is an option and no class of its own."""
        return self._asking.types

    def _in_callers_words(self, error: InvalidInput, order: Order) -> InvalidInput:
        """The provider's complaint, about what the caller knows by another name, or not at all."""
        ours = ours_for(error.param, order.asked, self._takes)
        theirs, message = f"{error.param}: ", error.message
        if message.startswith(theirs):
            message = message.removeprefix(theirs) if ours is None else message.replace(theirs, f"{ours}: ", 1)
        return type(error)(message, param=ours, may_have_run=error.may_have_run)
