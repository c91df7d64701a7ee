"""Sentence embeddings from a transformers encoder in a local directory, batched by length so that padding stays cheap.

Knows tokens and vectors. What a model's files say stands in `sentence_files`, which texts run together in `padding`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Card
from workflows.errors import BadOutput, ContextTooLong, InvalidInput, WorkflowError
from workflows.inference.local_transformer import check_text, check_tokens, longest_input, open_transformer
from workflows.inference.padding import ENCODER_ON_CPU, ENCODER_ON_GPU, plan_runs
from workflows.inference.pooling import pool, shortened, unit_length
from workflows.inference.sentence_files import Pooling, read_sentence_settings
from workflows.inference.torch_device import Dtype
from workflows.models.finding import check_model, model_name, resolve_model
from workflows.models.sources import ModelSources
from workflows.tensors import Array
from workflows.types import Embed, Embedding

__all__ = ["EmbeddingWorkflow"]

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class _Read:
    """What the model is given, and whether its vector is to have length 1."""

    tokens: Tokens
    unit: bool


# What waits together is answered together: on a CPU, more than this only makes callers wait.
_CPU_BATCHING: Final = Batching(max_size=64, max_cost=1024)
_GPU_BATCHING: Final = Batching(max_size=512, max_cost=1 << 16)
# A short text does not wait for long ones to finish.
_CLASS_ENDS: Final = (32, 128)


class EmbeddingWorkflow(BaseInferenceWorkflow[Embed, Embedding]):
    """Places a text in a vector space, where texts that mean the same lie close together.

    Args:
        model: Directory with config.json, a tokenizer, safetensors weights and, where there are, sentence-transformers'
            own files, which say how vectors are made; or an id where `root` is None, for example
            `huggingface/sentence-transformers/all-MiniLM-L6-v2`; see `workflows.models.finding.resolve_model`.
        root: Where models lie: a directory, or `package:name` for an installed Python package.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        max_tokens: Longest text; None takes what the files say. Longer ones are refused, unless `truncate`.
        truncate: Read the first `max_tokens` tokens of a longer text instead of refusing it.
        pooling: How token vectors become one; None takes what the files say, or else `mean`.
        normalize: Whether vectors have length 1; None takes what the files say, or else does not.
        dtype: Number format of the weights; None is the weights' own on a GPU and float32 on a CPU.
        threads: CPU threads of this process; None takes `resources.threads`.
        max_batch: Texts that may run together; None is 64 on a CPU and 512 on a GPU.
    """

    retry_safe = True
    _max_tokens = 512
    _dimensions = 0
    _on_gpu = False

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        max_tokens: Annotated[int, Field(ge=1)] | None = None,
        truncate: bool = False,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None,
    ) -> None:
        self._model_directory = model
        self._root = root
        self._sources = sources
        self._wanted_tokens = max_tokens
        self._truncate = truncate
        self._wanted_pooling = pooling
        self._wanted_normalize = normalize
        self._dtype = dtype
        self._threads = threads
        self._max_batch = max_batch

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        check_model(self._model_directory, self._root, self._sources)

    def do_setup(self) -> None:
        """Open the model. Raises ModelNotFound, InvalidInput naming an option, or WorkflowError."""
        import torch
        import transformers

        directory = resolve_model(self._model_directory, self._root, self._sources)
        settings = read_sentence_settings(directory)
        opened = open_transformer(
            torch, transformers, "AutoModel", settings.transformer, self.resources, self._dtype, self._threads
        )
        self._torch, self._model, self._tokenizer, self._device = torch, opened.model, opened.tokenizer, opened.device
        self._pooling = self._wanted_pooling or settings.pooling
        self._normalize = settings.normalize if self._wanted_normalize is None else self._wanted_normalize
        self._settings = settings
        self._max_tokens = longest_input(opened, self._wanted_tokens, settings.max_tokens)
        self._max_chars = self._max_tokens * opened.max_token_chars
        self._padding_token = opened.tokenizer.pad_token_id or 0
        self._vocabulary = opened.vocabulary
        self._on_gpu = self._device.type == "cuda"
        self._costs = ENCODER_ON_GPU if self._on_gpu else ENCODER_ON_CPU

    def do_warm_up(self) -> None:
        """One text as long as any may be: a model that cannot hold it never becomes ready."""
        token = next(iter(self._tokenize("a")), 0)
        outcome = self.do_run_batch([_Read([token] * self._max_tokens, unit=self._normalize)])[0]
        if isinstance(outcome, WorkflowError):
            raise outcome
        self._dimensions = len(outcome[0])

    def do_teardown(self) -> None:
        del self._model, self._tokenizer
        if self._on_gpu:
            self._torch.cuda.empty_cache()

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Embed) -> _Read:
        """Tokenize. Raises InvalidInput for a text that is too long, empty, or no Unicode, and for tokens, a prompt or
        dimensions that this model does not have."""
        if input_data.dimensions is not None and input_data.dimensions > self._dimensions:
            raise InvalidInput(f"the vectors of this model have {self._dimensions} dimensions", param="dimensions")
        tokens = self._given_tokens(input_data) if input_data.text is None else self._tokens_of(input_data)
        return _Read(tokens, self._normalize if input_data.normalize is None else input_data.normalize)

    def do_run_batch(self, batch: list[_Read]) -> list[tuple[Array, int] | WorkflowError]:
        """Vectors and token counts; texts of like length share a call."""
        runs = plan_runs([len(read.tokens) for read in batch], self._costs)
        with self._torch.inference_mode():
            # All calls are issued before the first result is fetched: a GPU works on while we issue the next.
            given = [self._run([batch[place] for place in places]) for places in runs]
            vectors = [part.cpu().numpy() for part in given]
        outcomes: list[tuple[Array, int] | WorkflowError] = [BadOutput() for _ in batch]
        for places, part in zip(runs, vectors, strict=True):
            for place, vector in zip(places, part, strict=True):
                if np.isfinite(vector).all():
                    outcomes[place] = (vector.copy(), len(batch[place].tokens))
        return outcomes

    def do_postprocessing(self, input_data: Embed, output_data: tuple[Array, int]) -> Embedding:
        vector, tokens = output_data
        if input_data.dimensions is not None:
            cut = vector[: input_data.dimensions]
            vector = cut if input_data.normalize is False else shortened(vector, input_data.dimensions)
        return Embedding.model_construct(embedding=vector, tokens=tokens)

    def cost(self, input_data: Embed) -> float:
        """About how many tokens: four letters of English each, one sign of Chinese each."""
        text = input_data.text
        if text is None:
            return min(len(input_data.tokens or ()), self._max_tokens)
        if text.isascii():
            return min(2 + len(text) // 4, self._max_tokens)
        # The first so many characters decide: more cannot cost more, and this runs on the event loop.
        return min(2 + len(text[: 4 * self._max_tokens].encode("utf-8", "replace")) // 3, self._max_tokens)

    def bucket(self, input_data: Embed) -> Hashable:
        """Short, middling or long."""
        cost = self.cost(input_data)
        return sum(cost > end for end in _CLASS_ENDS)

    def card(self, name: str, summary: str = "") -> Card:
        model = model_name(self._model_directory, self._root, self._sources)
        told = {"model": model, "context_tokens": self._max_tokens}
        return super().card(name, summary).model_copy(update=told)

    @property
    def limits(self) -> Batching:
        """As the device likes it; tokens are what a batch costs."""
        chosen = _GPU_BATCHING if self._on_gpu else _CPU_BATCHING
        return chosen if self._max_batch is None else chosen.model_copy(update={"max_size": self._max_batch})

    # ---- the model -------------------------------------------------------------------------------------------------

    def _run(self, texts: Sequence[_Read]) -> Any:
        """One call of the model: a tensor of shape (texts, dimensions) that may still be in the making."""
        longest = min(self._costs.padded(max(len(text.tokens) for text in texts)), self._max_tokens)
        ids = np.full((len(texts), longest), self._padding_token, dtype=np.int64)
        mask = np.zeros((len(texts), longest), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text.tokens)] = text.tokens
            mask[row, : len(text.tokens)] = 1
        here = self._torch.from_numpy(mask).to(self._device)
        output = self._model(input_ids=self._torch.from_numpy(ids).to(self._device), attention_mask=here)
        vectors = pool(output.last_hidden_state, here, self._pooling)
        units = {text.unit for text in texts}
        if units == {False}:
            return vectors
        if units == {True}:
            return unit_length(vectors)
        wanted = self._torch.tensor([[text.unit] for text in texts], device=self._device)
        return self._torch.where(wanted, unit_length(vectors), vectors)

    def _tokens_of(self, asked: Embed) -> Tokens:
        """Of a text behind its prompt."""
        text = self._prompt(asked.prompt_name) + (asked.text or "")
        from_left = asked.truncation_direction == "left"
        cuts = self._truncate if asked.truncate is None else asked.truncate
        if cuts:
            text = text[-self._max_chars :] if from_left else text[: self._max_chars]
        check_text(text, "text", self._max_chars)
        self._tokenizer.truncation_side = asked.truncation_direction
        tokens = self._tokenize(text.lower() if self._settings.lower_case else text, cut=cuts)
        self._check_fits(tokens, "text")
        check_tokens(tokens, self._vocabulary, "text")
        if not tokens:
            raise InvalidInput("the text is empty", param="text")
        return tokens

    def _prompt(self, name: str | None) -> str:
        if name is None:
            return self._settings.prompt
        if name not in self._settings.prompts:
            raise InvalidInput("this model has no prompt of that name", param="prompt_name")
        return self._settings.prompts[name]

    def _given_tokens(self, asked: Embed) -> Tokens:
        tokens = asked.tokens or []
        check_tokens(tokens, self._vocabulary, "tokens")
        if self._truncate if asked.truncate is None else asked.truncate:
            most = self._max_tokens
            tokens = tokens[-most:] if asked.truncation_direction == "left" else tokens[:most]
        self._check_fits(tokens, "tokens")
        return tokens

    def _check_fits(self, tokens: Tokens, param: str) -> None:
        if len(tokens) > self._max_tokens:
            raise ContextTooLong(
                f"context length exceeded: {len(tokens)} tokens, and {self._max_tokens} fit", param=param
            )

    def _tokenize(self, text: str, *, cut: bool = False) -> Tokens:
        options = {"truncation": True, "max_length": self._max_tokens} if cut else {}
        encoded = self._tokenizer(text, return_attention_mask=False, verbose=False, **options)
        return list(encoded["input_ids"])
