"""A model behind text-generation-inference (TGI), asked through the `text-generation` package.

request -> parameters in TGI's words -> Upstream: when, and how often -> the package's client, on our transport
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from workflows.async_base import AsyncInferenceWorkflow
from workflows.card import Card
from workflows.errors import WorkflowError
from workflows.inference.tgi_client.own_client import own_client
from workflows.inference.tgi_client.settings import RetryParams, ServerFacts, policy_of
from workflows.inference.tgi_client.text import TgiText
from workflows.models.finding import check_model
from workflows.models.sources import ModelSources
from workflows.remote.address import address
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef
from workflows.remote.upstream import Upstream
from workflows.remote.usage import TokenCounter
from workflows.types.text import Generate, Generated, TextChunk

if TYPE_CHECKING:
    import httpx2

__all__ = ["TGIClientInferenceWorkflow"]

log = logging.getLogger(__name__)


class TGIClientInferenceWorkflow(AsyncInferenceWorkflow[Generate, Generated, TextChunk]):
    """Asks a text-generation-inference server, or anything that speaks like one.

    Prompts go to its own route, conversations to its chat. Whether the server is well, and what its model takes, is asked by
    `setup()`, which generates nothing. What the server has no words for is refused by name.

    Args:
        server_url: Where the server is; prompts are posted to this address itself.
        key: Where a token for it stands. It is read by `setup()`, in the replica, and goes to the server alone.
        model: What callers may know the model as; None is as the server says.
        tokenizer: Of the model, to count tokens that the server does not tell: a directory, or an id where `root` is None,
            see `workflows.models.finding.resolve_model`. Without one such counts are guesses, and say so.
        root, sources: Where it lies.
        ask_at_setup: Ask the server how it is and what it takes, and be ready only if it is well. Without, the workflow is
            ready while the server is not, and what the server does not take is known to the server alone.
        upstream: Limits, retries and patience; see `workflows.remote.policy`.
        timeout, retry_params: The same, as far as the predecessor had it; see `RetryParams`.
    """

    # Asked twice, a model says another thing, which is as good: it costs more, but does no harm.
    retry_safe: ClassVar[bool] = True
    clock: Clock = SYSTEM_CLOCK

    def __init__(
        self,
        server_url: str,
        *,
        key: SecretRef | None = None,
        model: Annotated[str, Field(min_length=1, max_length=256)] | None = None,
        tokenizer: str | None = None,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        ask_at_setup: bool = True,
        upstream: UpstreamPolicy | None = None,
        timeout: Annotated[float, Field(gt=0, le=86_400)] | None = None,
        retry_params: RetryParams | None = None,
    ) -> None:
        self._address = address("server_url", server_url, key)
        self._key = key
        self._model = model
        self._tokenizer = tokenizer
        self._root, self._sources = root, sources
        self._asks_at_setup = ask_at_setup
        self._policy = policy_of(upstream, timeout, retry_params)
        self._facts = ServerFacts()
        self.concurrency = self._policy.places

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        if self._tokenizer is not None:
            check_model(self._tokenizer, self._root, self._sources)

    async def do_setup(self) -> None:
        """Read the key, and ask the server how it is and what it takes. Raises WorkflowError."""
        from workflows.remote.transport import http_client

        make = await asyncio.to_thread(own_client)
        transformers: Any = None
        if self._tokenizer is not None:
            import transformers
        counter = await asyncio.to_thread(TokenCounter.found, transformers, self._tokenizer, self._root, self._sources)
        key = None if self._key is None else await asyncio.to_thread(self._key.read, self.clock)
        self._http = await asyncio.to_thread(http_client, self._policy, self._address, key=key, clock=self.clock)
        try:
            if self._asks_at_setup:
                await self._require_well()
                self._facts = await self._said_of_itself()
        except BaseException:
            await self._http.aclose()
            raise
        self._text = TgiText(make, self._http, self._address, counter, self.clock)
        self._upstream = Upstream("tgi", self._policy, clock=self.clock)

    async def do_teardown(self) -> None:
        await self._http.aclose()
        del self._http, self._text, self._upstream

    async def _require_well(self) -> None:
        response = await self._got("/health")
        if not response.is_success:
            raise WorkflowError(f"server_url: the server says that it is not well: status {response.status_code}")

    async def _said_of_itself(self) -> ServerFacts:
        """Nothing where the server has no words for it: then it refuses by itself what it does not take."""
        response = await self._got("/info")
        try:
            if response.is_success:
                return ServerFacts.read(response.json())
        except ValueError:
            pass
        log.warning("the TGI server does not say what it takes: status %d", response.status_code)
        return ServerFacts()

    async def _got(self, path: str) -> httpx2.Response:
        try:
            return await self._http.get(self._address + path)
        except Exception as cause:
            raise WorkflowError(f"server_url: no answer from {path}: {type(cause).__name__}") from cause

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Generate) -> Generate:
        """Raises InvalidInput for what the server has no words for, and what it says that it refuses."""
        fitting = self._facts.fitting(input_data)
        self._text.check(fitting)
        return fitting

    async def do_run_model(self, preprocessed_data: Generate) -> Generated:
        return await self._upstream.ask(lambda attempt: self._text.whole(preprocessed_data))

    async def do_stream(self, preprocessed_data: Generate) -> AsyncGenerator[TextChunk]:
        made = self._upstream.stream(lambda attempt: self._text.pieces(preprocessed_data))
        async with aclosing(made) as chunks:
            async for chunk in chunks:
                yield chunk

    def card(self, name: str, summary: str = "") -> Card:
        known = {"model": self._model or self._facts.model, "context_tokens": self._facts.max_total_tokens}
        return super().card(name, summary).model_copy(update=known)
