"""The life of an async workflow, by its async names and by the sync ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from workflows import AsyncInferenceWorkflow, Batching, CallContext, WorkflowError, current_call
from workflows.errors import Cancelled, DeadlineExceeded, InvalidInput, NotReady, Unsupported


class Remote(AsyncInferenceWorkflow[str, str, str]):
    """Coroutine hooks throughout."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def do_setup(self) -> None:
        await asyncio.sleep(0)
        self.notes.append("setup")

    async def do_preprocessing(self, input_data: str) -> str:
        await asyncio.sleep(0)
        if not input_data:
            raise InvalidInput("empty")
        return input_data

    async def do_run_model(self, preprocessed_data: str) -> str:
        await asyncio.sleep(0)
        return preprocessed_data.upper()

    async def do_postprocessing(self, input_data: str, output_data: str) -> str:
        await asyncio.sleep(0)
        return f"{input_data}->{output_data}"

    async def do_teardown(self) -> None:
        await asyncio.sleep(0)
        self.notes.append("teardown")


class Spelled(AsyncInferenceWorkflow[str, str, str]):
    """Sync hooks around an async stream."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def do_setup(self) -> None:
        self.notes.append("setup")

    def do_preprocessing(self, input_data: str) -> str:
        return input_data.strip()

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(10):  # bound to its task, as the scopes of HTTP clients are
                for letter in preprocessed_data:
                    await asyncio.sleep(0)
                    self.notes.append(f"made {letter}")
                    yield letter
        finally:
            await asyncio.sleep(0)  # cleaning up may take a while
            self.notes.append("closed")

    def do_postprocessing(self, input_data: str, output_data: str) -> str:
        return output_data + "!"


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


# ---- definition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["inference", "stream", "asetup", "ainference", "ainference_batch", "astream", "ateardown"]
)
def test_the_driving_methods_are_final_under_both_names(name: str) -> None:
    with pytest.raises(TypeError, match=f"Bad.{name} is final: define do_"):
        type("Bad", (Remote,), {name: lambda self: None})


def test_a_workflow_that_defines_nothing_to_run_cannot_be_set_up() -> None:
    class Empty(AsyncInferenceWorkflow[str, str]):
        async def do_preprocessing(self, input_data: str) -> str:
            return input_data

    with pytest.raises(TypeError, match="Empty defines none of do_run_model, do_stream"):
        Empty().setup()
    with pytest.raises(TypeError, match="Empty defines none of do_run_model, do_stream"):
        run(Empty().asetup)


def test_batches_that_nobody_would_form_are_refused() -> None:
    async def together(self: Any, batch: list[Any]) -> list[Any]:
        return batch

    for wanted in ({"do_run_batch": together}, {"batching": Batching()}):
        with pytest.raises(TypeError, match="Bad: an async workflow forms no batches: define do_run_model"):
            type("Bad", (Remote,), wanted)


def test_the_card_says_how_many_requests_run_at_once() -> None:
    card = Spelled().card("spelled")
    assert (card.concurrency, card.streams, card.batching) == (64, True, None)
    assert not Remote().card("remote").streams


# ---- the sync names --------------------------------------------------------------------------------------------------


def test_the_sync_names_work() -> None:
    workflow = Remote()
    with pytest.raises(NotReady):
        workflow.inference("a")
    assert workflow.setup() is workflow
    assert workflow.inference("a") == "a->A"
    with pytest.raises(InvalidInput, match="empty"):
        workflow.inference("")
    outcomes = workflow.inference_batch(["a", "", 5, "b"])
    assert [outcome if isinstance(outcome, str) else type(outcome) for outcome in outcomes] == [
        "a->A",
        InvalidInput,
        InvalidInput,
        "b->B",
    ]
    with pytest.raises(Unsupported):
        workflow.stream("a")
    workflow.teardown()
    workflow.teardown()
    with pytest.raises(NotReady):
        workflow.inference("a")
    assert workflow.notes == ["setup", "teardown"]
    assert workflow.setup().inference("c") == "c->C"
    workflow.teardown()


def test_sync_hooks_are_accepted_and_the_answer_is_the_fold_of_the_stream() -> None:
    workflow = Spelled().setup()
    assert workflow.inference(" ab ") == "ab!"
    assert list(workflow.stream(" ab ")) == ["a", "b"]
    workflow.teardown()


def test_closing_a_sync_stream_early_waits_for_finally_and_makes_no_further_chunk() -> None:
    workflow = Spelled().setup()
    chunks = workflow.stream("abc")
    assert next(chunks) == "a"
    chunks.close()
    assert workflow.notes == ["setup", "made a", "closed"]
    assert list(workflow.stream("d")) == ["d"]
    workflow.teardown()


def test_a_stream_that_fails_late_raises_after_its_chunks() -> None:
    class Breaks(AsyncInferenceWorkflow[str, str, str]):
        async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
            yield "first"
            raise InvalidInput("then this")

    workflow = Breaks().setup()
    chunks = workflow.stream("x")
    assert next(chunks) == "first"
    with pytest.raises(InvalidInput, match="then this"):
        next(chunks)
    workflow.teardown()


def test_a_sync_stream_ends_with_its_workflow() -> None:
    workflow = Spelled().setup()
    chunks = workflow.stream("abc")
    next(chunks)
    workflow.teardown()
    with pytest.raises(NotReady):
        next(chunks)


@pytest.mark.parametrize("hook", ["do_setup", "do_warm_up"])
def test_a_failed_setup_leaves_it_not_set_up_and_can_be_tried_again(hook: str) -> None:
    broken = [True]

    async def fail(self: Any) -> None:
        if broken:
            raise OSError(hook)

    workflow: Remote = type("Failing", (Remote,), {hook: fail})()
    with pytest.raises(OSError, match=hook):
        workflow.setup()
    assert not workflow.is_setup
    assert workflow.notes == (["setup", "teardown"] if hook == "do_warm_up" else [])
    broken.clear()
    assert workflow.setup().inference("a") == "a->A"
    workflow.teardown()


def test_what_setup_raises_is_the_first_thing_that_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Remote):
        async def do_warm_up(self) -> None:
            raise OSError("no answer")

        async def do_teardown(self) -> None:
            raise OSError("not even a goodbye")

    with pytest.raises(OSError, match="no answer"):
        Broken().setup()
    assert "not even a goodbye" in caplog.text


def test_hooks_see_the_call_they_work_for() -> None:
    class Curious(AsyncInferenceWorkflow[str, str]):
        async def do_run_model(self, preprocessed_data: str) -> str:
            await asyncio.sleep(0)
            return current_call().request_id

    workflow = Curious().setup()
    calls = [CallContext("first"), CallContext("second")]
    assert workflow.inference_batch(["", ""], calls) == ["first", "second"]
    assert workflow.inference("") == ""
    workflow.teardown()


# ---- the async names -------------------------------------------------------------------------------------------------


def test_the_async_names_work() -> None:
    async def life() -> None:
        workflow = Remote()
        with pytest.raises(NotReady):
            await workflow.ainference("a")
        assert await workflow.asetup() is workflow
        assert await workflow.ainference("a") == "a->A"
        outcomes = await workflow.ainference_batch(["a", "", "b"])
        assert isinstance(outcomes[1], InvalidInput)
        assert outcomes[::2] == ["a->A", "b->B"]
        with pytest.raises(Unsupported):
            workflow.astream("a")
        await workflow.ateardown()
        await workflow.ateardown()
        with pytest.raises(NotReady):
            await workflow.ainference("a")
        assert workflow.notes == ["setup", "teardown"]

    run(life)


def test_setups_at_the_same_time_are_one() -> None:
    class Slow(Remote):
        async def do_setup(self) -> None:
            await super().do_setup()
            await asyncio.sleep(0)

        async def do_warm_up(self) -> None:
            await asyncio.sleep(0)
            self.notes.append("warm")

    async def life() -> None:
        await asyncio.gather(*(workflow.asetup() for _ in range(3)))
        assert workflow.notes == ["setup", "warm"]
        await asyncio.gather(*(workflow.ateardown() for _ in range(3)))
        assert workflow.notes == ["setup", "warm", "teardown"]
        workflow.notes.clear()

    workflow = Slow()
    run(life)
    run(life)  # on another loop


@pytest.mark.parametrize("late", [False, True])
def test_a_whole_answer_is_given_up_where_its_stream_would_be(late: bool) -> None:
    class Counts(AsyncInferenceWorkflow[int, list[int], int]):
        async def do_stream(self, preprocessed_data: int) -> AsyncIterator[int]:
            try:
                for number in range(preprocessed_data):
                    made.append(number)
                    if number == 2:
                        if late:
                            current_call().deadline = 0.0
                        else:
                            current_call().cancel()
                    yield number
            finally:
                made.append(-1)

    async def life() -> None:
        workflow = await Counts().asetup()
        (outcome,) = await workflow.ainference_batch([9], [call])
        assert isinstance(outcome, DeadlineExceeded if late else Cancelled)
        assert made == [0, 1, 2, -1]
        (outcome,) = await workflow.ainference_batch([9], [call])  # and what nobody waits for does not begin
        assert isinstance(outcome, DeadlineExceeded if late else Cancelled)
        assert made == [0, 1, 2, -1]

    made: list[int] = []
    call = CallContext()
    run(life)


class Ended:
    """An async iterator with an end of its own."""

    def __init__(self, letters: str) -> None:
        self.letters = iter(letters)
        self.ends: list[str] = []

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            return next(self.letters)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self.ends.append("closed")


class Gives(AsyncInferenceWorkflow[str, str, str]):
    """Its stream is whatever `give` returns."""

    def __init__(self, give: Callable[[str], Any]) -> None:
        self.give = give

    def do_stream(self, preprocessed_data: str) -> Any:
        return self.give(preprocessed_data)


async def promised(text: str) -> Ended:
    return Ended(text)


@pytest.mark.parametrize("give", [iter, list, Ended, promised])
def test_do_stream_may_return_an_iterator(give: Any) -> None:
    async def life() -> None:
        workflow = await Gives(give).asetup()
        assert [chunk async for chunk in workflow.astream("abc")] == ["a", "b", "c"]
        assert await workflow.ainference("abc") == "abc"

    run(life)
    workflow = Gives(give).setup()
    assert list(workflow.stream("abc")) == ["a", "b", "c"]
    workflow.teardown()


def test_an_iterator_is_closed_where_it_stands() -> None:
    async def life() -> None:
        made = Ended("abc")
        workflow = await Gives(lambda text: made).asetup()
        async with aclosing(workflow.astream("")) as chunks:
            assert await anext(chunks) == "a"
            assert made.ends == []
        assert made.ends == ["closed"]
        broken = await Gives(lambda text: 5).asetup()
        with pytest.raises(TypeError, match="do_stream must be a generator or return an iterator, not int"):
            await broken.ainference("abc")

    run(life)


def test_an_async_stream_is_closed_where_it_stands() -> None:
    async def life() -> None:
        workflow = await Spelled().asetup()
        async with aclosing(workflow.astream("abc")) as chunks:
            assert await anext(chunks) == "a"
        assert workflow.notes == ["setup", "made a", "closed"]
        assert [chunk async for chunk in workflow.astream("de")] == ["d", "e"]

    run(life)


def test_a_batch_runs_all_at_once_up_to_the_concurrency() -> None:
    class Crowd(AsyncInferenceWorkflow[int, int]):
        concurrency = 3
        inside = 0
        most = 0

        async def do_run_model(self, preprocessed_data: int) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.inside -= 1
            return preprocessed_data

    async def life() -> None:
        workflow = await Crowd().asetup()
        assert await workflow.ainference_batch(range(8)) == list(range(8))
        assert workflow.most == 3

    run(life)


def test_a_foreign_exception_in_a_batch_becomes_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Remote):
        async def do_run_model(self, preprocessed_data: str) -> str:
            raise RuntimeError("secret")

    async def life() -> None:
        workflow = await Broken().asetup()
        (outcome,) = await workflow.ainference_batch(["a"])
        assert type(outcome) is WorkflowError
        assert outcome.message == "internal error"

    run(life)
    assert "secret" in caplog.text


# ---- one loop or the other -------------------------------------------------------------------------------------------


def test_a_workflow_belongs_to_the_loop_that_set_it_up() -> None:
    workflow = Remote().setup()
    with pytest.raises(NotReady, match="another event loop"):
        run(lambda: workflow.ainference("a"))
    with pytest.raises(NotReady, match="another event loop"):
        run(workflow.ateardown)
    assert workflow.inference("a") == "a->A"
    workflow.teardown()


def test_sync_names_do_not_harm_what_was_set_up_by_async_names() -> None:
    async def life() -> None:
        workflow = await Remote().asetup()
        with pytest.raises(NotReady, match="use the async names"):
            workflow.inference("a")
        with pytest.raises(NotReady, match="use the async names"):
            workflow.teardown()
        assert await workflow.ainference("a") == "a->A"
        await workflow.ateardown()
        assert workflow.notes == ["setup", "teardown"]

    run(life)


def test_nothing_is_done_before_an_async_workflow_but_by_its_hooks() -> None:
    with pytest.raises(TypeError, match="Bad: an async workflow has no `prerequisite`"):

        class Bad(AsyncInferenceWorkflow[int, int]):
            def prerequisite(self, input_data: int) -> None:
                return None
