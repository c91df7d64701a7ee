"""What a call says of the runs of the model that it took."""

from __future__ import annotations

from typing import Any

import pytest

from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, CallContext
from workflows.errors import InvalidInput
from workflows.executions import Execution


class Rows(BaseInferenceWorkflow[int, int]):
    """Runs even and odd numbers apart, at most two at once; 9 breaks its batch."""

    batching = Batching(max_size=2)
    retry_safe = True

    def bucket(self, input_data: int) -> int:
        return input_data % 2

    def do_preprocessing(self, input_data: int) -> int:
        if input_data < 0:
            raise InvalidInput
        return input_data

    def do_run_batch(self, batch: list[int]) -> list[int]:
        if 9 in batch:
            raise RuntimeError("9")
        return batch


class Waits(AsyncInferenceWorkflow[int, int]):
    """The same, one by one."""

    async def do_run_model(self, preprocessed_data: int) -> int:
        if preprocessed_data in (9, -1):
            raise InvalidInput
        return preprocessed_data


class Single(BaseInferenceWorkflow[int, int]):
    """The same, in a batch of the caller's."""

    batching = Batching(max_size=8)

    def do_run_model(self, preprocessed_data: int) -> int:
        if preprocessed_data in (9, -1):
            raise InvalidInput
        return preprocessed_data


INPUTS = [2, 4, -1, 6, 1, 9, 3]


@pytest.mark.parametrize(
    ("workflow", "runs"),
    [(Rows(), [[0, 1], [3], [4], [6]]), (Single(), [[0], [1], [3], [4], [6]]), (Waits(), [[0], [1], [3], [4], [6]])],
)
def test_each_run_names_its_inputs_and_takes_time(workflow: Any, runs: list[list[int]]) -> None:
    executions: list[Execution] = []
    workflow.setup()
    outcomes = workflow.inference_batch(INPUTS, executions=executions)
    assert sorted(execution.members for execution in executions) == runs
    assert all(execution.model_s > 0 and execution.input_s > 0 for execution in executions)
    assert all(execution.output_s > 0 for execution in executions)
    assert [type(outcome) is int for outcome in outcomes] == [True, True, False, True, True, False, True]
    workflow.teardown()


def test_nobody_has_to_ask() -> None:
    assert Rows().setup().inference_batch([2], [CallContext()]) == [2]


async def test_an_async_call_fills_in_as_far_as_it_came() -> None:
    workflow = await Waits().asetup()
    well, badly = Execution([0]), Execution([0])
    assert await workflow.ainference(2, well) == 2
    assert min(well.input_s, well.model_s, well.output_s) > 0
    with pytest.raises(InvalidInput):
        await workflow.ainference(9, badly)
    assert badly.input_s > 0
    assert (badly.model_s, badly.output_s) == (0.0, 0.0)
    await workflow.ateardown()
