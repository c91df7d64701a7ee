"""An engine in a process of its own: the answers are the same, and whichever of the two processes ends, nothing is left."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.workflows.test_continuous_batching import NEW, STREAMS, alone, asked, beginning, prompts, tokens_of, whole
from tests.workflows.tiny_language_models import save_tiny
from tests.workflows.tiny_transformers import LLAMA_CONTEXT
from workflows.errors import InvalidInput, NotReady, WorkflowError
from workflows.inference.generation import engine_process
from workflows.inference.text_generation import TransformersTextGenerationWorkflow, _let_go
from workflows.resources import Resources
from workflows.types import Generated

PATIENCE_S = 60.0
LONG = 60
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    save_tiny("llama", root / "llama")
    return root


def made(root: Path, **options: Any) -> TransformersTextGenerationWorkflow:
    return TransformersTextGenerationWorkflow("llama", root=str(root), threads=1, **options)


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[TransformersTextGenerationWorkflow]:
    workflow = made(root).setup()
    yield workflow
    workflow.teardown()


@pytest.fixture
async def workflow(root: Path) -> AsyncIterator[TransformersTextGenerationWorkflow]:
    """With room for one answer of full length at a time."""
    workflow = await made(root, cache_tokens=LLAMA_CONTEXT).asetup()
    yield workflow
    await workflow.ateardown()


def process_of(workflow: TransformersTextGenerationWorkflow) -> int:
    engine: Any = workflow._engine
    pid: int = engine._process.pid
    return pid


def children() -> set[int]:
    """Processes that this one has started and that are not waited for."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def ended(pid: int) -> bool:
    """Whether a process that need not be a child of this one has ended, once it has had its time to."""
    try:
        end = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([end], [], [], PATIENCE_S)[0])
    finally:
        os.close(end)


def test_it_says_what_its_model_is_on(served: TransformersTextGenerationWorkflow) -> None:
    assert served._engine.device == "cpu"


def test_the_answers_are_those_of_an_engine_on_a_thread(root: Path, served: TransformersTextGenerationWorkflow) -> None:
    texts = prompts(6, seed=1)
    drawn = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "logit_bias": {"5": 2.0}, "min_tokens": 3}
    wishes = [asked(text, **(drawn | {"seed": place} if place % 2 else {})) for place, text in enumerate(texts)]
    wishes += [wish.model_copy(update={"top_logprobs": 3}) for wish in wishes]
    beside = made(root, engine="thread").setup()
    try:
        each = [beside.inference(wish) for wish in wishes]
    finally:
        beside.teardown()
    for one, same in zip(each, served.inference_batch(wishes), strict=True):
        assert isinstance(same, Generated)
        assert tokens_of(same) == tokens_of(one)
        assert one.tokens is not None
        assert same.tokens is not None
        for token, other in zip(one.tokens, same.tokens, strict=True):
            assert other.logprob == pytest.approx(token.logprob, abs=1e-3)
            assert [top.id for top in other.top or ()] == [top.id for top in token.top or ()]


def test_a_prompt_known_from_before_is_told(served: TransformersTextGenerationWorkflow) -> None:
    known = [served.inference(asked([(11 * place) % 200 for place in range(70)])).usage.cached_tokens for _ in range(2)]
    assert known == [None, 64]


