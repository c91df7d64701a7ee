"""What happens to the requests of an engine when one of them leaves, has nonsense for scores, or all are lost with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.workflows.test_continuous_batching import asked, left_behind, tokens_of
from tests.workflows.tiny_language_models import save_tiny
from tests.workflows.tiny_transformers import LLAMA_CONTEXT
from workflows.errors import BadOutput, ContextTooLong, NotReady, WorkflowError
from workflows.inference.generation import continuous, rows
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.resources import Resources
from workflows.types import Generate, Generated

MARK = 7
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    save_tiny("llama", root / "llama")
    save_tiny("gemma3", root / "gemma3")
    return root


@pytest.fixture
async def opened(root: Path) -> AsyncIterator[Opened]:
    made: list[TransformersTextGenerationWorkflow] = []

    async def open_one(name: str = "llama", **options: Any) -> TransformersTextGenerationWorkflow:
        made.append(TransformersTextGenerationWorkflow(name, root=str(root), threads=1, engine="thread", **options))
        return await made[-1].asetup()

    yield open_one
    for workflow in made:
        await workflow.ateardown()


def model_of(workflow: TransformersTextGenerationWorkflow) -> Any:
    engine: Any = workflow._engine
    return engine._model


class Steps:
    """Lets the engine's steps through one by one, and counts them.

    Attributes:
        count: How many were let through.
        begun: Released by each step before it waits.
    """

    def __init__(self, model: Any) -> None:
        self.count = 0
        self.begun = Semaphore(0)
        self._allowed = Semaphore(0)
        self._hook = model.register_forward_pre_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.begun.release()
        self._allowed.acquire()
        self.count += 1

    def allow(self, steps: int) -> None:
        self._allowed.release(steps)

    def stop(self) -> None:
        """Let through what waits, and all that comes."""
        self._hook.remove()
        self._allowed.release()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the engine takes for the time: the one number in it."""
    time = [100.0]
    for module in (continuous, rows):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time[0]))
    return time


async def test_a_stream_that_is_closed_stops_within_two_steps(opened: Opened) -> None:
    workflow = await opened()
    steps = Steps(model_of(workflow))
    stream = workflow.astream(asked([3, 4], max_tokens=60))
    steps.allow(3)
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    steps.allow(60)
    other = await workflow.ainference(asked([5], max_tokens=4))
    assert other.usage.completion_tokens == 4
    assert steps.count <= 3 + 2 + 4
    assert left_behind(workflow) == []


async def test_a_whole_answer_that_is_cancelled_stops_within_two_steps(opened: Opened) -> None:
    workflow = await opened()
    steps = Steps(model_of(workflow))
    task = asyncio.create_task(workflow.ainference(asked([3, 4], max_tokens=60)))
    async with aclosing(workflow.astream(asked([5], max_tokens=60))) as beside:
        steps.allow(3)
        for _ in range(3):
            await anext(beside)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    steps.allow(60)
    await workflow.ainference(asked([5], max_tokens=4))
    assert steps.count <= 3 + 2 + 4
    assert left_behind(workflow) == []


async def test_who_leaves_the_queue_leaves_nothing_there(opened: Opened) -> None:
    workflow = await opened(concurrency=1)
    async with aclosing(workflow.astream(asked([3, 4], max_tokens=60))) as stream:
        await anext(stream)
        waiting = [asyncio.create_task(workflow.ainference(asked([5]))) for _ in range(3)]
        await anext(stream)
        waiting[0].cancel()
        waiting[2].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, Generated, asyncio.CancelledError]
    assert left_behind(workflow) == []


async def test_who_leaves_the_queue_holds_up_nobody_behind_them(opened: Opened) -> None:
    workflow = await opened(cache_tokens=LLAMA_CONTEXT)
    steps = Steps(model_of(workflow))
    async with aclosing(workflow.astream(asked([3], max_tokens=30))) as running:
        steps.allow(1)
        await anext(running)
        large = asyncio.create_task(workflow.ainference(asked([4] * 70, max_tokens=20)))
        small = asyncio.create_task(workflow.ainference(asked([5], max_tokens=2)))
        steps.allow(1)
        await anext(running)
        large.cancel()
        steps.allow(4)
        assert (await small).usage.completion_tokens == 2
        steps.allow(60)


async def test_the_first_chunk_does_not_wait_for_the_second_token(opened: Opened) -> None:
    workflow = await opened()
    steps = Steps(model_of(workflow))
    steps.allow(1)
    async with aclosing(workflow.astream(asked([3]))) as stream:
        assert len((await anext(stream)).tokens) == 1
        assert steps.count == 1
        steps.allow(60)


