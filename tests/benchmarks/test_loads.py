"""The load generators tell a right answer from a wrong one, and count time as they say they do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from scripts.benchmarks import open_loop
from scripts.benchmarks.closed_loop import have_wrk, start_wrk, wrk_result
from scripts.benchmarks.open_loop import closed_and_checked
from scripts.benchmarks.payloads import Payload, Target, json_request
from scripts.benchmarks.streams import Reader, run_streams
from scripts.benchmarks.texts import Prompt, run_texts
from tests.benchmarks.played_server import answer, serving, stream

Say = Callable[[bytes], Awaitable[bytes]]
PATIENCE_S = 20.0


def doubled(body: bytes) -> list[float]:
    return [2.0 * orjson.loads(body)["x"]]


TARGET = Target(
    "doubler",
    "/double",
    [Payload(orjson.dumps({"x": number}), np.array([2.0 * number], np.float32)) for number in (1, 2, 3)],
    lambda told: told["y"],
)


async def right(body: bytes) -> bytes:
    return answer(orjson.dumps({"y": doubled(body)}))


async def of_another(body: bytes) -> bytes:
    return answer(orjson.dumps({"y": [2.0]}))  # right for one of the three


async def too_many(body: bytes) -> bytes:
    return answer(orjson.dumps({"y": doubled(body) * 2}))


async def not_a_number(body: bytes) -> bytes:
    return answer(b'{"y": [null]}')


async def failing(body: bytes) -> bytes:
    return answer(orjson.dumps({"y": doubled(body)}), status=500)


async def empty(body: bytes) -> bytes:
    return answer(b"")


@pytest.mark.parametrize(
    ("say", "wrong"), [(right, 0), (of_another, 4), (too_many, 6), (not_a_number, 6), (failing, 6), (empty, 6)]
)
async def test_a_closed_loop_compares_contents(say: Say, wrong: int) -> None:
    async with serving(say) as port:
        cell = await closed_and_checked(port, TARGET, 1, 0.0, at_least=6)
    assert (cell["requests"], cell["checked"], cell["wrong"]) == (6, 6, wrong)


async def test_a_connection_that_breaks_is_a_wrong_answer() -> None:
    async def breaks_off(body: bytes) -> bytes:
        return b""

    async with serving(breaks_off) as port:
        cell = await closed_and_checked(port, TARGET, 2, 0.0, at_least=6)
    assert (cell["requests"], cell["wrong"]) == (2, 2)


@pytest.mark.skipif(not have_wrk(), reason="wrk is not installed")
@pytest.mark.parametrize(("say", "counted"), [(right, ""), (failing, "wrong_status"), (empty, "wrong_length")])
async def test_wrk_holds_status_and_length_against_a_right_one(say: Say, counted: str, tmp_path: Path) -> None:
    target = Target("doubler", "/double", TARGET.payloads * 100, TARGET.read)
    length = len(orjson.dumps({"y": [2.0]})) + target.slack()  # so that nothing at all is too short
    async with serving(say) as port:
        wrk = start_wrk(port, target, 2, 1.0, length, tmp_path)
        cell = await asyncio.to_thread(wrk_result, wrk)
    assert cell["requests"] > 0
    assert {kind: cell[kind] > 0 for kind in ("wrong_status", "wrong_length", "broken")} == {
        kind: kind == counted for kind in ("wrong_status", "wrong_length", "broken")
    }
    assert (cell["errors"] > 0) == bool(counted)


async def test_an_open_loop_counts_from_when_a_request_should_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have to wait for one connection, whose first answer comes when all are due: they leave late, and count it."""
    monkeypatch.setattr(open_loop, "_FIRST_CONNECTIONS", 1)
    monkeypatch.setattr(open_loop, "_MOST_CONNECTIONS", 1)
    rate, seconds = 200.0, 0.3
    chance, due, at = random.Random(1), list[float](), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        due.append(at)
    all_due = asyncio.Event()

    async def held_up(body: bytes) -> bytes:
        asyncio.get_running_loop().call_later(seconds, all_due.set)
        await all_due.wait()
        return await right(body)

    async with serving(held_up) as port:
        cell = await open_loop.run_open(port, TARGET, rate, seconds)
    assert (cell["requests"], cell["errors"]) == (len(due), 0)
    assert cell["p50_ms"] >= 1000 * (due[0] + seconds - due[len(due) // 2])


async def test_an_open_loop_counts_failures() -> None:
    async with serving(failing) as port:
        cell = await open_loop.run_open(port, TARGET, 100.0, 0.2)
    assert cell["errors"] == cell["requests"] > 0


def tokens(*numbers: int) -> bytes:
    return stream([b'data: {"text": "t%d_"}\n\n' % number for number in numbers])


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        (tokens(0, 1, 2, 3), 3),
        (tokens(0, 1, 3), 0),
        (tokens(0, 1, 1, 2, 3), 0),
        (tokens(0, 2, 1, 3), 0),
        (tokens(0, 1, 2, 3).replace(b"200", b"500", 1), 0),
    ],
    ids=["whole", "one lost", "one twice", "two swapped", "an error"],
)
async def test_a_stream_is_whole_if_all_tokens_came_once_and_in_order(said: bytes, whole: int) -> None:
    async def say(body: bytes) -> bytes:
        return said

    async with serving(say) as port:
        cell = await run_streams(port, json_request("/stream", {}), 3, 4, PATIENCE_S)
    assert (cell["streams"], cell["whole"]) == (3, whole)


async def test_a_token_is_there_with_the_read_that_completes_it() -> None:
    reader = Reader()
    head, body = tokens(0, 1).split(b"\r\n\r\n", 1)
    middle = body.index(b"t1") + 1
    for part in (head + b"\r\n\r\n" + body[:middle], body[middle:]):
        reader.data_received(part)
    reader.times = [1.0, 2.0]
    assert reader.arrivals() == ([0, 1], [1.0, 2.0], 2)
    assert [(line, reader.time_of(end)) for line, end in reader.lines() if line] == [
        (b'data: {"text": "t0_"}', 1.0),
        (b'data: {"text": "t1_"}', 2.0),
    ]
    assert reader.ended.done()


@pytest.mark.parametrize(("text", "wrong"), [("a word", 0), ("another word", 3)])
async def test_texts_are_held_against_the_models_own(text: str, wrong: int) -> None:
    async def say(body: bytes) -> bytes:
        pieces = [orjson.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in ("", "a", " word")]
        return stream([b"data: %b\n\n" % piece for piece in pieces] + [b"data: [DONE]\n\n"])

    prompt = Prompt(json_request("/v1/chat/completions", {}), text, 2)
    async with serving(say) as port:
        cell = await run_texts(port, [prompt], 3, 0.0)
    assert (cell["requests"], cell["wrong"]) == (3, wrong)
    assert cell["first_p50_ms"] > 0
