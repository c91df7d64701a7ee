"""Many requests over one call: at the same time, in order where there is one, and each with an end of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest

from deployments.router import grpc_call
from deployments.router.keys import Keys, mint_key
from deployments.router.protocols.open_inference import grpc_stream
from deployments.router.protocols.open_inference.grpc_stream import MOST_AT_ONCE
from tests.router.grpc_front import GrpcFront, failure, infer_request, listening, text_request, until
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput

CODE = grpc.StatusCode


class Gated:
    """A tensor workflow that answers request `n` (its first number) once the test lets it."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.running: list[int] = []
        self.front = Front()
        self.client = self.front.add("m", ScriptedClient(self._answer), kind="tensors")

    def gate(self, number: int) -> asyncio.Event:
        return self.gates.setdefault(number, asyncio.Event())

    async def _answer(self, input_data: Any, call: CallContext) -> Any:
        number = int(input_data["inputs"]["x"][0, 0])
        self.running.append(number)
        await self.gate(number).wait()
        if number < 0:
            raise InvalidInput("negative")
        return {"outputs": input_data["inputs"]}


def numbered(number: int, **fields: Any) -> Any:
    return infer_request(array=np.array([[number, 0]], np.float32), id=str(number), **fields)


class Words:
    """A text workflow whose chunks the test gives."""

    def __init__(self, *, kind: str = "generate") -> None:
        self.given: asyncio.Queue[list[Any] | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.inputs: list[Any] = []
        self.taken = 0
        self.front = Front()
        self.client = self.front.add("text", ScriptedClient(self._whole, self._chunks), kind=kind)

    async def _whole(self, input_data: Any, call: CallContext) -> Any:
        return {"text": "whole", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    async def _chunks(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        self.inputs.append(input_data)
        try:
            while (group := await self.given.get()) is not None:
                self.taken += 1
                yield group
        finally:
            self.closed.set()

    def say(self, *texts: str) -> None:
        self.given.put_nowait([{"text": text, "finish_reason": None, "usage": None} for text in texts])

    def end(self) -> None:
        usage = {"prompt_tokens": 2, "completion_tokens": 3}
        self.given.put_nowait([{"text": "!", "finish_reason": "length", "usage": usage}])
        self.given.put_nowait(None)


def told(answer: Any) -> tuple[str, list[str], bool]:
    """A chunk's text, the names of its outputs, and whether it says that it is the last."""
    assert not answer.error_message, answer.error_message
    response = answer.infer_response
    outputs = {output.name: output for output in response.outputs}
    text = outputs["text_output"].contents.bytes_contents[0].decode() if outputs else ""
    return text, list(outputs), response.parameters["triton_final_response"].bool_param


async def settled(it: GrpcFront, lines: int) -> list[str]:
    """The codes of the access log's lines, once there are so many."""
    await until(lambda: len(it.front.lines.texts) >= lines)
    return sorted(text.split('"code":"')[1].split('"')[0] for text in it.front.lines.texts)


# ---- one answer each -------------------------------------------------------------------------------------------------------


async def test_requests_run_together_and_are_answered_in_their_order() -> None:
    gated = Gated()
    async with listening(gated.front) as it, it.caller() as caller:
        call = caller.conversation()
        for number in (1, 2, 3):
            await call.write(numbered(number))
        await until(lambda: sorted(gated.running) == [1, 2, 3])
        for number in (3, 2):
            gated.gate(number).set()
        gated.gate(1).set()
        answers = [await call.read() for _ in range(3)]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == CODE.OK
        codes = await settled(it, 4)
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3"]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)
    assert codes == ["ok"] * 4


async def test_what_fails_is_told_in_its_place_and_the_rest_goes_on() -> None:
    gated = Gated()
    for number in (1, -2, 3):
        gated.gate(number).set()
    wrong = numbered(9)
    wrong.raw_input_contents[0] += b"x"
    absent = numbered(8)
    absent.model_name = "absent"
    async with listening(gated.front) as it, it.caller() as caller:
        call = caller.conversation([("x-request-id", "mine")])
        for request in (numbered(1), numbered(-2), b"\xff", wrong, absent, numbered(3)):
            await call.write(request)
        answers = [await call.read() for _ in range(6)]
        await call.done_writing()
        assert await call.code() == CODE.OK
        await settled(it, 7)
        lines = [text for text in it.front.lines.texts if '"request_id":"mine-2"' in text]
    assert [answer.error_message for answer in answers] == [
        "",
        "negative",
        "the request is not a message that this method takes",
        "tensor 'x': expected 8 bytes, got 9",
        "model not found",
        "",
    ]
    assert [answer.infer_response.id for answer in answers] == ["1", "-2", "", "", "8", "3"]
    assert all('"code":"invalid","' in line and '"workflow":"m"' in line for line in lines)
    assert len(lines) == 1


async def test_no_more_than_a_bounded_number_is_read() -> None:
    gated = Gated()
    dispatcher = gated.front.directory.find("m").dispatcher
    async with listening(gated.front) as it, it.caller() as caller:
        call = caller.conversation()
        for number in range(MOST_AT_ONCE + 5):
            await call.write(numbered(number))
        await until(lambda: dispatcher.load == MOST_AT_ONCE)
        gated.gate(0).set()
        await call.read()
        await until(lambda: dispatcher.load == MOST_AT_ONCE)
        assert len(it.front.lines.texts) == 1
        call.cancel()


async def test_no_more_bytes_are_read_than_one_message_may_have() -> None:
    gated = Gated()
    dispatcher = gated.front.directory.find("m").dispatcher
    size = len(numbered(1).SerializeToString())
    async with listening(gated.front, limits={"max_body_bytes": 2 * size}) as it, it.caller() as caller:
        call = caller.conversation()
        for number in range(1, 6):
            await call.write(numbered(number))
        await until(lambda: dispatcher.load == 2)
        await caller.ask("ServerLive")
        assert dispatcher.load == 2
        gated.gate(1).set()
        assert (await call.read()).infer_response.id == "1"
        await until(lambda: dispatcher.load == 2)
        call.cancel()


# ---- chunks ----------------------------------------------------------------------------------------------------------------


async def test_texts_come_chunk_by_chunk_and_the_last_one_says_so() -> None:
    words = Words()
    request = text_request("text", "begin", id="a")
    request.parameters["max_tokens"].int64_param = 5
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(request)
        words.say("one ", "two ")
        assert told(await call.read()) == ("one ", ["text_output"], False)
        assert told(await call.read()) == ("two ", ["text_output"], False)
        words.end()
        last = await call.read()
        names = ["text_output", "finish_reason", "prompt_tokens", "completion_tokens"]
        assert told(last) == ("!", names, True)
        assert last.infer_response.outputs[1].contents.bytes_contents[0] == b"length"
        assert last.infer_response.outputs[3].contents.int64_contents == [3]
        assert (last.infer_response.id, last.infer_response.model_name) == ("a", "text")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await settled(it, 2) == ["ok", "ok"]
        assert '"chunks":3' in it.front.lines.texts[0]
    assert words.inputs == [{"prompt": "begin", "sampling": {"max_tokens": 5}}]


async def test_only_the_outputs_that_are_wanted_come() -> None:
    words = Words()
    request = text_request("text", "begin")
    request.outputs.add(name="finish_reason")
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(request)
        words.say("one")
        words.end()
        await call.done_writing()
        answers = [answer async for answer in call]
    assert [[output.name for output in answer.infer_response.outputs] for answer in answers] == [[], ["finish_reason"]]


@pytest.mark.parametrize("wished", [True, False])
async def test_an_empty_answer_says_what_no_other_could(wished: bool) -> None:
    words = Words(kind="json")
    request = text_request("text", '{"a": 1}', field="input", id="a")
    request.parameters["triton_enable_empty_final_response"].bool_param = wished
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(request)
        words.given.put_nowait([{"n": 1}, {"n": 2}])
        words.given.put_nowait(None)
        await call.done_writing()
        answers = [answer.infer_response async for answer in call]
    said = [[output.contents.bytes_contents[0] for output in answer.outputs] for answer in answers]
    final = [answer.parameters["triton_final_response"].bool_param for answer in answers]
    assert said == [[b'{"n":1}'], [b'{"n":2}']] + [[]] * wished
    assert final == [False, False] + [True] * wished
    assert {answer.id for answer in answers} == {"a"}
    assert words.inputs == [{"a": 1}]


async def test_chunks_of_tensors() -> None:
    async def chunks(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield [{"outputs": {"y": input_data["inputs"]["x"] + add}} for add in (1, 2)]

    front = Front()
    front.add("m", ScriptedClient(chunks=chunks), kind="tensors")
    async with listening(front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(infer_request())
        await call.done_writing()
        answers = [np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32) async for answer in call]
    assert [answer.tolist() for answer in answers] == [[2.5, 3.5], [3.5, 4.5]]


async def test_a_stream_that_is_not_wanted_is_answered_at_once() -> None:
    words = Words()
    request = text_request("text", "a", "b")
    request.parameters["stream"].bool_param = False
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(request)
        await call.done_writing()
        (answer,) = [answer async for answer in call]
    assert list(answer.infer_response.outputs[0].contents.bytes_contents) == [b"whole", b"whole"]


async def test_only_one_text_is_streamed() -> None:
    words = Words()
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "a", "b"))
        answer = await call.read()
        call.cancel()
    assert answer.error_message.startswith("tensor 'text_input': a stream takes one element")


async def test_streams_do_not_wait_for_what_came_before_and_nobody_waits_for_them() -> None:
    words, gated = Words(), Gated()
    words.front.directory.put(next(iter(gated.front.directory)))
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(numbered(1))
        await call.write(text_request("text", "begin", id="t"))
        await call.write(numbered(2))
        words.say("one")
        assert (await call.read()).infer_response.id == "t"
        gated.gate(2).set()
        gated.gate(1).set()
        assert [(await call.read()).infer_response.id for _ in range(2)] == ["1", "2"]
        words.end()
        assert told(await call.read())[2]
        call.cancel()


async def test_an_error_after_the_first_chunk_ends_that_stream_alone() -> None:
    async def chunks(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield [{"text": "one", "finish_reason": None, "usage": None}]
        raise InvalidInput("no more")

    front = Front()
    front.add("text", ScriptedClient(chunks=chunks), kind="generate")
    async with listening(front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "begin", id="t"))
        assert told(await call.read())[0] == "one"
        failed = await call.read()
        await call.done_writing()
        assert await call.code() == CODE.OK
        assert await settled(it, 2) == ["invalid", "ok"]
    assert (failed.error_message, failed.infer_response.id) == ("no more", "t")


# ---- time, slow readers, callers who leave ---------------------------------------------------------------------------------


async def test_who_cancels_stops_all_the_work() -> None:
    words, gated = Words(), Gated()
    words.front.directory.put(next(iter(gated.front.directory)))
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "begin"))
        await call.write(numbered(1))
        words.say("one")
        await call.read()
        await until(lambda: gated.running == [1])
        call.cancel()
        async with asyncio.timeout(5):
            await words.closed.wait()
        assert await settled(it, 3) == ["cancelled"] * 3
        assert gated.client.calls[0].cancelled


