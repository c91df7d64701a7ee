"""The conformance kit notices answers that are another caller's, or change after they were given, with one example."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field

from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Tensors, TensorsResult
from workflows.testing import check_workflow
from workflows.types import Vector


class Backwards(BaseInferenceWorkflow[int, int]):
    """Gives its batch's answers from the last to the first."""

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return [2 * value for value in batch][::-1]


class Previous(BaseInferenceWorkflow[str, str]):
    """Answers with what the caller before this one asked."""

    last: str | None = None

    def do_run_model(self, preprocessed_data: str) -> str:
        before, self.last = self.last, preprocessed_data
        return before if before is not None else preprocessed_data


class OneBuffer(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Writes every answer into the same array."""

    def do_setup(self) -> None:
        self.buffer = np.zeros(2, np.float32)

    def do_run_model(self, preprocessed_data: Tensors) -> TensorsResult:
        np.multiply(preprocessed_data.inputs["x"], 2, out=self.buffer)
        return TensorsResult(outputs={"y": self.buffer})


class OneTable(BaseInferenceWorkflow[int, Vector]):  # type: ignore[type-arg, unused-ignore]
    """Gives rows of the same table from every batch."""

    def do_setup(self) -> None:
        self.table = np.zeros((8, 1), np.float32)

    def do_run_model(self, preprocessed_data: int) -> Any:
        return np.array([preprocessed_data], np.float32)

    def do_run_batch(self, batch: list[int]) -> list[Any]:
        self.table[: len(batch), 0] = batch
        return list(self.table[: len(batch)])


class Clips(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Works in the caller's array."""

    def do_run_model(self, preprocessed_data: Tensors) -> TensorsResult:
        x = preprocessed_data.inputs["x"]
        return TensorsResult(outputs={"y": np.clip(x, 0, 1, out=x).copy()})


class OneChunk(BaseInferenceWorkflow[int, list[dict[str, int]], dict[str, int]]):
    """Every chunk is the same dict."""

    def do_stream(self, preprocessed_data: int) -> Iterator[dict[str, int]]:
        chunk = {}
        for number in range(preprocessed_data):
            chunk["number"] = number
            yield chunk


class OnePlace(BaseInferenceWorkflow[str, str, str]):
    """Keeps its place in the text where the next caller finds it."""

    def do_run_model(self, preprocessed_data: str) -> str:
        self.text = preprocessed_data
        return self.text

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        self.text = preprocessed_data
        for place in range(len(preprocessed_data)):
            yield self.text[place]


class AsyncMixed(AsyncInferenceWorkflow[str, str]):
    """Keeps its input on itself while it waits."""

    async def do_run_model(self, preprocessed_data: str) -> str:
        self.text = preprocessed_data
        await asyncio.sleep(0)
        return self.text


class AsyncMixedStreams(AsyncInferenceWorkflow[str, str, str]):
    """Keeps its input on itself while it streams."""

    async def do_run_model(self, preprocessed_data: str) -> str:
        return preprocessed_data

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        self.text = preprocessed_data
        for place in range(len(preprocessed_data)):
            await asyncio.sleep(0)
            yield self.text[place]


PAIR = {"x": np.array([5.0, -3.0], np.float32)}


@pytest.mark.parametrize(
    ("workflow", "example", "says"),
    [
        (Backwards(), 1, "input 0 got another answer than alone"),
        (Previous(), "ab", "the same input gave two different answers"),
        (OneBuffer(), {"inputs": PAIR}, "changed an answer that was given before"),
        (Clips(), Tensors(inputs={"x": PAIR["x"].copy()}), "inference\\(\\) changed an input, which is the caller's"),
        (OneTable(), 1, "inference_batch\\(\\) changed an answer that was given before"),
        (OneChunk(), 3, "stream\\(\\) changed an answer that was given before"),
        (OnePlace(), "abc", "the chunks of stream\\(\\), folded, are another answer"),
        (AsyncMixed(), "ab", "got another answer than alone"),
        (AsyncMixedStreams(), "abc", "the chunks of stream\\(\\), folded, are another answer"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseInferenceWorkflow) else "",
)
def test_an_answer_of_somebody_else_is_noticed_with_one_example(
    workflow: BaseInferenceWorkflow[Any, Any, Any], example: Any, says: str
) -> None:
    with pytest.raises(AssertionError, match=says):
        check_workflow(workflow, example)


def test_a_batch_of_two_kinds_reads_another_way_backwards() -> None:
    with pytest.raises(AssertionError, match="input 0 got another answer than alone"):
        check_workflow(Backwards(), 1, more=[2])


def test_a_workflow_with_one_answer_for_all_passes_with_a_warning() -> None:
    class Constant(BaseInferenceWorkflow[str, int]):
        """Says seven."""

        def do_run_model(self, preprocessed_data: str) -> int:
            return 7

    with pytest.warns(
        UserWarning, match=r"Constant gave one and the same answer to every input.*more=\[...\]"
    ) as caught:
        check_workflow(Constant(), "ab")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_made_up_input_that_the_workflow_does_not_take_is_none() -> None:
    class Picky(BaseInferenceWorkflow[str, str]):
        """Knows two words."""

        def do_run_model(self, preprocessed_data: str) -> str:
            return {"ab": "first", "ba": "second"}[preprocessed_data]

    check_workflow(Picky(), "ab")


class Counted(BaseInferenceWorkflow[str, str, str]):
    """Counts its open streams."""

    open = 0

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        self.open += 1
        yield from preprocessed_data
        self.open -= 1


class Held(BaseInferenceWorkflow[str, str, str]):
    """Holds one of many places while it streams."""

    def do_setup(self) -> None:
        self.streams_open: set[object] = set()

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        mine = object()
        self.streams_open.add(mine)
        yield from preprocessed_data
        self.streams_open.remove(mine)


@pytest.mark.parametrize(("workflow", "name"), [(Counted(), "open"), (Held(), "streams_open")])
def test_a_stream_that_does_not_clean_up_when_it_is_left_is_warned_of(workflow: Any, name: str) -> None:
    with pytest.warns(UserWarning, match=rf"\.{name} was \d+ before and after a whole stream.* clean up in `finally`"):
        check_workflow(workflow, "ab")


# ---- names -----------------------------------------------------------------------------------------------------------


class Alias(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str = Field(alias="Text")


class Written(BaseModel):
    text: str = Field(serialization_alias="Text")


class Read(BaseModel):
    text: str = Field(validation_alias="Text")


class Sized(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return len(self.text)


@pytest.mark.parametrize(
    ("takes", "gives"), [(Alias, Alias), (Read, Written), (Alias, Sized)], ids=["both", "each", "computed"]
)
def test_models_may_have_other_names_in_json(takes: Any, gives: Any) -> None:
    class Renames(BaseInferenceWorkflow[takes, gives]):
        """Names."""

        def do_run_model(self, preprocessed_data: Any) -> Any:
            return gives(**{"Text" if gives is Alias else "text": preprocessed_data.text})

    check_workflow(Renames(), {"Text": "ab"}, more=[{"Text": "c"}])