async def test_a_step_that_does_not_return_is_noticed(opened: Opened, now: list[float]) -> None:
    workflow = await opened()
    steps = Steps(model_of(workflow))
    assert workflow.busy_s() == 0.0
    async with aclosing(workflow.astream(asked([3], max_tokens=9))) as stream:
        first = asyncio.create_task(anext(stream))
        await asyncio.to_thread(steps.begun.acquire)
        now[0] = 130.0
        assert workflow.busy_s() == 30.0
        steps.allow(1)
        await first
        await asyncio.to_thread(steps.begun.acquire)
        assert workflow.busy_s() == 0.0
        steps.stop()
        assert [chunk async for chunk in stream]
    now[0] = 900.0
    assert workflow.busy_s() == 0.0


async def test_those_who_give_a_hung_step_up_add_up(opened: Opened, now: list[float]) -> None:
    workflow = await opened()
    steps = Steps(model_of(workflow))
    for asked_before in range(3):
        async with aclosing(workflow.astream(asked([3], max_tokens=9))) as stream:
            first = asyncio.create_task(anext(stream))
            if not asked_before:
                await asyncio.to_thread(steps.begun.acquire)
            while not workflow._engine._running:
                await asyncio.sleep(0)
            now[0] += 60.0
            assert workflow.busy_s() == 60.0 * (asked_before + 1)
            first.cancel()
            await asyncio.wait([first])
        assert workflow.busy_s() == 0.0
    steps.stop()
    assert await workflow.ainference(asked([3]))
    assert workflow.busy_s() == 0.0


async def test_scores_that_are_no_numbers_fail_one_request_alone(opened: Opened) -> None:
    workflow = await opened()

    def spoil(_: Any, __: Any, kwargs: Any, output: Any) -> None:
        """No number in the scores of every row whose last token is MARK."""
        rows = kwargs["input_ids"][0, kwargs["logits_to_keep"]] == MARK
        output.logits[0, rows] = float("nan")

    expected = [tokens_of(await workflow.ainference(asked([place]))) for place in (3, 4)]
    hook = model_of(workflow).register_forward_hook(spoil, with_kwargs=True)
    wishes = [asked([3]), asked([9, MARK]), asked([MARK], temperature=1.0), asked([4])]
    outcomes = await workflow.ainference_batch(wishes)
    assert [tokens_of(outcomes[place]) for place in (0, 3)] == expected
    assert [type(outcomes[place]) for place in (1, 2)] == [BadOutput, BadOutput]
    hook.remove()
    assert await workflow.ainference(asked([3]))
    assert left_behind(workflow) == []


async def test_keys_that_are_no_numbers_fail_one_request_alone(opened: Opened) -> None:
    workflow = await opened()

    def spoil(_: Any, args: Any, output: Any) -> Any:
        """No number in anything that is known of MARK."""
        return output.masked_fill(args[0].unsqueeze(-1) == MARK, float("nan"))

    expected = [tokens_of(await workflow.ainference(asked([place]))) for place in (3, 4)]
    hook = model_of(workflow).get_input_embeddings().register_forward_hook(spoil)
    outcomes = await workflow.ainference_batch([asked([3]), asked([MARK] * 40), asked([9, MARK, 9]), asked([4])])
    assert [tokens_of(outcomes[place]) for place in (0, 3)] == expected
    assert [type(outcomes[place]) for place in (1, 2)] == [BadOutput, BadOutput]
    hook.remove()
    # Where those had been, others are now.
    wishes = [asked([place] * 80) for place in range(10, 18)]
    assert {type(outcome) for outcome in await workflow.ainference_batch(wishes)} == {Generated}
    assert left_behind(workflow) == []


async def test_many_prompts_at_once_leave_the_loop_to_others(opened: Opened) -> None:
    workflow = await opened()
    turns = 0
    refused = asyncio.gather(
        *(workflow.ainference(Generate(prompt="a" * 500)) for _ in range(50)), return_exceptions=True
    )
    while not refused.done():
        await asyncio.sleep(0)
        turns += 1
    assert {type(outcome) for outcome in await refused} == {ContextTooLong}
    assert turns >= 50


async def test_a_request_that_cannot_be_begun_fails_alone(opened: Opened) -> None:
    """For example, because a device has no memory for what it keeps of its tokens."""
    workflow = await opened(concurrency=1)
    engine: Any = workflow._engine
    engine.vocabulary = -1
    async with aclosing(workflow.astream(asked([3], max_tokens=60))) as stream:
        await anext(stream)
        penalties = [{"repetition_penalty": 2.0}, {"presence_penalty": 1.0}, {}]
        waiting = [asyncio.create_task(workflow.ainference(asked([5], **one))) for one in penalties]
        await anext(stream)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [WorkflowError, WorkflowError, Generated]
    assert left_behind(workflow) == []


