"""Who gets the model: turns and company of sentences, deadlines, callers who leave, and what is taken down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from tests.workflows.speech.tones import Tones, serving
from workflows import CallContext, Speech
from workflows.batch import working_for
from workflows.errors import Cancelled, DeadlineExceeded, NotReady, WorkflowError
from workflows.inference.speech.tts import AudioInferenceResult, Sentence

FIVE = "One of them. And two. Here three. That is four. Five."


async def test_sentences_of_many_requests_are_said_together_and_a_long_text_holds_up_nobody() -> None:
    async with serving(Tones()) as tones:
        tones.gate.clear()
        long = asyncio.create_task(tones.ainference({"text": "Long. " * 100}))
        await asyncio.to_thread(tones.begun.wait)
        shorts = [asyncio.create_task(tones.ainference({"text": f"{letter}. {letter}x."})) for letter in "ABCD"]
        others = asyncio.create_task(tones.ainference({"text": "Other.", "voice": "high"}))
        await asyncio.sleep(0)
        tones.gate.set()
        await asyncio.gather(*shorts, others)
        assert not long.done()
        said = tones.batches[:6]
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
    assert said[0] == ["Long."]
    assert max(map(len, said)) > 4
    assert ["Other."] in said


@pytest.mark.parametrize(("max_batch", "seed"), [(1, None), (8, 1)])
async def test_requests_take_turns_where_they_keep_no_company(max_batch: int, seed: int | None) -> None:
    tones, who_else = Tones(), ("ann", "bob")
    tones.max_batch = max_batch
    async with serving(tones):
        tones.gate.clear()
        long = asyncio.create_task(tones.ainference({"text": "Long. " * 100, "seed": seed}))
        await asyncio.to_thread(tones.begun.wait)
        shorts = [
            asyncio.create_task(tones.ainference({"text": f"Hi {who}. Bye {who}.", "seed": seed})) for who in who_else
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        tones.gate.set()
        await asyncio.gather(*shorts)
        said = [text for batch in tones.batches for text in batch]
        long.cancel()
        await asyncio.wait([long])
    assert all(len(batch) == 1 for batch in tones.batches)
    # The long one's next may have waited before them.
    for text, turn in (("Hi ann.", 2), ("Hi bob.", 3), ("Bye ann.", 5), ("Bye bob.", 6)):
        assert said.index(text) <= turn


async def test_the_first_sentence_of_a_request_goes_without_its_second() -> None:
    async with serving(Tones()) as tones:
        await tones.ainference({"text": FIVE})
        assert tones.batches[0] == ["One of them."]


async def test_a_long_text_is_made_only_as_fast_as_it_is_read() -> None:
    text = "This is another sentence. " * 40_000
    assert len(text) > 1_000_000
    async with serving(Tones()) as tones:
        stream = tones.astream({"text": text, "format": "pcm"})
        async with aclosing(stream):
            for read in range(1, 50):
                await anext(stream)
                said = sum(map(len, tones.batches))
                assert said <= read + tones.sentences_ahead
        said = sum(map(len, tones.batches))
        await tones.ainference({"text": "And now somebody else."})
        assert sum(map(len, tones.batches)) <= said + 1 + tones.sentences_ahead
        assert "And now somebody else." in tones.batches[-1]


@pytest.mark.parametrize(
    ("leave", "error"),
    [
        (lambda task, call: task.cancel(), asyncio.CancelledError),
        (lambda task, call: call.cancel(), Cancelled),
        (lambda task, call: setattr(call, "deadline", 0.0), DeadlineExceeded),
    ],
    ids=["task", "call", "deadline"],
)
async def test_who_leaves_is_seen_from_the_models_thread(
    leave: Callable[[asyncio.Task[Speech], CallContext], Any], error: type[BaseException]
) -> None:
    saw = threading.Event()
    call = CallContext()

    class Patient(Tones):
        def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
            if sentences[0].text == "Leave.":
                self.begun.set()
                while sentences[0].is_wanted():
                    saw.wait(0.001)
                saw.set()
                raise Cancelled
            return super().synthesize_batch(sentences)

    async with serving(Patient()) as patient:
        with working_for(call):
            task = asyncio.create_task(patient.ainference({"text": "Leave."}))
        await asyncio.to_thread(patient.begun.wait)
        leave(task, call)
        assert await asyncio.to_thread(saw.wait, 5)
        with pytest.raises(error):
            await task
        assert (await patient.ainference({"text": "Stay."})).seconds > 0


async def test_nobody_is_answered_after_the_deadline() -> None:
    async with serving(Tones()) as tones:
        for call, error in ((CallContext(deadline=0.0), DeadlineExceeded), (CallContext(cancelled=True), Cancelled)):
            with working_for(call), pytest.raises(error):
                await tones.ainference({"text": "A."})
        assert tones.batches == []


async def test_what_nobody_waits_for_any_more_is_not_said() -> None:
    call = CallContext()
    async with serving(Tones()) as tones:
        tones.gate.clear()
        first = asyncio.create_task(tones.ainference({"text": "First."}))
        await asyncio.to_thread(tones.begun.wait)
        with working_for(call):
            late = asyncio.create_task(tones.ainference({"text": "Late."}))
        for _ in range(10):
            await asyncio.sleep(0)
        call.deadline = 0.0
        tones.gate.set()
        await first
        with pytest.raises(DeadlineExceeded) as raised:
            await late
        assert not raised.value.may_have_run
        assert tones.batches == [["First."]]


async def test_a_deadline_in_mid_text_ends_the_stream_and_what_was_made_ahead_is_dropped() -> None:
    call = CallContext()
    async with serving(Tones()) as tones:
        with working_for(call):
            stream = tones.astream({"text": "Ab. " * 1000, "format": "opus"})
            async with aclosing(stream):
                assert (await anext(stream)).audio
                call.deadline = 0.0
                with pytest.raises(DeadlineExceeded) as late:
                    _ = [chunk async for chunk in stream]
        assert late.value.may_have_run
        assert sum(map(len, tones.batches)) <= 2 * (1 + tones.sentences_ahead)


@pytest.mark.parametrize("read", [0, 1])
async def test_who_leaves_leaves_nothing_behind(read: int) -> None:
    """Before the first audio, and later."""
    narrow = Tones()
    narrow.concurrency = 2
    async with serving(narrow) as tones:
        await tones.ainference({"text": "A."})
        tasks, threads = len(asyncio.all_tasks()), threading.active_count()
        for _ in range(5):
            tones.gate.set()
            tones.begun.clear()
            stream = tones.astream({"text": "Long. " * 1000, "format": "mp3"})
            for _ in range(read):
                await anext(stream)
            tones.gate.clear()
            waiting = asyncio.create_task(anext(stream))
            await asyncio.to_thread(tones.begun.wait)
            waiting.cancel()
            await asyncio.wait([waiting])
            await stream.aclose()
            assert not tones._engine._lanes
        tones.gate.set()
        said = sum(map(len, tones.batches))
        assert (await tones.ainference({"text": "B."})).seconds > 0
        assert sum(map(len, tones.batches)) == said + 1
        assert len(asyncio.all_tasks()) == tasks
        assert threading.active_count() <= threads + 8  # those of `asyncio.to_thread` stay


async def test_who_waits_when_it_is_taken_down_is_told() -> None:
    tones = Tones()
    await tones.asetup()
    tones.gate.clear()
    running = asyncio.create_task(tones.ainference({"text": "A."}))
    await asyncio.to_thread(tones.begun.wait)
    waiting = asyncio.create_task(tones.ainference({"text": "B."}))
    await asyncio.sleep(0)
    ended = asyncio.create_task(tones.ateardown())
    await asyncio.sleep(0)
    tones.gate.set()
    with pytest.raises(NotReady):
        await waiting
    await asyncio.wait([running])
    await ended
