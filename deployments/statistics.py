"""How often a workflow has answered and what that took, as its replicas count it: every item and every run of the model.

Counts and times only grow, for as long as a replica lives. No Ray.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from workflows.errors import ReplicaLost, Unloaded, WorkflowError
from workflows.executions import Execution

__all__ = ["BatchStatistics", "Counts", "Duration", "Meter", "Statistics"]

MAX_CODES: Final = 64
_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def merge(self, other: Duration) -> None:
        self.count += other.count
        self.ns += other.ns


@dataclass(slots=True)
class BatchStatistics:
    """Runs of the model with one number of items: `count` is that of the runs, whatever became of their items."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def merge(self, other: BatchStatistics) -> None:
        self.compute_input.merge(other.compute_input)
        self.compute_infer.merge(other.compute_infer)
        self.compute_output.merge(other.compute_output)


@dataclass(slots=True)
class Statistics:
    """One workflow, by item: an item is one request, or one member of a native batch; a stream is one item as well.

    An item that ran in a batch was in it from beginning to end, so the `compute_*` times are those of the whole batch,
    once for each of its items. What an item waits for between its runs is in `success` alone.

    Attributes:
        success: From an item's arrival at the first router or replica to its answer.
        queue: Until what it needs was there, and the model's thread, or its place among the `concurrency`, free for it.
        compute_input: Validation and preprocessing. A stream's is in `compute_infer`.
        compute_infer: The model. Of a stream: while a chunk was being made, not while its reader took its time.
        compute_output: Postprocessing, and bringing the answer into its plain form.
        failures: By the code of their error. What goes on elsewhere (ReplicaLost, Unloaded) has not failed yet.
        execution_count: Runs of the model that succeeded; a stream is one.
        last_inference_ms: When the last run ended, in milliseconds since the epoch; 0 where there was none.
        batches: By the number of items in a run.
    """

    success: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    failures: dict[str, Duration] = field(default_factory=dict)
    execution_count: int = 0
    last_inference_ms: int = 0
    batches: dict[int, BatchStatistics] = field(default_factory=dict)

    @property
    def inference_count(self) -> int:
        """Items that were answered."""
        return self.success.count

    @property
    def fail(self) -> Duration:
        """All failures together."""
        whole = Duration()
        for failure in self.failures.values():
            whole.merge(failure)
        return whole

    def merge(self, other: Statistics) -> None:
        """Add what another replica, or a router, has counted."""
        for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            getattr(self, name).merge(getattr(other, name))
        for code, failure in other.failures.items():
            self.failures.setdefault(code, Duration()).merge(failure)
        for size, batch in other.batches.items():
            self.batches.setdefault(size, BatchStatistics()).merge(batch)
        self.execution_count += other.execution_count
        self.last_inference_ms = max(self.last_inference_ms, other.last_inference_ms)

    def plain(self) -> dict[str, Any]:
        """As plain data; `of_plain` reads it."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Statistics:
        found = cls(execution_count=plain["execution_count"], last_inference_ms=plain["last_inference_ms"])
        for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            setattr(found, name, Duration(**plain[name]))
        found.failures = {code: Duration(**failure) for code, failure in plain["failures"].items()}
        found.batches = {
            size: BatchStatistics(**{name: Duration(**duration) for name, duration in batch.items()})
            for size, batch in plain["batches"].items()
        }
        return found


@dataclass(slots=True)
class Meter:
    """What a stream has taken so far.

    Attributes:
        began: When the model first worked for it, 0 before.
        model_s: For how long it has.
    """

    began: float = 0.0
    model_s: float = 0.0


class _Runs:
    """Runs of the model with one number of items, in seconds."""

    __slots__ = ("count", "infer_s", "input_s", "output_s")

    def __init__(self) -> None:
        self.count = 0
        self.input_s = self.infer_s = self.output_s = 0.0

    def statistics(self) -> BatchStatistics:
        return BatchStatistics(*(_duration(self.count, s) for s in (self.input_s, self.infer_s, self.output_s)))


class Counts:
    """Where a replica counts, and a router what never reached one. All times are readings of `time.monotonic()`.

    Made to cost an item next to nothing: sums in seconds, which become `Statistics` when somebody asks.
    """

    def __init__(self) -> None:
        self._answered = self._computed = self._executed = 0
        self._success_s = self._queue_s = 0.0
        self._input_s = self._infer_s = self._output_s = 0.0
        self._last: float | None = None
        self._alone = _Runs()  # of one item each, which was answered: in none of the sums above but the first two
        self._runs: dict[int, _Runs] = {}
        self._failures: dict[str, Duration] = {}

    def statistics(self) -> Statistics:
        """Everything so far."""
        alone = self._alone
        answered, computed = self._answered + alone.count, self._computed + alone.count
        batches = {size: runs.statistics() for size, runs in self._runs.items()}
        if alone.count:
            batches.setdefault(1, BatchStatistics()).merge(alone.statistics())
        age_s = 0.0 if self._last is None else time.monotonic() - self._last
        return Statistics(
            success=_duration(answered, self._success_s),
            queue=_duration(answered, self._queue_s),
            compute_input=_duration(computed, self._input_s + alone.input_s),
            compute_infer=_duration(computed, self._infer_s + alone.infer_s),
            compute_output=_duration(computed, self._output_s + alone.output_s),
            failures={code: replace(failure) for code, failure in self._failures.items()},
            execution_count=self._executed + alone.count,
            last_inference_ms=0 if self._last is None else round((time.time() - age_s) * 1000),
            batches=batches,
        )

    def answered_alone(self, execution: Execution, since: float, parse_s: float, began: float, ended: float) -> None:
        """An item was answered that ran alone."""
        alone = self._alone
        alone.count += 1
        alone.input_s += execution.input_s + parse_s
        alone.infer_s += execution.model_s
        alone.output_s += execution.output_s
        self._success_s += ended - since
        self._queue_s += began - since - parse_s
        self._last = ended

    def answered(self, count: int, since: float, parse_s: float, began: float, ended: float) -> None:
        """So many items were answered together. `since` and `parse_s` are the sums of theirs."""
        self._answered += count
        self._success_s += count * ended - since
        self._queue_s += count * began - since - parse_s

    def executed(self, execution: Execution, answered: int, parse_s: float) -> None:
        """The model has run, for so many that were answered; `parse_s` is what it took to parse what those had sent."""
        input_s, infer_s, output_s = execution.input_s, execution.model_s, execution.output_s
        self._executed += 1
        self._last = time.monotonic()
        self._computed += answered
        self._input_s += answered * input_s + parse_s
        self._infer_s += answered * infer_s
        self._output_s += answered * output_s
        size = len(execution.members)
        runs = self._runs.get(size)
        if runs is None:
            runs = self._runs[size] = _Runs()
        runs.count += 1
        runs.input_s += input_s + parse_s
        runs.infer_s += infer_s
        runs.output_s += output_s

    def streamed(self, since: float, meter: Meter, ended: float) -> None:
        """A stream has come to its end."""
        self.answered_alone(Execution([0], model_s=meter.model_s), since, 0.0, meter.began or ended, ended)

    def failed(self, error: WorkflowError, seconds: float) -> None:
        """An item has failed, so long after it came."""
        if isinstance(error, ReplicaLost | Unloaded):
            return  # it is tried elsewhere, and counted there or by who gives it up
        self.given_up(error, seconds)

    def given_up(self, error: WorkflowError, seconds: float) -> None:
        """The same, and it is tried nowhere else."""
        code = error.code if error.code in self._failures or len(self._failures) < MAX_CODES else "other"
        self._failures.setdefault(code, Duration()).merge(_duration(1, seconds))


def _duration(count: int, seconds: float) -> Duration:
    return Duration(count, max(0, round(seconds * _NS)))
