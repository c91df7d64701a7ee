"""Text from a causal language model in a local directory, token by token. Knows no batching: requests take turns.

text or messages -> token ids -> Engine -> TokenChooser -> IncrementalText -> StopStrings -> TextChunk
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from workflows.base import BaseInferenceWorkflow
from workflows.context import cancelled
from workflows.errors import Cancelled, ContextTooLong, InvalidInput, Unsupported
from workflows.inference.incremental_text import IncrementalText
from workflows.inference.local_transformer import check_text, open_transformer
from workflows.inference.sampling import TokenChooser
from workflows.inference.stop_strings import StopStrings
from workflows.inference.token_engine import Engine, TransformersEngine
from workflows.inference.torch_device import Dtype
from workflows.models.local import resolve
from workflows.types import MAX_TOKENS, FinishReason, Generate, Generated, Message, Sampling, TextChunk, Usage

__all__ = ["TransformersTextGenerationWorkflow"]


@dataclass(frozen=True, slots=True)
class _Prepared:
    prompt: list[int]
    sampling: Sampling
    max_tokens: int


class TransformersTextGenerationWorkflow(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    """Continues a text or answers a conversation with a local language model.

    An answer that the context or `max_new_tokens` leaves no room for is cut and finishes with "length"; a prompt that
    leaves no room at all is refused. `usage.completion_tokens` counts every token that was made, the one that ended
    the answer included.

    Args:
        model: Directory with config.json, a tokenizer and safetensors weights.
        root: Where models lie: a directory, or `package:name` for an installed Python package.
        dtype: Number format of the weights; by default the weights' own on a GPU and float32 on a CPU.
        threads: CPU threads of this process; by default the whole cores that were given.
        max_new_tokens: No answer is longer than this, whatever was asked for.
        context_tokens: Prompt and answer together; by default what the model was trained for.
    """

    # Unseeded sampling gives another answer on the second run, which is as good as the first: no harm is done.
    retry_safe: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 1024,
        context_tokens: Annotated[int, Field(ge=2, le=MAX_TOKENS)] | None = None,
    ) -> None:
        self._model = model
        self._root = root
        self._dtype = dtype
        self._threads = threads
        self._max_new_tokens = max_new_tokens
        self._context_tokens = context_tokens

    def check_files(self) -> None:
        resolve(self._model, self._root)

    def do_setup(self) -> None:
        import torch
        import transformers

        opened = open_transformer(
            torch,
            transformers,
            "AutoModelForCausalLM",
            resolve(self._model, self._root),
            self.resources,
            self._dtype,
            self._threads,
        )
        self._torch = torch
        self._tokenizer = opened.tokenizer
        self._device = opened.device
        self._ends = _end_tokens(opened.model, opened.tokenizer)
        context = _context_of(opened.model, self._context_tokens)
        self._max_chars = context * opened.max_token_chars
        self._engine: Engine = TransformersEngine(torch, opened.model, context)

    def do_warm_up(self) -> None:
        prompt = self._tokenizer.bos_token_id
        self.do_run_model(_Prepared([prompt if prompt is not None else 0], Sampling(temperature=0.0), 1))

    def do_preprocessing(self, input_data: Generate) -> _Prepared:
        """Tokenize. Raises InvalidInput for a prompt that leaves no room for an answer, Unsupported without template."""
        param = "prompt" if input_data.messages is None else "messages"
        prompt = self._prompt_tokens(input_data)
        room = self._engine.context_tokens - len(prompt)
        if room < 1:
            raise ContextTooLong(
                f"context length exceeded: {len(prompt)} tokens, and fewer than {self._engine.context_tokens} fit",
                param=param,
            )
        limit = min(input_data.sampling.max_tokens or room, self._max_new_tokens, room)
        return _Prepared(prompt, input_data.sampling, limit)

    def do_stream(self, preprocessed_data: _Prepared) -> Generator[TextChunk]:
        sampling = preprocessed_data.sampling
        choose = TokenChooser(sampling, self._torch.Generator(device=self._device))
        text, stops = IncrementalText(self._decode), StopStrings(sampling.stop)
        made = 0
        reason: FinishReason = "length"
        with closing(self._engine.generate(preprocessed_data.prompt, choose)) as tokens:
            while made < preprocessed_data.max_tokens and reason == "length":
                if cancelled():
                    raise Cancelled()
                token = next(tokens)
                made += 1
                if token in self._ends:
                    reason = "stop"
                elif piece := stops.push(text.push(token)):
                    yield TextChunk(text=piece)
                reason = "stop" if stops.stopped else reason
        rest = stops.push(text.flush()) + stops.flush()
        yield TextChunk(
            text=rest,
            finish_reason="stop" if stops.stopped else reason,
            usage=Usage(prompt_tokens=len(preprocessed_data.prompt), completion_tokens=made),
        )

    def do_teardown(self) -> None:
        del self._engine, self._tokenizer
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _prompt_tokens(self, asked: Generate) -> list[int]:
        if asked.messages is not None:
            return self._tokens(self._conversation(asked.messages), with_specials=False)
        assert asked.prompt is not None  # Generate holds exactly one of the two
        check_text(asked.prompt, "prompt", self._max_chars)
        tokens = self._tokens(asked.prompt, with_specials=True)
        if tokens:
            return tokens
        if self._tokenizer.bos_token_id is None:
            raise InvalidInput(
                "the prompt is empty, and this model needs at least one token to start from", param="prompt"
            )
        return [self._tokenizer.bos_token_id]

    def _conversation(self, messages: list[Message]) -> str:
        """The conversation as the text that the model was trained to continue. The template runs in jinja's sandbox."""
        if not self._tokenizer.chat_template:
            raise Unsupported("this model has no chat template: send a prompt instead of messages", param="messages")
        if sum(len(message.content) for message in messages) > self._max_chars:
            raise ContextTooLong(param="messages")
        text: str | None = None
        # Templates raise what they like, for example for two user turns in a row, and may quote them.
        with suppress(Exception):
            text = self._tokenizer.apply_chat_template(
                [message.model_dump() for message in messages], tokenize=False, add_generation_prompt=True
            )
        if text is None:
            raise InvalidInput("the model's chat template does not take this conversation", param="messages")
        check_text(text, "messages", self._max_chars)
        return text

    def _tokens(self, text: str, *, with_specials: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=with_specials, return_attention_mask=False, verbose=False)
        return list(encoded["input_ids"])

    def _decode(self, tokens: Any) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _context_of(model: Any, wanted: int | None) -> int:
    """How many tokens the model takes. Raises InvalidInput where nobody says, or more are wanted than it was made for."""
    known: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if known is None and wanted is None:
        raise InvalidInput("the model does not say how long its context is: set it", param="context_tokens")
    if known is not None and wanted is not None and wanted > known:
        raise InvalidInput(f"context_tokens is {wanted}, but the model was made for {known}", param="context_tokens")
    return wanted or known or 0


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the model may name several, one per kind of turn."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    tokens = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*tokens, tokenizer.eos_token_id) if token is not None)