async def test_an_engine_that_dies_is_replaced(opened: Opened) -> None:
    workflow = await opened(concurrency=4, cache_tokens=4 * LLAMA_CONTEXT)
    expected = tokens_of(await workflow.ainference(asked([3])))
    steps = Steps(model_of(workflow))
    held = [workflow.astream(asked([place], max_tokens=60)) for place in (3, 4, 5, 6)]
    firsts = [asyncio.create_task(anext(stream)) for stream in held]
    steps.allow(4)  # at most: each step takes along who has come by then
    await asyncio.gather(*firsts)
    waiting = [asyncio.create_task(workflow.ainference(asked([3]))) for _ in range(3)]

    def die(*_: Any) -> None:
        hook.remove()
        raise RuntimeError("a bug of somebody's")

    hook = model_of(workflow).register_forward_pre_hook(die)
    steps.allow(1000)
    for stream in held:
        with pytest.raises(NotReady, match="the engine failed") as caught:
            async for _ in stream:
                pass
        assert caught.value.retryable
        assert caught.value.may_have_run
    # Nothing of these was run, and they do not hear of it.
    assert [tokens_of(answer) for answer in await asyncio.gather(*waiting)] == [expected] * 3
    assert tokens_of(await workflow.ainference(asked([3]))) == expected
    assert left_behind(workflow) == []


async def test_an_engine_that_ended_while_nobody_was_there_is_replaced_unnoticed(opened: Opened) -> None:
    workflow = await opened()
    expected = tokens_of(await workflow.ainference(asked([3])))
    manager = workflow._engine._manager._manager
    await asyncio.to_thread(manager.stop, hard_stop=True)
    outcomes = await workflow.ainference_batch([asked([3]), asked([3])])
    assert [tokens_of(outcome) for outcome in outcomes] == [expected] * 2
    assert workflow._engine._manager._manager is not manager


async def test_an_engine_that_cannot_be_replaced_is_tried_again(opened: Opened) -> None:
    workflow = await opened()
    model = model_of(workflow)

    def die(*_: Any) -> None:
        hook.remove()
        raise RuntimeError("a bug of somebody's")

    hook = model.register_forward_pre_hook(die)
    kind, model.config._attn_implementation = model.config._attn_implementation, "nonsense"
    with pytest.raises(NotReady):
        await workflow.ainference(asked([3]))
    with pytest.raises(NotReady, match="could not be restarted"):
        await workflow.ainference(asked([3]))
    model.config._attn_implementation = kind
    assert await workflow.ainference(asked([3]))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
async def test_a_small_cache_makes_requests_wait_and_none_fail(opened: Opened, name: str) -> None:
    workflow = await opened(name, cache_tokens=LLAMA_CONTEXT)
    wishes = [asked([place + 2] * (8 * place + 1), max_tokens=20) for place in range(6)]
    each = [await workflow.ainference(wish) for wish in wishes]
    together = await workflow.ainference_batch(wishes)
    assert [tokens_of(answer) for answer in together] == [tokens_of(answer) for answer in each]
    assert left_behind(workflow) == []


async def test_a_cache_smaller_than_the_context_bounds_it(opened: Opened) -> None:
    workflow = await opened(cache_tokens=64)
    assert workflow.card("x").context_tokens == 64
    with pytest.raises(ContextTooLong):
        await workflow.ainference(asked([3] * 64))
    assert (await workflow.ainference(asked([3] * 60))).usage.completion_tokens <= 4


async def test_prompts_can_be_kept_from_each_other(opened: Opened) -> None:
    for shared, known in ((True, 64), (False, None)):
        workflow = await opened(share_prefixes=shared)
        answers = [await workflow.ainference(asked([3] * 70)) for _ in range(2)]
        assert answers[1].usage.cached_tokens == known
        assert tokens_of(answers[0]) == tokens_of(answers[1])


async def test_memory_that_is_too_little_is_said_at_setup(root: Path) -> None:
    workflow = TransformersTextGenerationWorkflow("llama", root=str(root), threads=1, engine="thread")
    workflow.resources = Resources(memory_bytes=600 << 20)
    with pytest.raises(WorkflowError, match="there is no memory for keys and values"):
        await workflow.asetup()


def test_a_process_that_forgets_to_tear_down_ends(root: Path) -> None:
    code = (
        "from workflows import TransformersTextGenerationWorkflow as W\n"
        f"made = W('llama', root={str(root)!r}, threads=1, engine='thread').setup()\n"
        "stream = made.stream({'prompt_tokens': [3], 'sampling': {'max_tokens': 90}})\n"
        "next(stream)\n"
        "print('leaving')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "leaving\n"), ended.stderr
    assert "Traceback" not in ended.stderr
