"""The life of a sync workflow: who drives which hook when, and what becomes of each input."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from pydantic import BaseModel

from workflows import BaseInferenceWorkflow, Batching, CallContext, WorkflowError, current_call
from workflows.errors import Cancelled, DeadlineExceeded, InvalidInput, NotReady, Unsupported


class Double(BaseInferenceWorkflow[int, int]):
    """Twice the number.

    More text.
    """

    def do_run_model(self, preprocessed_data: int) -> int:
        return preprocessed_data * 2


class Tenfold(BaseInferenceWorkflow[int, int]):
    """Batches only; a number below zero is refused."""

    batching = Batching(max_size=64)

    def do_setup(self) -> None:
        self.batches: list[list[int]] = []

    def do_run_batch(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        if min(batch) < 0:
            raise InvalidInput("below zero")
        return [value * 10 for value in batch]


class Letters(BaseInferenceWorkflow[str, str, str]):
    """One letter at a time, and a note of what happened."""

    def do_setup(self) -> None:
        self.notes: list[str] = []

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        try:
            for letter in preprocessed_data:
                self.notes.append(f"made {letter}")
                yield letter
        finally:
            self.notes.append("closed")


# ---- definition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["setup", "inference", "inference_batch", "stream", "teardown"])
def test_the_driving_methods_are_final(name: str) -> None:
    with pytest.raises(TypeError, match=f"Bad.{name} is final: define do_"):
        type("Bad", (Double,), {name: lambda self: None})
    mixin = type("Mixin", (), {name: lambda self: None})
    with pytest.raises(TypeError, match="final"):
        type("Bad", (mixin, Double), {})


def test_a_workflow_that_defines_nothing_to_run_cannot_be_set_up() -> None:
    class Empty(BaseInferenceWorkflow[int, int]):
        def do_preprocessing(self, input_data: int) -> int:
            return input_data

    with pytest.raises(TypeError, match="Empty defines none of do_run_model, do_run_batch, do_stream"):
        Empty().setup()


def test_a_subclass_may_forget_to_call_super_init() -> None:
    class Forgetful(Double):
        def __init__(self, factor: int) -> None:
            self.factor = factor

    assert Forgetful(3).setup().inference(4) == 8


@pytest.mark.parametrize("hook", ["do_setup", "do_preprocessing", "do_run_model", "do_postprocessing", "cost"])
def test_an_async_hook_is_refused_where_nobody_would_await_it(hook: str) -> None:
    async def waits(*args: Any) -> Any: ...

    with pytest.raises(TypeError, match=f"Bad.{hook} is async: derive from AsyncInferenceWorkflow"):
        type("Bad", (Double,), {hook: waits})


def test_an_async_generator_is_no_stream_of_a_sync_workflow() -> None:
    async def gives(*args: Any) -> Any:
        yield 1

    with pytest.raises(TypeError, match=r"Bad\.do_stream is async"):
        type("Bad", (Double,), {"do_stream": gives})


def test_a_type_that_cannot_be_validated_is_refused_at_setup() -> None:
    class Bare(BaseInferenceWorkflow[np.ndarray, int]):  # type: ignore[type-arg, unused-ignore]
        def do_run_model(self, preprocessed_data: Any) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Bare: pydantic does not take its input type .*ndarray.*workflows\.Tensors"):
        Bare().setup()


def test_a_type_may_be_named_before_it_is_defined() -> None:
    class Early(BaseInferenceWorkflow["Point", int]):
        def do_run_model(self, preprocessed_data: Any) -> int:
            return int(preprocessed_data.x)

    assert Early().setup().inference({"x": 3}) == 3


# ---- streams that are no generators ----------------------------------------------------------------------------------


class Spelling:
    """An iterator with an end of its own."""

    def __init__(self, text: str) -> None:
        self.letters = iter(text)
        self.closed = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self.letters)

    def close(self) -> None:
        self.closed += 1


class Spells(BaseInferenceWorkflow[str, str, str]):
    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        self.last = Spelling(preprocessed_data)
        return self.last


@pytest.mark.parametrize("gives", [iter, list, lambda text: map(str, text), lambda text: (letter for letter in text)])
def test_do_stream_may_return_an_iterator(gives: Any) -> None:
    class Gives(BaseInferenceWorkflow[str, str, str]):
        def do_stream(self, preprocessed_data: str) -> Iterator[str]:
            return cast("Iterator[str]", gives(preprocessed_data))

    workflow = Gives().setup()
    assert list(workflow.stream("abc")) == ["a", "b", "c"]
    assert workflow.inference("abc") == "abc"
    assert workflow.inference_batch(["ab", "c"]) == ["ab", "c"]
    next(early := workflow.stream("abc"))
    early.close()


def test_an_iterator_is_closed_once_at_its_end_or_when_it_is_left() -> None:
    workflow = Spells().setup()
    assert list(workflow.stream("ab")) == ["a", "b"]
    assert workflow.last.closed == 1
    next(early := workflow.stream("ab"))
    assert workflow.last.closed == 0
    early.close()
    assert workflow.last.closed == 1
    assert workflow.inference("ab") == "ab"
    assert workflow.last.closed == 1


def test_a_stream_that_is_no_iterator_is_named() -> None:
    class Number(BaseInferenceWorkflow[str, str, str]):
        def do_stream(self, preprocessed_data: str) -> Any:
            return 5

    with pytest.raises(TypeError, match="do_stream must be a generator or return an iterator, not int"):
        next(Number().setup().stream("ab"))


# ---- setup and teardown ----------------------------------------------------------------------------------------------


def test_nothing_works_before_setup_and_after_teardown() -> None:
    workflow = Letters()
    for _ in range(2):
        with pytest.raises(NotReady):
            workflow.inference("a")
        with pytest.raises(NotReady):
            workflow.inference_batch(["a"])
        with pytest.raises(NotReady):
            workflow.stream("a")  # at once, not with the first chunk
        assert not workflow.is_setup
        workflow.setup()
        assert workflow.is_setup
        assert workflow.inference("ab") == "ab"
        workflow.teardown()


class Moody(Double):
    """Counts its hooks; the ones named in `broken` raise."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.calls: list[str] = []

    def note(self, hook: str) -> None:
        self.calls.append(hook)
        if hook in self.broken:
            raise OSError(hook)

    def do_setup(self) -> None:
        self.note("setup")

    def do_warm_up(self) -> None:
        assert self.inference(1) == 2
        self.note("warm_up")

    def do_teardown(self) -> None:
        self.note("teardown")