async def test_everybody_gets_their_own_among_others_who_leave(root: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(root / "llama")
    texts = prompts(8, seed=5)
    expected = [alone(model, text) for text in texts]
    random = Random(6)
    workflow = await made(root, cache_tokens=6 * LLAMA_CONTEXT).asetup()
    try:
        tasks: list[asyncio.Task[Any]] = []
        for number in range(STREAMS):
            text = texts[number % len(texts)]
            some = beginning(workflow, text, random.randrange(1, NEW)) if number % 3 == 2 else whole(workflow, text)
            tasks.append(asyncio.create_task(some))
        await tasks[0]
        for victim in tasks[7::11]:
            victim.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            right = expected[number % len(texts)]
            if isinstance(outcome, Generated):
                assert tokens_of(outcome) == right
                assert outcome.usage.completion_tokens == len(right)
            elif isinstance(outcome, list):
                assert outcome == right[: len(outcome)]
            else:
                assert isinstance(outcome, asyncio.CancelledError)
        engine: Any = workflow._engine
        assert not engine._answers
        assert not engine._waiting
        # Each with all of the room: had anything of the others been kept, they would wait for ever.
        large = await workflow.ainference_batch([asked([place], max_tokens=LLAMA_CONTEXT) for place in range(7)])
        assert all(isinstance(answer, Generated) for answer in large)
    finally:
        await workflow.ateardown()


async def test_who_leaves_makes_room_for_others(workflow: TransformersTextGenerationWorkflow) -> None:
    async with aclosing(workflow.astream(asked([3], max_tokens=90))) as stream:
        await anext(stream)
        waiting = asyncio.create_task(workflow.ainference(asked([3], max_tokens=90)))
        left = asyncio.create_task(workflow.ainference(asked([5], max_tokens=90)))
        await anext(stream)
        left.cancel()
    assert (await waiting).usage.completion_tokens > 0
    engine: Any = workflow._engine
    assert not engine._answers
    assert not engine._waiting


async def test_a_process_that_is_killed_is_replaced(workflow: TransformersTextGenerationWorkflow) -> None:
    expected = tokens_of(await workflow.ainference(asked([3])))
    before = process_of(workflow)
    os.kill(before, signal.SIGSTOP)  # so that both are still there when it is killed
    running, waiting = (asyncio.create_task(workflow.ainference(asked([3], max_tokens=LONG))) for _ in range(2))
    await asyncio.sleep(0)
    os.kill(before, signal.SIGKILL)
    for lost in (running, waiting):
        with pytest.raises(NotReady, match="the engine failed") as caught:
            await lost
        assert caught.value.retryable
        assert caught.value.may_have_run
    assert tokens_of(await workflow.ainference(asked([3]))) == expected
    assert ended(before)
    assert process_of(workflow) in children()


async def test_a_process_that_cannot_be_replaced_is_tried_again(
    workflow: TransformersTextGenerationWorkflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(engine_process, "HOST", "workflows.nowhere")
        os.kill(process_of(workflow), signal.SIGKILL)
        with pytest.raises(NotReady, match="the engine failed and is being restarted"):
            await workflow.ainference(asked([3]))
        with pytest.raises(NotReady, match="could not be restarted") as caught:
            await workflow.ainference(asked([3]))
        assert not caught.value.may_have_run
    assert (await workflow.ainference(asked([3]))).usage.completion_tokens > 0


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_who_is_still_there_at_teardown_hears_of_it(root: Path, engine: Any) -> None:
    before = children()
    workflow = await made(root, engine=engine, concurrency=1).asetup()
    stream = workflow.astream(asked([3], max_tokens=80))
    await anext(stream)
    waiting = asyncio.create_task(workflow.ainference(asked([4])))
    await anext(stream)
    await workflow.ateardown()
    with pytest.raises(NotReady):
        await waiting
    with pytest.raises(NotReady):
        async for _ in stream:
            pass
    assert children() == before


@pytest.mark.parametrize("engine", ["process", "thread"])
def test_what_is_wrong_with_a_model_is_said_at_setup(root: Path, tmp_path: Path, engine: Any) -> None:
    before = children()
    with pytest.raises(InvalidInput, match="context_tokens is 100, but the model was made for 96") as caught:
        made(root, engine=engine, context_tokens=100).setup()
    assert caught.value.param == "context_tokens"
    little = made(root, engine=engine)
    little.resources = Resources(memory_bytes=800 << 20 if engine == "process" else 600 << 20)
    with pytest.raises(WorkflowError, match="there is no memory for keys and values"):
        little.setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkflowError, match="no safetensors weights"):
        TransformersTextGenerationWorkflow("empty", root=str(tmp_path), engine=engine).setup()
    (tmp_path / "mute").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "mute" / name).write_bytes((root / "llama" / name).read_bytes())
    with pytest.raises(WorkflowError, match="AutoTokenizer"):
        TransformersTextGenerationWorkflow("mute", root=str(tmp_path), engine=engine).setup()
    assert children() == before


