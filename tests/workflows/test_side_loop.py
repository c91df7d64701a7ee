"""The private event loop behind an async workflow's sync names: nobody waits for what never comes, and processes end."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from workflows import AsyncInferenceWorkflow
from workflows.errors import Cancelled, NotReady
from workflows.pump import pumped
from workflows.side_loop import SideLoop

ROOT = Path(__file__).resolve().parents[2]


class Noted(AsyncInferenceWorkflow[str, str, str]):
    def __init__(self) -> None:
        self.notes: list[str] = []

    async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
        try:
            for letter in preprocessed_data:
                self.notes.append(f"made {letter}")
                yield letter
        finally:
            await asyncio.sleep(0)
            self.notes.append("closed")


def test_a_sync_stream_that_is_left_to_the_garbage_collector_is_closed_whichever_thread_that_is() -> None:
    class Collects(Noted):
        async def do_run_model(self, preprocessed_data: str) -> str:
            gc.collect()  # on the loop's own thread, which must not wait for itself
            return preprocessed_data

    def leave() -> None:
        chunks: list[Any] = [workflow.stream("abc")]
        next(chunks[0])
        chunks.append(chunks)

    workflow = Collects().setup()
    gc.disable()
    try:
        leave()
        assert workflow.inference("x") == "x"
    finally:
        gc.enable()
    workflow.teardown()
    assert workflow.notes == ["made a", "closed"]


def test_a_sync_call_on_the_workflows_own_loop_is_refused_instead_of_waiting_for_itself() -> None:
    class Inward(Noted):
        async def do_run_model(self, preprocessed_data: str) -> str:
            return self.inference(preprocessed_data)

    workflow = Inward().setup()
    with pytest.raises(RuntimeError, match="use the async ones"):
        workflow.inference("a")
    workflow.teardown()


@pytest.mark.parametrize("streamed", [False, True])
def test_who_waits_while_the_workflow_is_torn_down_hears_of_it(streamed: bool) -> None:
    class Stuck(Noted):
        async def do_run_model(self, preprocessed_data: str) -> str:
            begun.set()
            await asyncio.Event().wait()
            return ""

        async def do_stream(self, preprocessed_data: str) -> AsyncIterator[str]:
            begun.set()
            await asyncio.Event().wait()
            yield ""

    begun = threading.Event()
    workflow = Stuck().setup()
    with ThreadPoolExecutor(1) as elsewhere:
        waiting = elsewhere.submit(lambda: next(workflow.stream("a")) if streamed else workflow.inference("a"))
        assert begun.wait(10)
        workflow.teardown()
        with pytest.raises(NotReady):
            waiting.result(10)


SCRIPT = """
from workflows import AsyncInferenceWorkflow
class Loud(AsyncInferenceWorkflow[str, str]):
    async def do_run_model(self, preprocessed_data):
        return preprocessed_data.upper()
    async def do_stream(self, preprocessed_data):
        yield preprocessed_data
loud = Loud().setup()
print(loud.inference("hi"))
chunks = loud.stream("x")
next(chunks)
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("1 / 0", 1)])
def test_a_process_ends_without_teardown_and_after_an_exception(end: str, code: int) -> None:
    # With ResourceWarning and the like as Python shows them by default.
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT + end], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (code, "HI\n")
    assert ended.stderr.count("Error") == code


def test_a_stream_that_cancels_itself_ends_as_cancelled() -> None:
    async def gives() -> Any:
        yield 1
        raise asyncio.CancelledError

    loop = SideLoop()
    chunks = pumped(loop, gives)
    assert next(chunks) == 1
    with pytest.raises(Cancelled):
        next(chunks)
    loop.close()


def test_a_loop_that_is_closed_takes_nothing_more() -> None:
    async def work() -> int:
        return 5

    loop = SideLoop()
    assert loop.call(work) == 5
    loop.close()
    loop.close()
    with pytest.raises(NotReady):
        loop.call(work)
    with pytest.raises(NotReady):
        loop.post(print)