def test_setup_runs_once_and_teardown_once() -> None:
    workflow = Moody()
    assert workflow.setup() is workflow
    workflow.setup()
    workflow.teardown()
    workflow.teardown()
    assert workflow.calls == ["setup", "warm_up", "teardown"]


def test_a_failed_setup_leaves_it_not_set_up_and_can_be_tried_again() -> None:
    workflow = Moody("setup")
    with pytest.raises(OSError, match="setup"):
        workflow.setup()
    assert not workflow.is_setup
    with pytest.raises(NotReady):
        workflow.inference(1)
    workflow.teardown()
    assert workflow.calls == ["setup"]  # nothing was taken that could be released
    workflow.broken.clear()
    assert workflow.setup().inference(1) == 2


def test_a_failed_warm_up_releases_what_setup_took() -> None:
    workflow = Moody("warm_up")
    with pytest.raises(OSError, match="warm_up"):
        workflow.setup()
    assert workflow.calls == ["setup", "warm_up", "teardown"]
    assert not workflow.is_setup
    workflow.broken.clear()
    assert workflow.setup().inference(1) == 2


def test_what_setup_raises_is_the_first_thing_that_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    workflow = Moody("warm_up", "teardown")
    with pytest.raises(OSError, match="warm_up"):
        workflow.setup()
    assert not workflow.is_setup
    assert "OSError: teardown" in caplog.text


def test_a_call_that_waited_for_its_turn_until_teardown_is_not_run() -> None:
    waiting = threading.Event()

    class Inputs(list[int]):
        """Is asked for its length by a call that was let in and goes to wait for its turn."""

        def __len__(self) -> int:
            waiting.set()
            return super().__len__()

    class Ending(Double):
        def do_run_model(self, preprocessed_data: int) -> int:
            late.start()
            assert waiting.wait(10)
            self.teardown()
            return preprocessed_data

    def ask() -> None:
        try:
            answers.append(workflow.inference_batch(Inputs([1])))
        except NotReady as error:
            answers.append(error)

    answers: list[Any] = []
    late = threading.Thread(target=ask)
    workflow = Ending().setup()
    assert workflow.inference(7) == 7
    late.join(10)
    assert [type(answer) for answer in answers] == [NotReady]


# ---- inference -------------------------------------------------------------------------------------------------------


def test_the_hooks_run_in_order_and_postprocessing_sees_the_input() -> None:
    class Chain(BaseInferenceWorkflow[int, str]):
        def do_preprocessing(self, input_data: int) -> list[int]:
            return [input_data]

        def do_run_model(self, preprocessed_data: list[int]) -> list[int]:
            return [*preprocessed_data, 2]

        def do_postprocessing(self, input_data: int, output_data: list[int]) -> str:
            return f"{input_data}: {output_data}"

    assert Chain().setup().inference(1) == "1: [1, 2]"


def test_inference_alone_is_a_batch_of_one_where_only_do_run_batch_is_defined() -> None:
    workflow = Tenfold().setup()
    assert workflow.inference(4) == 40
    assert workflow.batches == [[4]]
    with pytest.raises(InvalidInput, match="below zero"):
        workflow.inference(-1)


def test_an_error_in_an_outputs_place_is_raised_alone() -> None:
    class Refuses(BaseInferenceWorkflow[int, int]):
        def do_run_batch(self, batch: list[int]) -> list[WorkflowError]:
            return [InvalidInput(f"not {value}") for value in batch]

    workflow = Refuses().setup()
    with pytest.raises(InvalidInput, match="not 3"):
        workflow.inference(3)
    assert [str(outcome) for outcome in workflow.inference_batch([1, 2])] == ["not 1", "not 2"]


