"""One kind of question about texts, answered by a transformers model in a local directory, batched by length.

Knows the life of a workflow. What a question is, and how a model answers it, stands in `tasks`, one module for each kind.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Card
from workflows.errors import WorkflowError
from workflows.inference.local_transformer import longest_input, open_transformer
from workflows.inference.tasks.masks import FillingMasks
from workflows.inference.tasks.questions import QuestionAnswering
from workflows.inference.tasks.rewriting import Summarization, Translation
from workflows.inference.tasks.sequences import TextClassification, ZeroShotClassification
from workflows.inference.tasks.task import Bounds, Task, TaskModel
from workflows.inference.tasks.tokens import TokenClassification
from workflows.inference.torch_device import Dtype
from workflows.models.finding import check_model, model_name, resolve_model
from workflows.models.sources import ModelSources
from workflows.types.exchange import Exchange
from workflows.types.text import MAX_TOKENS

__all__ = ["TaskName", "TransformersPipelineWorkflow"]

TaskName = Literal[
    "fill-mask",
    "question-answering",
    "summarization",
    "text-classification",
    "token-classification",
    "translation",
    "zero-shot-classification",
]
AnyTask = Task[Any, Any, Any]

_TASKS: Final[Mapping[str, type[AnyTask]]] = {
    task.name: task
    for task in (
        FillingMasks,
        QuestionAnswering,
        Summarization,
        TextClassification,
        TokenClassification,
        Translation,
        ZeroShotClassification,
    )
}
# What waits together is answered together: on a CPU, more than this only makes callers wait.
_CPU_BATCHING: Final = Batching(max_size=64, max_cost=1024)
_GPU_BATCHING: Final = Batching(max_size=512, max_cost=1 << 16)


class TransformersPipelineWorkflow(BaseInferenceWorkflow[Exchange, Exchange]):
    """Classifies, finds, fills, answers, summarizes or translates: one task, with a model trained for it.

    Its input and output are those of the task, see `workflows.types`.

    Args:
        model: Directory with config.json, a tokenizer and safetensors weights; or an id where `root` is None, see
            `workflows.models.finding.resolve_model`.
        task: As Hugging Face's hub calls it.
        root: Where models lie: a directory, or `package:name` for an installed Python package.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        max_tokens: Longest text that the model reads at once; None is as long as the model can. Longer ones are
            refused, unless they are read in windows, or cut.
        truncate: Cut texts that are too long, where the input does not say.
        max_rows: How many times the model may read for one input: labels of zero-shot classification, windows of a text.
        max_new_tokens: Longest summary or translation.
        prefix: What stands before every text to summarize or to translate; None is as the model's files say.
        dtype: Number format of the weights; None is the weights' own on a GPU and float32 on a CPU.
        threads: CPU threads of this process; None takes `resources.threads`.
        max_batch: Inputs that may run together; None is 64 on a CPU and 512 on a GPU.
    """

    retry_safe = True
    _on_gpu = False

    def __init__(
        self,
        model: str,
        *,
        task: TaskName,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        max_tokens: Annotated[int, Field(ge=8, le=MAX_TOKENS)] | None = None,
        truncate: bool = False,
        max_rows: Annotated[int, Field(ge=1, le=4096)] = 128,
        max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = 512,
        prefix: Annotated[str, Field(max_length=1024)] | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=4096)] | None = None,
    ) -> None:
        self._model_directory = model
        self._asks = _TASKS[task]
        self._root = root
        self._sources = sources
        self._max_tokens = max_tokens
        self._dtype = dtype
        self._threads = threads
        self._max_batch = max_batch
        self._bounds = Bounds(max_tokens or MAX_TOKENS, max_rows, max_new_tokens, truncate, prefix)

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        check_model(self._model_directory, self._root, self._sources)

    def do_setup(self) -> None:
        """Open the model. Raises ModelNotFound, InvalidInput naming an option, or WorkflowError."""
        import torch
        import transformers

        directory = resolve_model(self._model_directory, self._root, self._sources)
        opened = open_transformer(
            torch, transformers, self._asks.opens, directory, self.resources, self._dtype, self._threads
        )
        self._bounds = replace(self._bounds, max_tokens=longest_input(opened, self._max_tokens))
        self._torch = torch
        self._task: AnyTask = self._asks(TaskModel(torch, opened, self._bounds))
        self._on_gpu = opened.device.type == "cuda"

    def do_warm_up(self) -> None:
        """As much as one row may hold: a model that cannot hold it never becomes ready."""
        with self._torch.inference_mode():
            self._task.warm_up()

    def do_teardown(self) -> None:
        del self._task
        if self._on_gpu:
            self._torch.cuda.empty_cache()

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Exchange) -> Any:
        """Raises InvalidInput for what does not fit, and what this model has not."""
        return self._task.read(input_data)

    def do_run_batch(self, batch: list[Any]) -> list[tuple[Any, Any] | WorkflowError]:
        """What was read of each input, and what the model says to it."""
        with self._torch.inference_mode():
            outcomes = self._task.run(batch)
        return [
            said if isinstance(said, WorkflowError) else (read, said)
            for read, said in zip(batch, outcomes, strict=True)
        ]

    def do_postprocessing(self, input_data: Exchange, output_data: tuple[Any, Any]) -> Exchange:
        answer: Exchange = self._task.answer(input_data, *output_data)
        return answer

    def cost(self, input_data: Exchange) -> float:
        """About how many tokens the model reads."""
        return self._asks.cost(input_data, self._bounds)

    def bucket(self, input_data: Exchange) -> Hashable:
        """What is read at once is of like length; what is written at once is written in the same way."""
        return self._asks.bucket(input_data, self._bounds)

    def card(self, name: str, summary: str = "") -> Card:
        card = super().card(name, summary)
        told: dict[str, Any] = {
            "task": self._asks.name,
            "model": model_name(self._model_directory, self._root, self._sources),
            "context_tokens": self._bounds.max_tokens if self.is_setup else self._max_tokens,
        }
        example = self._task.example() if self.is_setup else None
        if example is not None:
            shown = example.model_dump(exclude_defaults=True)
            told["input_schema"] = {**card.input_schema, "examples": [shown]}
        return card.model_copy(update=told)

    @property
    def limits(self) -> Batching:
        """As the device likes it; tokens are what a batch costs."""
        chosen = _GPU_BATCHING if self._on_gpu else _CPU_BATCHING
        return chosen if self._max_batch is None else chosen.model_copy(update={"max_size": self._max_batch})

    @cached_property
    def _types(self) -> tuple[Any, Any, Any]:
        """Those of the task, which is an option and no class of its own."""
        return self._asks.input, self._asks.output, Any
