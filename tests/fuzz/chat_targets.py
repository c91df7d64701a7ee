"""Fuzz target: chats with tools, images and forms of an answer, through the whole router and a workflow.

For any bytes there is a refusal in OpenAI's words, or an answer that its client takes, from a workflow that was asked what
the body says; within a second.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

import httpx
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.fuzz.chat_parts import chat_fields, turn
from tests.fuzz.openai_targets import PLACE
from tests.fuzz.picks import Picks
from tests.router.openai_house import CHAT, events, exact
from tests.router.router_front import Front, ScriptedClient
from workflows.base import BaseInferenceWorkflow
from workflows.context import CallContext
from workflows.plain import plain
from workflows.types.conversation import ImagePart, Message
from workflows.types.text import Generate, Generated, TextChunk, Usage
from workflows.types.tools import ToolCallPiece, ToolName

__all__ = ["asked_chat"]

MOST_SECONDS: Final = 1.0
"""Of computing, whatever else the machine does."""
ERRORS: Final = {(400, "invalid_json"), (400, "invalid_value"), (404, "model_not_found")}


class Calling(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    """Calls every tool that it is given, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Generate] = []

    def do_stream(self, preprocessed_data: Generate) -> Iterator[TextChunk]:
        self.asked.append(preprocessed_data)
        tools = preprocessed_data.tools or ()
        calls = [ToolCallPiece(index=index, id=f"c{index}", name=tool.name) for index, tool in enumerate(tools)]
        yield TextChunk(text="é", tool_calls=calls or None)
        usage = Usage(prompt_tokens=1, completion_tokens=2, reasoning_tokens=1)
        yield TextChunk(text="", finish_reason="tool_calls" if calls else "stop", usage=usage)


def asked_chat(data: bytes) -> None:
    """A body of likely fields, and then perhaps of one byte that is not. Where nothing odd was picked it is answered."""
    picks = Picks(data)
    body: dict[str, Any] = {"model": "m", "messages": [turn(picks) for _ in range(1 + picks.below(4))]}
    body |= {**chat_fields(picks), **picks.one_of([{}, {"stream": True}, {"n": 2}, {"stream": True, "n": 2}])}
    raw = json.dumps(body, ensure_ascii=False).encode()
    if picks.rarely():
        place = picks.below(256) % len(raw)
        raw = raw[:place] + picks.take(1) + raw[place + 1 :]
    workflow = Calling()
    workflow.setup()
    began = time.process_time()
    answer = asyncio.run(_answer(workflow, raw))
    assert time.process_time() - began < MOST_SECONDS
    if answer.status_code != 200:
        _check_refusal(answer)
        assert picks.odd
        assert not workflow.asked
        return
    body = json.loads(raw)
    assert len(workflow.asked) == (body.get("n") or 1)
    for asked in workflow.asked:
        _check_asked(body, asked)
    _check_answer(body, answer)


async def _answer(workflow: Calling, raw: bytes) -> httpx.Response:
    async def whole(input_data: Any, call: CallContext) -> Any:
        return plain(workflow.inference(input_data))

    async def chunks(input_data: Any) -> AsyncGenerator[list[Any]]:
        for chunk in workflow.stream(input_data):
            yield [plain(chunk)]

    house = Front()
    house.add("m", ScriptedClient(whole, chunks), kind="generate")
    return await house.post(CHAT, raw)


# ---- checking --------------------------------------------------------------------------------------------------------------


def _check_refusal(answer: httpx.Response) -> None:
    told = answer.json()
    assert set(told) == {"error"}, told
    error = told["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["code"]) in ERRORS, told
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 300
    if error["param"] is not None:
        assert PLACE.fullmatch(error["param"]), told
        assert error["code"] != "invalid_value" or error["message"].startswith(error["param"])


def _check_answer(body: dict[str, Any], answer: httpx.Response) -> None:
    samples, calls = body.get("n") or 1, len(body.get("tools") or ())
    if body.get("stream"):
        told = [exact(ChatCompletionChunk, event) for event in events(answer.text)]
        choices = [choice for event in told for choice in event.choices]
        pieces = [piece for choice in choices for piece in choice.delta.tool_calls or ()]
        assert "".join(choice.delta.content or "" for choice in choices) == "é" * samples
        assert len(pieces) == calls * samples
    else:
        whole = exact(ChatCompletion, answer.json())
        assert [len(choice.message.tool_calls or ()) for choice in whole.choices] == [calls] * samples
        assert whole.usage.completion_tokens_details.reasoning_tokens == samples


def _check_asked(body: dict[str, Any], asked: Generate) -> None:
    """Everything that was said is asked, and nothing else."""
    assert asked.messages is not None
    assert len(asked.messages) == len(body["messages"])
    for said, message in zip(body["messages"], asked.messages, strict=True):
        _check_message(said, message)
    tools = [tool["function"] for tool in body.get("tools") or ()]
    given = [(tool.name, tool.description, tool.parameters, tool.strict) for tool in asked.tools or ()]
    assert given == [tuple(map(tool.get, ("name", "description", "parameters", "strict"))) for tool in tools]
    choice = body.get("tool_choice") if tools else None
    named = asked.tool_choice.name if isinstance(asked.tool_choice, ToolName) else asked.tool_choice
    assert named == (choice["function"]["name"] if isinstance(choice, dict) else choice)
    assert asked.parallel_tool_calls == (body.get("parallel_tool_calls") if tools else None)
    form, got = body.get("response_format") or {"type": "text"}, asked.response_format
    if got is None:
        assert form["type"] == "text"
    else:
        schema = form["json_schema"] if form["type"] == "json_schema" else {}
        told = tuple(map(schema.get, ("name", "description", "schema", "strict")))
        assert (got.type, got.name, got.description, got.json_schema, got.strict) == (form["type"], *told)


def _check_message(said: dict[str, Any], message: Message) -> None:
    assert message.role == ("system" if said["role"] == "developer" else said["role"])
    content = said.get("content") or ""
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    assert message.text == "".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    for url, image in zip(urls, message.images, strict=True):
        if isinstance(image, ImagePart):
            assert image.data == b64decode(url.partition(",")[2])
        else:
            assert image.url == url
    calls = [(call["id"], *map(call["function"].get, ("name", "arguments"))) for call in said.get("tool_calls") or ()]
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls or ()] == calls
    if said["role"] == "tool":
        assert message.tool_call_id == said["tool_call_id"]