class Point(BaseModel):
    x: int
    y: list[int] = []


def test_a_wrong_input_names_its_field_and_does_not_repeat_its_value() -> None:
    class Norm(BaseInferenceWorkflow[Point, int]):
        def do_run_model(self, preprocessed_data: Point) -> int:
            return preprocessed_data.x

    workflow = Norm().setup()
    with pytest.raises(InvalidInput) as caught:
        workflow.inference({"x": 1, "y": [1, "secret"]})
    assert caught.value.param == "y.1"
    assert "secret" not in caught.value.message
    assert workflow.inference({"x": 5}) == workflow.inference(Point(x=5)) == 5


def test_a_key_that_the_caller_chose_is_shown_short_and_escaped() -> None:
    class Count(BaseInferenceWorkflow[dict[str, int], int]): ...

    with pytest.raises(InvalidInput) as caught:
        Count().parse_input({"a\n\u202e\x1b" + "b" * 300: "c"})
    assert caught.value.param == r"a\n\u202e\x1b" + "b" * 51
    assert caught.value.message.startswith(f"{caught.value.param}: Input should be")


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_workflow_without_do_stream_does_not_stream() -> None:
    workflow = Double().setup()
    assert not workflow.streams
    with pytest.raises(Unsupported):
        workflow.stream(1)


def test_the_answer_is_the_fold_of_the_stream_where_only_that_is_defined() -> None:
    workflow = Letters().setup()
    assert list(workflow.stream("abc")) == ["a", "b", "c"]
    assert workflow.inference("abc") == "abc"
    assert workflow.inference_batch(["ab", 5, "c"])[::2] == ["ab", "c"]


def test_closing_a_stream_early_runs_finally_before_the_next_chunk_is_made() -> None:
    workflow = Letters().setup()
    chunks = workflow.stream("abc")
    assert next(chunks) == "a"
    chunks.close()
    assert workflow.notes == ["made a", "closed"]
    assert list(workflow.stream("d")) == ["d"]


def test_a_stream_that_was_never_begun_runs_nothing() -> None:
    workflow = Letters().setup()
    workflow.stream("abc").close()
    assert workflow.notes == []


def test_a_stream_ends_with_its_workflow() -> None:
    workflow = Letters().setup()
    chunks = workflow.stream("abc")
    next(chunks)
    workflow.teardown()
    with pytest.raises(NotReady):
        next(chunks)
    assert workflow.notes == ["made a", "closed"]


def test_hooks_of_concurrent_streams_and_batches_never_overlap() -> None:
    class Watched(Letters):
        inside: ClassVar[list[int]] = []
        worst: ClassVar[int] = 0

        def watch(self) -> None:
            Watched.inside.append(1)
            Watched.worst = max(Watched.worst, len(Watched.inside))
            os.sched_yield()  # gives the other threads the chance to come in
            Watched.inside.pop()

        def do_preprocessing(self, input_data: str) -> str:
            self.watch()
            return input_data

        def do_stream(self, preprocessed_data: str) -> Iterator[str]:
            try:
                for letter in preprocessed_data:
                    self.watch()
                    yield letter
            finally:
                self.watch()

    workflow = Watched().setup()
    start = threading.Barrier(4)
    results: list[Any] = []

    def drive(work: Any) -> None:
        start.wait(10)
        results.append(work())

    works = [lambda: "".join(workflow.stream("abcdef"))] * 3 + [lambda: workflow.inference_batch(["abcdef"])[0]]
    threads = [threading.Thread(target=drive, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == ["abcdef"] * 4
    assert Watched.worst == 1


def test_two_streams_take_turns() -> None:
    workflow = Letters().setup()
    first, second = workflow.stream("ab"), workflow.stream("xy")
    assert [next(first), next(second), next(first), next(second)] == ["a", "x", "b", "y"]
    assert workflow.notes == ["made a", "made x", "made b", "made y"]


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_the_card_describes_the_workflow() -> None:
    card = Letters().setup().card("letters")
    assert (card.summary, card.kind, card.streams, card.retry_safe, card.batching) == (
        "One letter at a time, and a note of what happened.",
        "json",
        True,
        False,
        None,
    )
    assert card.input_schema == card.output_schema == card.chunk_schema == {"type": "string"}
    assert Tenfold().card("r").batching == Batching(max_size=64)
    assert Double().card("d", "Other.").summary == "Other."
    assert Double().card("d").chunk_schema is None


def test_a_whole_answer_is_given_up_where_its_stream_would_be() -> None:
    made: list[int] = []

    class Counts(BaseInferenceWorkflow[int, list[int], int]):
        def do_stream(self, preprocessed_data: int) -> Iterator[int]:
            for number in range(preprocessed_data):
                made.append(number)
                if number == 2:
                    gone.cancel()
                if current_call() is late:
                    late.deadline = 0.0
                yield number

    gone, late = CallContext("gone"), CallContext("late")
    first, second = Counts().setup().inference_batch([9, 9], [gone, late])

    assert isinstance(first, Cancelled)
    assert isinstance(second, DeadlineExceeded)
    assert made == [0, 1, 2, 0]
