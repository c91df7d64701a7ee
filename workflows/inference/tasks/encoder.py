"""Running an encoder on many rows of tokens of different lengths. Knows padding and devices, not what the rows mean."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from workflows.errors import BadOutput, WorkflowError
from workflows.inference.padding import ENCODER_ON_CPU, ENCODER_ON_GPU, plan_runs
from workflows.inference.tasks.task import In, Out, Task, TaskModel
from workflows.tensors import Array

__all__ = ["EncoderTask", "Row", "Rows", "row_of"]

# Logits of all tokens of one run, in numbers: of a vocabulary of 250 000, those of 512 tokens.
_MOST_LOGITS: Final = 1 << 27


@dataclass(frozen=True, slots=True)
class Row:
    """What the model reads at once.

    Attributes:
        types: Which of two texts each token belongs to; None where the model is not told.
        places: The tokens that the task asks about, where not all are meant.
    """

    ids: list[int]
    types: list[int] | None = None
    places: tuple[int, ...] = ()


class Rows(Protocol):
    """What an encoder's task has read."""

    @property
    def rows(self) -> Sequence[Row]: ...


HasRows = TypeVar("HasRows", bound=Rows)


def row_of(encoded: Any, places: Sequence[int] = ()) -> Row:
    """One row of what a tokenizer made of one text, or of two."""
    return Row(list(encoded["input_ids"]), encoded.get("token_type_ids"), tuple(places))


class EncoderTask(Task[In, HasRows, Out]):
    """A task of an encoder, whose inputs are rows: `run` gives each input as many float32 arrays."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        self._padding: int = model.tokenizer.pad_token_id or 0
        # A model that does not know its padding token, as many decoders do not, would read it.
        self._pads = model.model.config.pad_token_id is not None and model.tokenizer.pad_token_id is not None
        costs = ENCODER_ON_GPU if model.on_gpu else ENCODER_ON_CPU
        self._costs = replace(costs, most=min(costs.most, max(1, _MOST_LOGITS // self.numbers_per_token())))
        # Decoders that classify would otherwise keep what they need to go on writing.
        takes_cache = "use_cache" in inspect.signature(model.model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": False} if takes_cache else {}

    @abstractmethod
    def picked(self, output: Any, rows: Sequence[Row]) -> list[Any]:
        """Each row's part of the model's output, without padding, as tensors that may still be in the making."""

    def numbers_per_token(self) -> int:
        """How many numbers the model gives for each token."""
        return 1

    def run(self, batch: list[HasRows]) -> list[list[Array] | WorkflowError]:
        """Rows of like length share a call, whoever they belong to."""
        rows = [row for read in batch for row in read.rows]
        if self._pads:
            runs = plan_runs([len(row.ids) for row in rows], self._costs)
        else:
            runs = [[place] for place in range(len(rows))]
        # All calls are issued before the first result is fetched: a GPU works on while we issue the next.
        given = [self._run([rows[place] for place in places]) for places in runs]
        said: list[Array | None] = [None] * len(rows)
        for places, parts in zip(runs, given, strict=True):
            for place, part in zip(places, parts, strict=True):
                array = part.float().cpu().numpy()
                said[place] = array if np.isfinite(array).all() else None
        outcomes: list[list[Array] | WorkflowError] = []
        ahead = iter(said)
        for read in batch:
            own = [next(ahead) for _ in read.rows]
            whole = [array for array in own if array is not None]
            outcomes.append(whole if len(whole) == len(own) else BadOutput())
        return outcomes

    def warm_up(self) -> None:
        """One row as long as any may be: a model that cannot hold it never becomes ready."""
        token = next(iter(self.model.tokenizer("a", verbose=False)["input_ids"]), 0)
        row = Row([token] * self.model.bounds.max_tokens, places=(0,))
        (part,) = self._run([row])
        if not np.isfinite(part.float().cpu().numpy()).all():
            raise BadOutput()

    def _run(self, rows: Sequence[Row]) -> list[Any]:
        torch, device = self.model.torch, self.model.device
        longest = max(len(row.ids) for row in rows)
        if len(rows) > 1:
            longest = min(self._costs.padded(longest), self.model.bounds.max_tokens)
        ids = np.full((len(rows), longest), self._padding, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        types = np.zeros((len(rows), longest), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
            mask[place, : len(row.ids)] = 1
            if row.types is not None:
                types[place, : len(row.ids)] = row.types
        given = {"input_ids": ids, "attention_mask": mask}
        if any(row.types is not None for row in rows):
            given["token_type_ids"] = types
        on_device = {name: torch.from_numpy(array).to(device) for name, array in given.items()}
        return self.picked(self.model.model(**on_device, **self._options), rows)
