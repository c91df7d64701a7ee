"""The conformance kit passes what keeps the contract, and says in one sentence what a workflow does wrong."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Generate, Generated, TextChunk, Usage
from workflows.testing import check_workflow


class Echo(BaseInferenceWorkflow[str, str, str]):
    """Gives back what it gets."""

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        yield from preprocessed_data


class Twice(BaseInferenceWorkflow[int, int]):
    """Batches only."""

    retry_safe = True

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return [2 * value for value in batch]


class Words(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    """Streams an exchange type."""

    def do_stream(self, preprocessed_data: Generate) -> Iterator[TextChunk]:
        words = (preprocessed_data.prompt or "").split()
        for word in words:
            yield TextChunk(text=word)
        yield TextChunk(text="", finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=len(words)))


class Later(AsyncInferenceWorkflow[str, str, str]):
    """Async, with a stream."""

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        for letter in preprocessed_data:
            await asyncio.sleep(0)
            yield letter


class Anything(BaseInferenceWorkflow):  # type: ignore[type-arg, unused-ignore]
    """Takes and gives whatever JSON can say."""

    def do_run_model(self, preprocessed_data: Any) -> Any:
        return preprocessed_data


class Pairs(BaseInferenceWorkflow[int, tuple[Usage, dict[int, set[str]]]]):
    """Gives what is not JSON by itself."""

    def do_run_model(self, preprocessed_data: int) -> tuple[Usage, dict[int, set[str]]]:
        return Usage(prompt_tokens=1, completion_tokens=1), {preprocessed_data: {"b", "c"}}


@pytest.mark.parametrize(
    ("workflow", "example", "more"),
    [
        (Echo(), "hello", ["you"]),
        (Twice(), 3, [4, 5]),
        (Words(), {"prompt": "a b c"}, [Generate(prompt="d")]),
        (Later(), "hello", ["you"]),
        (Anything(), {"a": [1, None, 0.5]}, []),
        (Pairs(), 1, [2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_workflow_that_keeps_the_contract_passes(
    workflow: BaseInferenceWorkflow[Any, Any, Any], example: Any, more: list[Any]
) -> None:
    check_workflow(workflow, example, more=more)
    assert not workflow.is_setup


def test_it_works_inside_of_a_running_event_loop() -> None:
    async def main() -> None:
        check_workflow(Later(), "ab")

    asyncio.run(main())


def test_a_workflow_that_draws_random_numbers_passes_when_that_is_said() -> None:
    class Dice(BaseInferenceWorkflow[int, float]):
        """Rolls."""

        def do_run_model(self, preprocessed_data: int) -> float:
            return random.random()

    check_workflow(Dice(), 1, repeatable=False)
    with pytest.raises(AssertionError, match="repeatable=False"):
        check_workflow(Dice(), 1)


# ---- every promise that is broken is named ---------------------------------------------------------------------------


class NoDocs(Echo):
    __doc__ = None


class Shuffled(Twice):
    """Mixes up its batch."""

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return [2 * value for value in reversed(batch)]


class Leaky(Twice):
    """Later answers depend on earlier ones."""

    def do_setup(self) -> None:
        self.seen = 0

    def do_run_batch(self, batch: list[int]) -> list[int]:
        self.seen += 1
        return [value + self.seen for value in batch]


class Forgets(Twice):
    """Loses the last answer of a batch."""

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return [2 * value for value in batch][: max(1, len(batch) - 1)]


class OneLife(Echo):
    """Cannot be set up twice."""

    lives = 1

    def do_setup(self) -> None:
        if not self.lives:
            raise OSError("no more lives")
        self.lives -= 1


class WrongOutput(BaseInferenceWorkflow[str, int]):
    """Says int and gives text."""

    def do_run_model(self, preprocessed_data: str) -> Any:
        return preprocessed_data


class NotJson(BaseInferenceWorkflow[str, float]):
    """Gives NaN, which JSON has not."""

    def do_run_model(self, preprocessed_data: str) -> float:
        return float("nan")


class TwoKeys(BaseInferenceWorkflow[str, Any]):
    """Gives keys that are two in Python and one in JSON."""

    def do_run_model(self, preprocessed_data: str) -> Any:
        return {1: "a", "1": "b"}


class Clings(Echo):
    """Goes on when it is closed."""

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        for letter in preprocessed_data:
            try:
                yield letter
            except GeneratorExit:
                yield "one more"


class OtherAnswer(Echo):
    """Streams one thing and answers another."""

    def do_run_model(self, preprocessed_data: str) -> str:
        return preprocessed_data.upper()


class Silent(Echo):
    """Streams nothing."""

    def do_run_model(self, preprocessed_data: str) -> str:
        return ""

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        yield from ()


class WrongChunk(BaseInferenceWorkflow[str, list[Any], int]):
    """Says int and streams text."""

    def do_stream(self, preprocessed_data: str) -> Any:
        yield "text"


class ListBucket(Echo):
    """Buckets must be hashable."""

    def bucket(self, input_data: str) -> Any:
        return [len(input_data)]


class NewBucket(Echo):
    """Buckets must be equal for equal inputs."""

    def bucket(self, input_data: str) -> Any:
        return object()


class EndlessCost(Echo):
    """Costs must be finite."""

    def cost(self, input_data: str) -> float:
        return float("inf")


class MainThreadOnly(Echo):
    """Works where it was made and nowhere else."""

    def do_setup(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("main thread only")


class Asked(BaseModel):
    text: str

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "text"}


class WrongSchema(BaseInferenceWorkflow[Asked, str]):
    """Its schema was written by hand."""

    def do_run_model(self, preprocessed_data: Asked) -> str:
        return preprocessed_data.text


class AsyncClings(Later):
    """An async stream that swallows its end."""

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        for letter in preprocessed_data:
            try:
                yield letter
            except GeneratorExit:
                yield "one more"


@pytest.mark.parametrize(
    ("workflow", "example", "says"),
    [
        (Echo().setup(), "ab", "on which setup\\(\\) was not called"),
        (NoDocs(), "ab", "needs a docstring"),
        (Echo(), 5, "validating the example as the workflow's input type raised InvalidInput"),
        (Shuffled(), 1, "input 0 got another answer than alone"),
        (Leaky(), 1, "state leaks"),
        (Forgets(), 1, "input 0 failed with WorkflowError"),
        (OneLife(), "ab", "setup\\(\\) \\(second setup\\(\\), on another thread\\) raised OSError: no more lives"),
        (MainThreadOnly(), "ab", "raised RuntimeError: main thread only"),
        (WrongOutput(), "ab", "declared output type \\(the workflow's second type argument\\)"),
        (NotJson(), "ab", "writing the answer as JSON raised ValueError"),
        (TwoKeys(), "ab", "making the answer's plain form raised BadOutput"),
        (Clings(), "ab", "must not yield or raise once it is closed"),
        (OtherAnswer(), "ab", "another answer than that of inference"),
        (Silent(), "ab", "gave no chunk at all"),
        (WrongChunk(), "ab", "declared chunk type"),
        (ListBucket(), "ab", "hashing what bucket\\(\\) returned raised TypeError"),
        (NewBucket(), "ab", "the same for the same input every time"),
        (EndlessCost(), "ab", "cost\\(\\) must be a finite number"),
        (WrongSchema(), {"text": "a"}, "input_schema of the card has the unknown type 'text'"),
        (AsyncClings(), "ab", "raised"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseInferenceWorkflow) else "",
)
def test_a_broken_promise_is_named(workflow: BaseInferenceWorkflow[Any, Any, Any], example: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=says) as caught:
        check_workflow(
            workflow, example, more=[2, 3] if isinstance(example, int) and isinstance(workflow, Twice) else []
        )
    assert "\n" not in str(caught.value)[:60]


def test_a_workflow_is_torn_down_whatever_was_found() -> None:
    workflow = OtherAnswer()
    with pytest.raises(AssertionError):
        check_workflow(workflow, "ab")
    assert not workflow.is_setup