async def test_a_first_chunk_that_does_not_come_is_not_waited_for() -> None:
    words = Words()
    async with listening(words.front, limits={"stream_first_chunk_s": 0.05}) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "begin"))
        assert (await call.read()).error_message == "deadline exceeded"
        assert words.closed.is_set()
        call.cancel()


async def test_a_stream_has_an_end() -> None:
    words = Words()
    request = text_request("text", "begin")
    request.parameters["timeout"].int64_param = 200_000
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(request)
        words.say("one")
        assert told(await call.read())[0] == "one"
        assert (await call.read()).error_message == "deadline exceeded"
        assert words.closed.is_set()
        call.cancel()


async def test_a_slow_reader_slows_the_workflow_down() -> None:
    words = Words()
    large = "x" * (1 << 20)
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "begin"))
        for _ in range(40):
            words.say(large)
        await until(lambda: words.taken > 0)
        before = -1
        while before != words.taken:  # until what lies between is full
            before = words.taken
            await asyncio.sleep(0.1)
        assert before < 20
        for _ in range(40):
            assert told(await call.read())[0] == large
        words.end()
        assert told(await call.read())[2]
        call.cancel()


async def test_who_does_not_read_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_call.Conversation.__init__, "__defaults__", (0.05,))
    words = Words()
    async with listening(words.front) as it, it.caller() as caller:
        call = caller.conversation()
        await call.write(text_request("text", "begin"))
        for _ in range(40):
            words.say("x" * (1 << 20))
        async with asyncio.timeout(5):
            await words.closed.wait()
        assert await settled(it, 2) == ["cancelled", "cancelled"]
        call.cancel()


