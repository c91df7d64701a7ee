"""Text from a causal language model in a local directory, token by token, for many requests at once.

text, tokens or messages -> Prompts -> Engine -> Writer -> TextChunk
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from workflows.async_base import AsyncInferenceWorkflow
from workflows.card import Card
from workflows.context import cancelled
from workflows.errors import Cancelled, InvalidInput
from workflows.inference.generation.decoder import TokenizerDecoder
from workflows.inference.generation.engine import Engine, Order
from workflows.inference.generation.opening import EngineSpec, open_engine
from workflows.inference.generation.process_engine import ProcessEngine
from workflows.inference.generation.prompts import Prompt, Prompts
from workflows.inference.generation.sampling import is_greedy
from workflows.inference.generation.writer import Plan, Writer
from workflows.inference.local_transformer import open_tokenizer
from workflows.inference.torch_device import Dtype
from workflows.models.finding import check_model, model_name, resolve_model
from workflows.models.sources import ModelSources
from workflows.types import MAX_TOKENS, Generate, Generated, Sampling, TextChunk

__all__ = ["TransformersTextGenerationWorkflow"]

_SEED_BITS: Final = 53  # what every reader of JSON can tell apart
# Shorter prompts are tokenized at once: a thread costs more than that.
_SMALL_CHARS: Final = 8192
# What this process takes where the model has one of its own.
_SERVING_BYTES: Final = 300 << 20


@dataclass(frozen=True, slots=True)
class _Prepared:
    order: Order
    plan: Plan
    echo: str


class TransformersTextGenerationWorkflow(AsyncInferenceWorkflow[Generate, Generated, TextChunk]):
    """Continues a text or answers a conversation with a local language model.

    Requests join and leave a running batch at any token. An answer that the context or `max_new_tokens` leaves no room
    for is cut and finishes with "length"; a prompt that leaves no room at all is refused. `usage.completion_tokens`
    counts every token that was made, the one that ended the answer included.

    Greedy answers, and drawn ones with a seed, do not depend on the other requests as far as the scores do not. In
    company a score is rounded otherwise: on a CPU, of scores up to 13, by up to 0.00001 in float32 and 0.06 in bfloat16.
    Only where two tokens, or a drawn number and the border between two tokens, are closer than that, can company change
    an answer; float32 is for who needs to rule that out, as good as. Another device, number of threads or version of
    torch rounds otherwise as well.

    Args:
        model: Directory with config.json, a tokenizer and safetensors weights, or an id such as `huggingface/owner/name`; see
            `workflows.models.finding.resolve_model`.
        root: Where models lie: a directory, or `package:name` for an installed Python package.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        dtype: Number format of the weights; by default the weights' own on a GPU and float32 on a CPU.
        threads: CPU threads of the model; by default the whole cores that were given.
        max_new_tokens: No answer is longer than this, whatever was asked for.
        context_tokens: Prompt and answer together; by default what the model was trained for.
        concurrency: How many requests are worked on at once; each further one waits until another has ended.
        cache_tokens: So many tokens of all requests together may be in work; by default what memory allows and is of use.
        step_tokens: How many tokens of prompts are read between two tokens of the answers, about.
        share_prefixes: Keep what was read of prompts, for others that begin alike. Callers can tell from `cached_tokens`, and
            by a clock, whether somebody has sent the same beginning before.
        engine: Whether the model has a process of its own or a thread of this one. With a process, its steps and the serving
            of tokens do not take turns with one interpreter, and a model that takes its process down takes nobody along;
            a thread takes some 250 MB less.
    """

    # Unseeded sampling gives another answer on the second run, which is as good as the first: no harm is done.
    retry_safe: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 1024,
        context_tokens: Annotated[int, Field(ge=2, le=MAX_TOKENS)] | None = None,
        concurrency: Annotated[int, Field(ge=1, le=1024)] = 64,
        cache_tokens: Annotated[int, Field(ge=1)] | None = None,
        step_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None,
        share_prefixes: bool = True,
        engine: Literal["process", "thread"] = "process",
    ) -> None:
        self._model = model
        self._root = root
        self._sources = sources
        self._dtype = dtype
        self._threads = threads
        self._max_new_tokens = max_new_tokens
        self._context_tokens = context_tokens
        self._cache_tokens = cache_tokens
        self._step_tokens = step_tokens
        self._share_prefixes = share_prefixes
        self._engine_in = engine
        self.concurrency = concurrency

    def check_files(self) -> None:
        check_model(self._model, self._root, self._sources)

    async def do_setup(self) -> None:
        directory = await asyncio.to_thread(resolve_model, self._model, self._root, self._sources)
        spec = self._spec(directory)
        starting = asyncio.create_task(_process_engine(spec)) if self._engine_in == "process" else None
        try:
            await asyncio.sleep(0)  # an engine's process imports what it needs while this one does
            import torch
            import transformers

            if starting is None:
                starting = asyncio.create_task(_thread_engine(torch, transformers, spec))
                await asyncio.wait([starting])  # transformers does not like to be imported by two threads
            tokenizer, max_token_chars = await asyncio.to_thread(open_tokenizer, transformers, directory)
            self._decoder = TokenizerDecoder(transformers, tokenizer)
            self._engine = await starting
        except BaseException as error:
            if starting is not None:
                await _let_go(starting, at_once=not isinstance(error, Exception))
            raise
        self._ends = self._engine.ends | ({tokenizer.eos_token_id} - {None})
        self._reading = asyncio.Lock()
        self._prompts = Prompts(
            tokenizer,
            vocabulary=self._engine.vocabulary,
            context=self._engine.context_tokens,
            max_token_chars=max_token_chars,
        )

    async def do_warm_up(self) -> None:
        asked = Generate(prompt_tokens=[0], sampling=Sampling(temperature=0.0, max_tokens=1))
        await self.ainference(asked)

    async def do_preprocessing(self, input_data: Generate) -> _Prepared:
        """Tokenize. Raises what `Prompts.read` does, and InvalidInput for a bias of a token that there is none of."""
        sampling = input_data.sampling
        if any(int(token) >= self._engine.vocabulary for token in sampling.logit_bias):
            raise InvalidInput(
                f"sampling.logit_bias: this model knows the tokens below {self._engine.vocabulary}",
                param="sampling.logit_bias",
            )
        prompt = await self._read(input_data)
        room = self._engine.context_tokens - len(prompt.tokens)
        seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
        most = min(sampling.max_tokens or room, self._max_new_tokens, room)
        order = Order(
            prompt=prompt.tokens,
            max_tokens=most,
            sampling=sampling,
            seed=seed,
            ends=self._ends,
            top_logprobs=input_data.top_logprobs,
        )
        plan = Plan(
            prompt_tokens=len(prompt.tokens),
            ends=self._ends,
            stop=sampling.stop,
            include_stop=input_data.include_stop,
            min_tokens=sampling.min_tokens,
            seed=None if is_greedy(sampling) else seed,
            tells_tokens=input_data.top_logprobs is not None,
            max_tokens=most,
        )
        return _Prepared(order, plan, self._echo(input_data, prompt.tokens))

    async def do_stream(self, preprocessed_data: _Prepared) -> AsyncGenerator[TextChunk]:
        if preprocessed_data.echo:
            yield TextChunk(text=preprocessed_data.echo)
        writer = Writer(preprocessed_data.plan, self._decoder)
        answer = self._engine.answer(preprocessed_data.order)
        try:
            async for made in answer:
                if cancelled():
                    raise Cancelled()
                chunk = writer.push(made)
                if chunk is not None:
                    yield chunk
                if writer.stopped:
                    break
        finally:
            answer.close()
        yield writer.last(answer.cached_tokens)

    async def do_teardown(self) -> None:
        await self._engine.stop()
        del self._engine, self._decoder, self._prompts

    def busy_s(self) -> float:
        return self._engine.silent_s if self.is_setup else 0.0

    def card(self, name: str, summary: str = "") -> Card:
        known: dict[str, Any] = {
            "model": model_name(self._model, self._root, self._sources) or None,
            "max_new_tokens": self._max_new_tokens,
        }
        if self.is_setup:
            known["context_tokens"] = self._engine.context_tokens
        return super().card(name, summary).model_copy(update=known)

    def _spec(self, directory: Path) -> EngineSpec:
        resources = self.resources
        if self._engine_in == "process" and resources.memory_bytes is not None:
            resources = replace(resources, memory_bytes=resources.memory_bytes - _SERVING_BYTES)
        return EngineSpec(
            directory=str(directory),
            resources=resources,
            dtype=self._dtype,
            threads=self._threads,
            context_tokens=self._context_tokens,
            concurrency=self.concurrency,
            cache_tokens=self._cache_tokens,
            step_tokens=self._step_tokens,
            share_prefixes=self._share_prefixes,
        )

    async def _read(self, asked: Generate) -> Prompt:
        """One at a time, and everything else on this loop between two of them: hundreds may come at once."""
        if Prompts.size(asked) > _SMALL_CHARS:
            return await asyncio.to_thread(self._prompts.read, asked)
        async with self._reading:
            await asyncio.sleep(0)
            return self._prompts.read(asked)

    def _echo(self, asked: Generate, tokens: Sequence[int]) -> str:
        """The text of what is read, where it is to be told."""
        if not asked.echo:
            return ""
        return asked.prompt if asked.prompt is not None and asked.truncate is None else self._decoder.text(tokens)


async def _process_engine(spec: EngineSpec) -> Engine:
    engine = ProcessEngine(spec)
    await engine.start()
    return engine


async def _thread_engine(torch: Any, transformers: Any, spec: EngineSpec) -> Engine:
    engine = await asyncio.to_thread(open_engine, torch, transformers, spec)
    await engine.start()
    return engine


async def _let_go(starting: asyncio.Task[Engine], *, at_once: bool) -> None:
    """Stop an engine that is being started, or has been. What is wrong with its model says more than what else went wrong:
    unless this is `at_once`, it is raised."""
    if at_once:
        starting.cancel()
    try:
        await asyncio.wait([starting])
    finally:
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await outcome.stop()
    if not at_once and isinstance(outcome, Exception):
        raise outcome
