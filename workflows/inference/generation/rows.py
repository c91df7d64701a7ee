"""Chooses the next token of every row of a batch: what stands in a continuous batching manager for its own logits processing.

The manager's own has one way of sampling for all requests, and one source of random numbers. This one knows which request
each row is of. The manager then takes the best score of each row, so a token that is chosen otherwise gets the best one.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import Any, Final

from workflows.errors import BadOutput, WorkflowError
from workflows.inference.generation.engine import Made
from workflows.inference.generation.sampling import TokenChooser

__all__ = ["Row", "Rows"]

log = logging.getLogger(__name__)

_BEST: Final = float("inf")


class Row:
    """One request, as the engine's thread sees it.

    Attributes:
        cached: How much of the prompt was known from earlier requests, once it is being read.
        good: How many tokens were chosen.
        made: Of a request that is not plain: those of them that were not yet delivered.
        error: Why there are no more; the manager may still make some, which count for nothing.
    """

    __slots__ = ("cached", "choose", "error", "good", "made")

    def __init__(self, choose: TokenChooser) -> None:
        self.choose = choose
        self.cached: int | None = None
        self.good = 0
        self.made: deque[Made] = deque()
        self.error: WorkflowError | None = None


class Rows:
    """Has the members of transformers' `ContinuousBatchingLogitsProcessorList` that a manager uses.

    Attributes:
        by_id: The requests, by the ids that the manager knows. A row of another one, just cancelled, gets any token.
        step_at: When the last step began or had its scores, as `time.monotonic`.
    """

    do_processing: Final = True
    tensors_required: Final = 0

    def __init__(self) -> None:
        self.by_id: dict[str, Row] = {}
        self.step_at = 0.0
        self._batch: list[Row | None] = []

    def fill_defaults(self, int32_tensor: Any) -> None:
        """There are none."""

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """There are none."""

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Any) -> Any:
        """Note whose rows come next. The scores have a row for each request whose prompt has been read to its end."""
        self.step_at = time.monotonic()
        batch: list[Row | None] = []
        for part in requests_in_batch:
            row = self.by_id.get(part.state.request_id)
            if row is not None and row.cached is None:
                row.cached = part.state.position_offset - part.query_length
            if part.has_new_token:
                batch.append(row)
        self._batch = batch
        return arg_storage

    def __call__(self, input_ids: Any, scores: Any, logits_processor_args: Any) -> Any:
        """`scores`, shape (rows, vocabulary) and float32, with the best one where the next token is."""
        self.step_at = time.monotonic()
        batch = self._batch
        # One look for all rows: the best of scores among which one is not a number is not a number.
        best = scores[: len(batch)].amax(-1).tolist()
        for place, row in enumerate(batch):
            if row is None or row.error is not None:
                continue
            if not math.isfinite(best[place]):
                row.error = BadOutput("the model gave no usable next token")
            elif row.choose.plain:
                row.good += 1
            else:
                self._choose(row, scores[place])
        return scores

    @staticmethod
    def _choose(row: Row, scores: Any) -> None:
        """Whatever goes wrong here goes wrong for this request alone."""
        try:
            made = row.choose(scores)
        except WorkflowError as error:
            row.error = error
        except Exception as error:
            log.exception("choosing a token failed")
            row.error = WorkflowError()
            row.error.__cause__ = error
        else:
            scores[made.id] = _BEST
            row.made.append(made)
            row.good += 1