async def test_a_server_that_drains_answers_what_was_asked_and_says_good_bye() -> None:
    gated = Gated()
    async with listening(gated.front) as it, it.caller() as caller:
        call, idle = caller.conversation(), caller.conversation()
        await call.write(numbered(1))
        await idle.initial_metadata()
        await until(lambda: gated.running == [1])
        it.edge.drain()
        assert await idle.code() == CODE.UNAVAILABLE
        assert await idle.details() == "the server ends this call; open another one"
        gated.gate(1).set()
        assert (await call.read()).infer_response.id == "1"
        assert await call.code() == CODE.UNAVAILABLE


async def test_a_call_that_begins_while_the_server_drains_is_answered() -> None:
    gated = Gated()
    gated.gate(1).set()
    async with listening(gated.front) as it, it.caller() as caller:
        it.edge.drain()
        call = caller.conversation()
        await call.write(numbered(1))
        await call.done_writing()
        assert (await call.read()).infer_response.id == "1"
        assert await call.code() == CODE.OK


async def test_who_always_asks_more_is_sent_away_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_stream, "LEAVE_S", 0.2)
    front = Front()
    front.add("m", kind="tensors")
    async with listening(front) as it, it.caller() as caller:
        call = caller.conversation()
        it.edge.drain()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it is over
            while True:
                await call.write(infer_request())
                await call.read()
        await until(lambda: it.edge.running == 0)
        assert (front.lines.last["workflow"], front.lines.last["code"]) == ("", "loading")


async def test_a_call_may_not_last_for_ever() -> None:
    async with listening(Gated().front, grpc={"max_stream_s": 0.05}) as it, it.caller() as caller:
        assert await caller.conversation().code() == CODE.UNAVAILABLE


async def test_a_stream_needs_a_key() -> None:
    secret, key = mint_key("user")
    async with listening(Gated().front, Keys([key])) as it, it.caller() as caller:
        assert await caller.conversation().code() == CODE.UNAUTHENTICATED
        call = caller.conversation([("x-api-key", secret)])
        await call.done_writing()
        assert await call.code() == CODE.OK


async def test_a_call_that_is_left_open_ends_with_the_server() -> None:
    async with listening(Gated().front) as it, it.caller() as caller:
        call = caller.conversation(timeout=None)
        await call.initial_metadata()
        async with asyncio.timeout(5):
            await it.listener.stop()
        assert (await failure(_read_of(call))).code() == CODE.UNAVAILABLE


async def _read_of(call: Any) -> None:
    async with aclosing(aiter(call)) as answers:
        async for _ in answers:
            pass
