"""The model thread: one function at a time, in order, and nothing that a function does can end it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from deployments.threads import ModelThread


async def test_functions_run_one_by_one_in_order_on_one_thread() -> None:
    thread = ModelThread("model")
    began: list[tuple[int, int]] = []

    def note(number: int) -> Callable[[], int]:
        def run() -> int:
            began.append((number, threading.get_ident()))
            return number

        return run

    assert await asyncio.gather(*(thread.run(note(number)) for number in range(20))) == list(range(20))
    assert [number for number, _ in began] == list(range(20))
    assert len({ident for _, ident in began}) == 1
    assert began[0][1] != threading.get_ident()
    thread.stop()


@pytest.mark.parametrize(
    ("raised", "heard"),
    [
        (ValueError("its own"), ValueError),
        (StopIteration(), RuntimeError),
        (SystemExit(3), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
    ],
)
async def test_whatever_a_function_raises_reaches_the_caller_and_the_thread_goes_on(
    raised: BaseException, heard: type[Exception]
) -> None:
    thread = ModelThread("model")

    def fail() -> None:
        raise raised

    with pytest.raises(heard) as caught:
        await thread.run(fail)
    assert raised in (caught.value, caught.value.__cause__)
    assert await thread.run(lambda: "next") == "next"
    thread.stop()


async def test_busy_and_contended_say_what_the_thread_does() -> None:
    thread = ModelThread("model")
    began, end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        end.wait(10)

    assert thread.busy_s() == 0.0
    first = asyncio.create_task(thread.run(work))
    await asyncio.to_thread(began.wait, 10)
    assert thread.busy_s() > 0.0
    assert not thread.contended
    second = asyncio.create_task(thread.run(lambda: None))
    await asyncio.sleep(0)
    assert thread.contended
    end.set()
    await asyncio.gather(first, second)
    assert thread.busy_s() == 0.0
    assert not thread.contended
    thread.stop()


async def test_a_cancelled_wait_neither_stops_the_function_nor_the_thread() -> None:
    thread = ModelThread("model")
    began, end = threading.Event(), threading.Event()
    ran: list[str] = []

    def work() -> None:
        began.set()
        end.wait(10)
        ran.append("to its end")

    waiting = asyncio.create_task(thread.run(work))
    await asyncio.to_thread(began.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    end.set()
    assert await thread.run(lambda: list(ran)) == ["to its end"]
    thread.stop()


async def test_stop_ends_the_thread_after_what_is_queued_and_refuses_more() -> None:
    thread = ModelThread("model")
    ident: list[threading.Thread] = []
    queued = asyncio.create_task(thread.run(lambda: ident.append(threading.current_thread())))
    await asyncio.sleep(0)
    thread.stop()
    await queued
    with pytest.raises(RuntimeError, match="stopped"):
        await thread.run(lambda: None)
    await asyncio.to_thread(ident[0].join, 10)
    assert not thread.alive
