"""Running several inputs of a sync workflow at once: one outcome each, nobody pays for a neighbour.

parse, preprocess   each alone: a bad input drops out here, and one that nobody waits for any more
group               by bucket, at most `Batching.max_size` and `max_cost` together
run                 do_run_batch; a batch that raises is halved until the culprit stands alone (retry_safe only)
postprocess         each alone
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workflows.context import CallContext, _current
from workflows.deadlines import given_up
from workflows.errors import WorkflowError
from workflows.executions import Execution

if TYPE_CHECKING:
    from workflows.base import BaseInferenceWorkflow

__all__ = ["as_error", "run_batch", "working_for"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Item:
    index: int
    call: CallContext
    parsed: Any
    prepared: Any
    cost: float
    bucket: Hashable


def as_error(error: BaseException, request_id: str = "") -> WorkflowError:
    """The member of the error tree that a caller may see; anything foreign is logged and becomes "internal error".

    A pydantic error is logged without the values it complains of, which may be prompts.
    """
    if isinstance(error, WorkflowError):
        return error
    hidden = WorkflowError()
    chain = list(_chain(error))
    if any(isinstance(link, ValidationError) for link in chain):
        log.error("request %s failed\n%s", request_id or "-", "\n".join(map(_shown, reversed(chain))))
    else:
        log.error("request %s failed", request_id or "-", exc_info=error)
        hidden.__cause__ = error
    return hidden


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that led to it, as far as Python would print them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _shown(error: BaseException) -> str:
    """As Python prints it with its traceback, but for the values in pydantic's errors."""
    text: object = error
    if isinstance(error, ValidationError):
        complaints = error.errors(include_url=False, include_context=False, include_input=False)
        text = f"{error.title}: " + "; ".join(
            f"{complaint['loc']} {complaint['type']}" for complaint in complaints[:10]
        )
    return f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__qualname__}: {text}"


class working_for:  # a class rather than a generator: it is entered twice for every item
    """`with working_for(call):` hooks called inside see `call` as the current one."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: CallContext) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._token = _current.set(self._call)

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)


def run_batch(
    workflow: BaseInferenceWorkflow[Any, Any, Any],
    inputs: Sequence[Any],
    calls: Sequence[CallContext],
    executions: list[Execution],
) -> list[Any]:
    """One output or WorkflowError per input, in order. The caller holds the workflow's one-hook lock.

    What has run is added to `executions`.
    """
    outcomes: list[Any] = [None] * len(inputs)
    items: list[_Item] = []
    came = time.monotonic()
    for index, (value, call) in enumerate(zip(inputs, calls, strict=True)):
        try:
            _require_wanted(call)
            with working_for(call):
                parsed = workflow._once_parsed(value)
                load = workflow.load_of(parsed)
                items.append(_Item(index, call, parsed, workflow.do_preprocessing(parsed), load.cost, load.bucket))
        except Exception as error:  # noqa: BLE001 - becomes this item's outcome
            outcomes[index] = as_error(error, call.request_id)
    input_s = (time.monotonic() - came) / max(1, len(inputs))
    together = workflow._defines("do_run_batch")
    limits = workflow.batch_limits
    for planned in _groups(items, limits.max_size, limits.max_cost):
        group = _wanted(planned, outcomes)  # again: those that ran before took their time
        if not group:
            continue
        ran: list[Execution] = []
        if together:
            results = _run(workflow.do_run_batch, group, ran, workflow.retry_safe)
        else:
            results = _one_by_one(workflow, group, ran)
        answered = time.monotonic()
        for item, result in zip(group, results, strict=True):
            outcomes[item.index] = _finish(workflow, item, result)
        output_s = (time.monotonic() - answered) / len(group)
        for execution in ran:
            execution.input_s = input_s * len(execution.members)
            execution.output_s = output_s * len(execution.members)
        executions += ran
    return outcomes


def _wanted(group: list[_Item], outcomes: list[Any]) -> list[_Item]:
    """Those of a group that somebody still waits for; the others get their outcome."""
    wanted: list[_Item] = []
    for item in group:
        late = given_up(item.call)
        if late is None:
            wanted.append(item)
        else:
            outcomes[item.index] = late
    return wanted


def _require_wanted(call: CallContext) -> None:
    late = given_up(call)
    if late is not None:
        raise late


def _groups(items: list[_Item], max_size: int, max_cost: float | None) -> Iterator[list[_Item]]:
    buckets: dict[Hashable, list[_Item]] = {}
    for item in items:
        buckets.setdefault(item.bucket, []).append(item)
    for bucket in buckets.values():
        group: list[_Item] = []
        cost = 0.0
        for item in bucket:
            if group and (len(group) == max_size or (max_cost is not None and cost + item.cost > max_cost)):
                yield group
                group, cost = [], 0.0
            group.append(item)
            cost += item.cost
        yield group


def _one_by_one(workflow: BaseInferenceWorkflow[Any, Any, Any], group: list[_Item], ran: list[Execution]) -> list[Any]:
    results: list[Any] = []
    for item in group:
        try:
            _require_wanted(item.call)
            with working_for(item.call):
                began = time.monotonic()
                results.append(workflow.do_run_model(item.prepared))
                ran.append(Execution([item.index], model_s=time.monotonic() - began))
        except Exception as error:  # noqa: BLE001 - becomes this item's outcome
            results.append(as_error(error, item.call.request_id))
    return results


def _run(run: Callable[[list[Any]], Any], group: list[_Item], ran: list[Execution], split: bool) -> list[Any]:
    """Run a group; one that raises is halved, at the cost of at most 2 log2(n) further runs per culprit."""
    began = time.monotonic()
    try:
        results = run([item.prepared for item in group])
    except Exception as error:  # noqa: BLE001 - becomes the outcome of whoever is found to cause it
        results = error
    # The halves run outside of the except block: their errors are no consequence of this one.
    if isinstance(results, Exception):
        if len(group) > 1 and split:
            half = len(group) // 2
            return _run(run, group[:half], ran, split) + _run(run, group[half:], ran, split)
        return [as_error(results, item.call.request_id) for item in group]
    if not isinstance(results, list) or len(results) != len(group):
        got = len(results) if isinstance(results, list) else type(results).__name__
        wrong = RuntimeError(f"do_run_batch must return a list of {len(group)} outcomes, got {got}")
        return [as_error(wrong, item.call.request_id) for item in group]
    ran.append(Execution([item.index for item in group], model_s=time.monotonic() - began))
    return results


def _finish(workflow: BaseInferenceWorkflow[Any, Any, Any], item: _Item, result: Any) -> Any:
    if isinstance(result, WorkflowError):
        return result
    try:
        with working_for(item.call):
            return workflow.do_postprocessing(item.parsed, result)
    except Exception as error:  # noqa: BLE001 - becomes this item's outcome
        return as_error(error, item.call.request_id)
