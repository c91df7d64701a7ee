"""What a workflow and its engine's process say to each other, each of them with the other played."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workflows.scripted_engine_host import LEAVE, MUTE, NONSENSE
from workflows.errors import BadOutput, InvalidInput, NotReady, WorkflowError
from workflows.inference.generation import engine_host, engine_process, engine_wire, process_engine
from workflows.inference.generation.engine import Answer, Made, News, Order
from workflows.inference.generation.engine_host import _Host
from workflows.inference.generation.engine_wire import Asked, Begin, Close, EngineSocket, Failed, Heard, Stop, Told
from workflows.inference.generation.opening import EngineSpec
from workflows.inference.generation.process_engine import ProcessEngine
from workflows.resources import Resources
from workflows.types import Sampling

SPEC = EngineSpec(
    directory="nowhere",
    resources=Resources(),
    dtype=None,
    threads=1,
    context_tokens=None,
    concurrency=4,
    cache_tokens=None,
    step_tokens=None,
    share_prefixes=True,
)


def order(prompt: list[int], max_tokens: int = 50, **sampling: Any) -> Order:
    return Order(prompt, max_tokens, Sampling(**sampling), seed=1 << 62, ends=frozenset({1}))


async def rest(answer: Answer) -> list[int]:
    return [made.id async for made in answer]


@pytest.fixture
async def lines() -> AsyncIterator[tuple[EngineSocket, EngineSocket]]:
    """The workflow's end and the engine's."""
    ends = EngineSocket(Told), EngineSocket(Asked)
    for end, connected in zip(ends, socket.socketpair(), strict=True):
        await end.open(connected)
    yield ends
    for end in ends:
        end.abort()


# ---- the workflow's side ---------------------------------------------------------------------------------------------


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProcessEngine]:
    monkeypatch.setattr(engine_process, "HOST", "tests.workflows.scripted_engine_host")
    monkeypatch.setattr(engine_process, "STOP_S", 0.1)
    made = ProcessEngine(SPEC)
    await made.start()
    yield made
    await made.stop()


async def test_who_leaves_is_said_once(engine: ProcessEngine) -> None:
    left, stays = engine.answer(order([3])), engine.answer(order([4]))
    assert [(await anext(one)).id for one in (left, stays)] == [0, 0]
    left.close()
    left.close()
    other = engine.answer(order([5]))
    assert (await anext(stays)).id == 1
    stays.close()
    assert [(await anext(other)).id for _ in range(2)] == [0, 2]


async def test_an_answer_that_has_ended_is_not_closed(engine: ProcessEngine) -> None:
    stays = engine.answer(order([4]))
    whole = engine.answer(order([3], max_tokens=1))
    assert await rest(whole) == [0]
    whole.close()
    other = engine.answer(order([5]))
    assert (await anext(other)).id == 0
    other.close()
    assert [(await anext(stays)).id for _ in range(2)] == [0, 3]


@pytest.mark.parametrize("prompt", [LEAVE, NONSENSE])
async def test_a_process_that_ends_or_raves_is_replaced(engine: ProcessEngine, prompt: list[int]) -> None:
    running = engine.answer(order([3]))
    await anext(running)
    pid = engine._process.pid if engine._process else 0
    for lost in (running, engine.answer(order(prompt))):
        with pytest.raises(NotReady, match="being restarted") as caught:
            await rest(lost)
        assert caught.value.may_have_run
    again = engine.answer(order([3]))
    assert (await anext(again)).id == 0
    assert engine._process is not None
    assert engine._process.pid != pid


async def test_what_cannot_be_said_fails_alone(engine: ProcessEngine) -> None:
    wish = order([3], max_tokens=1)
    with pytest.raises(WorkflowError):
        await rest(engine.answer(replace(wish, seed=1 << 70)))
    assert await rest(engine.answer(wish)) == [0]
    assert not engine._answers


async def test_a_process_that_was_of_no_use_is_replaced_when_somebody_asks(engine: ProcessEngine) -> None:
    with pytest.raises(NotReady):
        await rest(engine.answer(order(LEAVE)))
    assert engine._starting is None
    assert await rest(engine.answer(order([3], max_tokens=1))) == [0]
    with pytest.raises(NotReady):
        await rest(engine.answer(order(LEAVE)))
    assert engine._starting is not None


async def test_a_replacement_has_as_much_room_as_the_first(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as smaller:
        smaller.setenv("SCRIPTED_CONTEXT", "95")
        with pytest.raises(NotReady, match="being restarted"):
            await rest(engine.answer(order(LEAVE)))
        with pytest.raises(NotReady, match="could not be restarted"):
            await rest(engine.answer(order([3], max_tokens=1)))
    monkeypatch.setenv("SCRIPTED_CONTEXT", "97")
    assert await rest(engine.answer(order([3], max_tokens=1))) == [0]
    assert engine.context_tokens == 96


async def test_a_replacement_that_hangs_is_given_up(engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hanging:
        hanging.setenv("SCRIPTED_CONTEXT", "")
        hanging.setattr(process_engine, "RESTART_S", 0.1)
        with pytest.raises(NotReady, match="being restarted"):
            await rest(engine.answer(order(LEAVE)))
        with pytest.raises(NotReady, match="could not be restarted"):
            await rest(engine.answer(order([3], max_tokens=1)))
    assert await rest(engine.answer(order([3], max_tokens=1))) == [0]


async def test_a_process_that_raves_at_its_start_is_none(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_CONTEXT", "nonsense")
    with pytest.raises(WorkflowError, match="cannot be read"):
        await ProcessEngine(SPEC).start()


async def test_nothing_is_asked_of_a_process_that_is_gone(engine: ProcessEngine) -> None:
    running = engine.answer(order([3]))
    await anext(running)
    process = engine._process
    assert process is not None
    process._socket.abort()
    await asyncio.sleep(0)
    running.close()
    late = engine.answer(order([3], max_tokens=1))
    with pytest.raises(NotReady, match="being restarted"):
        await rest(late)


async def test_who_leaves_while_there_is_no_process_is_not_asked_for(engine: ProcessEngine) -> None:
    lost = engine.answer(order(LEAVE))
    with pytest.raises(NotReady):
        await anext(lost)
    gone, stays = engine.answer(order([3])), engine.answer(order([4], max_tokens=1))
    gone.close()
    assert await rest(stays) == [0]
    assert not engine._answers


async def test_an_engine_that_is_stopped_while_it_is_restarted_stays_so(engine: ProcessEngine) -> None:
    lost = engine.answer(order(LEAVE))
    with pytest.raises(NotReady):
        await anext(lost)
    waiting = engine.answer(order([3]))
    await engine.stop()
    with pytest.raises(NotReady, match="taken down") as caught:
        await anext(waiting)
    assert not caught.value.may_have_run
    with pytest.raises(NotReady):
        engine.answer(order([3]))
    assert engine._process is None


async def test_silence_counts_from_the_last_sign_while_answers_are_due(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(process_engine, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert engine.silent_s == 0.0
    first, second = engine.answer(order([3])), engine.answer(order([4]))
    assert [(await anext(one)).id for one in (first, second)] == [0, 0]
    now[0] = 130.0
    assert engine.silent_s == 30.0
    engine.answer(order([5])).close()  # which asks nothing of the steps; the others are told of it
    assert engine.silent_s == 30.0
    assert (await anext(first)).id == 3
    assert engine.silent_s == 0.0
    now[0] = 150.0
    first.close()
    assert [(await anext(second)).id for _ in range(2)] == [3, 1]
    second.close()
    now[0] = 500.0
    assert engine.silent_s == 0.0
    lost = engine.answer(order(LEAVE))
    with pytest.raises(NotReady):
        await anext(lost)
    waits = engine.answer(order([3]))
    now[0] = 900.0
    assert engine.silent_s == 0.0  # there is no process yet
    assert (await anext(waits)).id == 0


async def test_those_who_give_up_one_after_the_other_add_up(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(process_engine, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for asked in range(6):
        waits = engine.answer(order(MUTE))
        assert engine.silent_s == 60.0 * asked
        now[0] += 60.0
        assert engine.silent_s == 60.0 * (asked + 1)
        waits.close()
        assert engine.silent_s == 0.0
        now[0] += 1000.0  # in which nobody asks
    assert (await anext(engine.answer(order([3])))).id == 0
    assert engine.silent_s == 0.0


# ---- the engine's side -----------------------------------------------------------------------------------------------


class Played:
    """An engine that says what it is told to."""

    def __init__(self) -> None:
        self.told: dict[int, Callable[[News], None]] = {}
        self.closed: list[int] = []
        self.stopped = False
        self.silent_s = 0.0

    def begin(self, asked: Order, told: Callable[[News], None]) -> Any:
        first = asked.prompt[0]
        self.told[first] = told

        class Running:
            def close(_) -> None:
                self.closed.append(first)

        return Running()

    async def stop(self) -> None:
        self.stopped = True


async def test_the_host_begins_closes_and_says_all_of_a_step_at_once(lines: tuple[EngineSocket, EngineSocket]) -> None:
    near, far = lines
    played, asked = Played(), asyncio.Queue[Any]()
    serving = asyncio.create_task(_Host(far, played).serve(asked))  # type: ignore[arg-type]
    for number in range(3):
        asked.put_nowait(Begin(number, order([10 + number])))
    while len(played.told) < 3:
        await asyncio.sleep(0)
    for first in (10, 12):
        played.told[first](News([Made(5, -0.5, ((5, -0.5), (6, -1.5)))], cached_tokens=3))
    played.told[11](News((), ended=True, error=BadOutput("no numbers")))
    (one, news), (_, same), (ended, last) = (await near.read()).news
    assert (one, news, same, ended) == (0, news, news, 1)
    assert (news.made[0].id, news.made[0].logprob, list(news.made[0].top)) == (5, -0.5, [(5, -0.5), (6, -1.5)])
    assert (news.cached_tokens, news.ended, news.error) == (3, False, None)
    assert (type(last.error), str(last.error), last.ended) == (BadOutput, "no numbers", True)
    for number in (1, 0, 0, 7):  # ended, running, not any more, never begun
        asked.put_nowait(Close(number))
    asked.put_nowait(Stop())
    await serving
    assert played.closed == [10]
    assert played.stopped


async def test_the_host_gives_a_sign_of_steps_that_tell_nothing(
    lines: tuple[EngineSocket, EngineSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = lines
    monkeypatch.setattr(engine_host, "SIGN_S", 0.001)
    played = Played()
    host = _Host(far, played)  # type: ignore[arg-type]
    host._begin(Begin(0, order([10])))
    for _ in range(3):
        assert await near.read() == Heard([])
    played.silent_s = 1.0
    host._sign()
    host._say_whether_alive()
    played.told[10](News([Made(5)]))
    played.silent_s = 0.0
    said = [await near.read() for _ in range(3)]
    assert [number for one in said for number, _ in one.news] == [0]
    played.told[10](News((), ended=True))
    while not (await near.read()).news:
        pass
    await asyncio.sleep(0)
    host._sign()
    assert host._signs is None  # nobody waits for any


# ---- the line itself -------------------------------------------------------------------------------------------------


async def test_what_is_wanted_arrives_as_it_is(lines: tuple[EngineSocket, EngineSocket]) -> None:
    near, far = lines
    wanted = order([3, 4], logit_bias={"7": 1.5}, stop=["x"], temperature=0.25, top_k=3)
    near.send(Begin(4, wanted))
    assert await far.read() == Begin(4, wanted)
    far.send(Failed(InvalidInput("no", param="context_tokens")))
    error = (await near.read()).error
    assert (type(error), str(error), error.param) == (InvalidInput, "no", "context_tokens")


async def test_the_end_is_the_end_wherever_it_comes(lines: tuple[EngineSocket, EngineSocket]) -> None:
    near, far = lines
    far.send(Heard([]))
    assert far._writer is not None
    far._writer.write((100).to_bytes(4, "little") + b"half of it")
    await far.close()
    assert await near.read() == Heard([])
    assert await near.read() is None
    near.send(Stop())  # nobody hears it


@pytest.mark.parametrize("words", [b"\xc1", b"\x92\xa5heard\x07", b"\x92\xa4open\x07", b""])
async def test_what_is_no_message_is_refused(lines: tuple[EngineSocket, EngineSocket], words: bytes) -> None:
    near, far = lines
    assert far._writer is not None
    far._writer.write(len(words).to_bytes(4, "little") + words)
    with pytest.raises(ValueError, match=r"."):
        await near.read()


async def test_a_message_has_a_bound(lines: tuple[EngineSocket, EngineSocket]) -> None:
    near, far = lines
    assert far._writer is not None
    far._writer.write((engine_wire.MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="too long"):
        await near.read()


async def test_only_plain_data_is_said(lines: tuple[EngineSocket, EngineSocket]) -> None:
    with pytest.raises(TypeError, match="object is nothing"):
        lines[0].send(object())