async def test_a_process_that_says_nothing_is_a_failed_setup(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setattr(engine_process, "HOST", "workflows.nowhere")
    with pytest.raises(WorkflowError, match="ended before it was ready"):
        await made(root).asetup()
    assert children() == before


async def test_a_setup_that_is_given_up_leaves_no_process(root: Path) -> None:
    before = children()
    setup = asyncio.create_task(made(root).asetup())
    while not (begun := children() - before):
        await asyncio.sleep(0)
    setup.cancel()
    with pytest.raises(asyncio.CancelledError):
        await setup
    assert all(map(ended, begun))


@pytest.mark.parametrize("end", ["pass", KILL, "raise SystemExit(3)", f"os.kill(pid, signal.SIGSTOP)\n{KILL}"])
def test_the_process_ends_with_the_one_that_it_is_for(root: Path, end: str) -> None:
    code = (
        "import os, signal\n"
        "from workflows import TransformersTextGenerationWorkflow as W\n"
        f"made = W('llama', root={str(root)!r}, threads=1).setup()\n"
        "stream = made.stream({'prompt_tokens': [3], 'sampling': {'max_tokens': 90}})\n"
        "next(stream)\n"
        "pid = made._engine._process.pid\n"
        "print(pid, flush=True)\n" + end
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == {"pass": 0, "raise SystemExit(3)": 3}.get(end, -signal.SIGKILL)
    assert ended(int(done.stdout))
    assert "Traceback" not in done.stderr


def test_the_process_ends_also_where_a_fork_holds_its_socket(root: Path) -> None:
    code = (
        "import os, signal\n"
        "from workflows import TransformersTextGenerationWorkflow as W\n"
        f"made = W('llama', root={str(root)!r}, threads=1).setup()\n"
        "fork = os.fork()\n"
        "if not fork:\n"
        "    os.close(1), os.close(2)\n"
        "    signal.pause()\n"
        "print(made._engine._process.pid, fork, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    engine, fork = map(int, done.stdout.split())
    try:
        assert ended(engine)
    finally:
        os.kill(fork, signal.SIGKILL)


async def test_signals_to_all_are_for_the_workflow(workflow: TransformersTextGenerationWorkflow) -> None:
    pid = process_of(workflow)
    for ending in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, ending)
    assert (await workflow.ainference(asked([3]))).usage.completion_tokens > 0
    assert process_of(workflow) == pid


# ---- a setup that is given up ----------------------------------------------------------------------------------------


class Starting:
    """An engine whose start is still going on, or has come to this."""

    def __init__(self, outcome: Exception | None = None) -> None:
        self.stopped = False
        self.task: asyncio.Task[Any] = asyncio.create_task(self._start(outcome))

    async def _start(self, outcome: Exception | None) -> Starting:
        if outcome is not None:
            raise outcome
        return self

    async def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_engine_that_has_started_is_stopped(at_once: bool) -> None:
    started = Starting()
    await asyncio.wait([started.task])
    await _let_go(started.task, at_once=at_once)
    assert started.stopped


async def test_what_is_wrong_with_the_model_is_said_unless_somebody_has_cancelled() -> None:
    with pytest.raises(InvalidInput):
        await _let_go(Starting(InvalidInput("wrong")).task, at_once=False)
    failed = Starting(InvalidInput("wrong"))
    await asyncio.wait([failed.task])
    await _let_go(failed.task, at_once=True)


async def test_who_waits_for_a_start_can_be_cancelled() -> None:
    never: asyncio.Task[Any] = asyncio.create_task(asyncio.Event().wait())
    waiting = asyncio.create_task(_let_go(never, at_once=False))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert never.cancelled()
