"""Several inputs at once: one outcome each, in order, and nobody pays for a neighbour."""

from __future__ import annotations

import time
from typing import Any

import pytest

from workflows import BaseInferenceWorkflow, Batching, CallContext, WorkflowError, cancelled, current_call
from workflows.errors import Cancelled, DeadlineExceeded, InvalidInput


class Double(BaseInferenceWorkflow[int, int]):
    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data * 2


class Recorded(BaseInferenceWorkflow[int, int]):
    """Notes every batch; numbers below zero make the whole batch raise."""

    retry_safe = True
    batching = Batching(max_size=64)

    def do_setup(self) -> None:
        self.batches: list[list[int]] = []

    def do_run_batch(self, batch: list[int]) -> list[int | WorkflowError]:
        self.batches.append(batch)
        if min(batch) < 0:
            raise InvalidInput("below zero")
        return [value * 10 for value in batch]


def test_every_input_has_its_own_outcome_in_order() -> None:
    outcomes = Double().setup().inference_batch([1, "no number", 3, None, 5])
    assert [type(o).__name__ if isinstance(o, WorkflowError) else o for o in outcomes] == [
        2,
        "InvalidInput",
        6,
        "InvalidInput",
        10,
    ]


def test_each_hook_fails_for_its_own_input_only() -> None:
    class Fussy(BaseInferenceWorkflow[int, int]):
        def do_preprocessing(self, input_data: int) -> int:
            return self.refuse(1, input_data)

        def do_run_model(self, preprocessed_data: int) -> int:
            return self.refuse(2, preprocessed_data)

        def do_postprocessing(self, input_data: int, output_data: int) -> int:
            return self.refuse(3, output_data)

        @staticmethod
        def refuse(bad: int, value: int) -> int:
            if value == bad:
                raise InvalidInput(str(bad))
            return value

    assert [str(outcome) for outcome in Fussy().setup().inference_batch([0, 1, 2, 3, 4])] == ["0", "1", "2", "3", "4"]
    assert Fussy().setup().inference_batch([0, 4]) == [0, 4]


def test_a_foreign_exception_becomes_an_internal_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Double):
        def do_run_model(self, preprocessed_data: int) -> int:
            raise RuntimeError("a path: /etc/passwd")

    (outcome,) = Broken().setup().inference_batch([1], [CallContext("r-17")])
    assert type(outcome) is WorkflowError
    assert outcome.message == "internal error"
    assert "r-17" in caplog.text
    assert "/etc/passwd" in caplog.text


def test_one_poisoned_input_of_64_fails_alone_in_few_runs() -> None:
    workflow = Recorded().setup()
    values = list(range(64))
    values[41] = -1
    outcomes = workflow.inference_batch(values)
    culprit = outcomes.pop(41)
    assert isinstance(culprit, InvalidInput)
    assert culprit.__context__ is None  # it is not the consequence of the larger batches' failures
    assert outcomes == [value * 10 for value in values if value >= 0]
    assert len(workflow.batches) == 13  # the whole, and two halves at each of six levels


def test_several_poisoned_inputs_are_all_found() -> None:
    workflow = Recorded().setup()
    outcomes = workflow.inference_batch([-1 if i % 21 == 0 else i for i in range(64)])
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, InvalidInput)] == [0, 21, 42, 63]


def test_a_batch_that_is_not_retry_safe_is_never_run_twice() -> None:
    class Once(Recorded):
        retry_safe = False

    workflow = Once().setup()
    outcomes = workflow.inference_batch([1, -1, 3])
    assert [isinstance(outcome, InvalidInput) for outcome in outcomes] == [True] * 3
    assert workflow.batches == [[1, -1, 3]]


@pytest.mark.parametrize("returned", [[1], [1, 2, 3, 4], None, (1, 2, 3), iter([1, 2, 3])])
def test_do_run_batch_must_return_a_list_of_the_same_length(returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Miscounted(BaseInferenceWorkflow[int, int]):
        def do_run_batch(self, batch: list[int]) -> Any:
            return returned

    outcomes = Miscounted().setup().inference_batch([1, 2, 3])
    assert [type(outcome) for outcome in outcomes] == [WorkflowError] * 3
    assert "do_run_batch must return a list of 3 outcomes" in caplog.text


def test_buckets_sizes_and_costs_bound_what_runs_together() -> None:
    class Sized(Recorded):
        batching = Batching(max_size=3, max_cost=10)

        def cost(self, input_data: int) -> float:
            return input_data

        def bucket(self, input_data: int) -> bool:
            return input_data % 2 == 0

    workflow = Sized().setup()
    assert workflow.inference_batch([1, 2, 3, 4, 5, 6, 1, 100]) == [10, 20, 30, 40, 50, 60, 10, 1000]
    assert workflow.batches == [[1, 3, 5], [1], [2, 4], [6], [100]]


def test_hooks_see_the_call_they_work_for() -> None:
    class Curious(BaseInferenceWorkflow[int, str]):
        def do_run_model(self, preprocessed_data: int) -> str:
            if current_call() is left:
                left.cancel()
            return f"{current_call().request_id} {cancelled()}"

    left = CallContext("second")
    workflow = Curious().setup()
    assert workflow.inference_batch([1, 2], [CallContext("first"), left]) == ["first False", "second True"]
    assert workflow.inference(1) == " False"


class Leaver(BaseInferenceWorkflow[int, int]):
    """While number 1 runs, the callers of all others leave or run out of time."""

    def __init__(self, calls: list[CallContext]) -> None:
        self.calls = calls
        self.ran: list[int] = []

    def do_run_model(self, preprocessed_data: int) -> int:
        self.ran.append(preprocessed_data)
        self.calls[1].cancel()
        self.calls[2].deadline = time.monotonic()
        return preprocessed_data


class BatchedLeaver(Leaver):
    batching = Batching(max_size=1)

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return [self.do_run_model(number) for number in batch]


@pytest.mark.parametrize("kind", [Leaver, BatchedLeaver])
def test_what_nobody_waits_for_any_more_does_not_run(kind: type[Leaver]) -> None:
    calls = [CallContext() for _ in range(4)]
    calls[3].cancel()
    workflow = kind(calls).setup()
    first, left, late, gone = workflow.inference_batch([1, 2, 3, 4], calls)
    assert first == 1
    assert isinstance(left, Cancelled)
    assert isinstance(late, DeadlineExceeded)
    assert not late.may_have_run
    assert isinstance(gone, Cancelled)
    assert workflow.ran == [1]
