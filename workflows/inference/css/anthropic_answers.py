"""Answers of Anthropic, whole ones and events of streams, and what they mean in our shapes. Strict in what it reads."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from workflows.inference.css.answers import Answer
from workflows.inference.css.finish import finish_reason
from workflows.types.text import Generate, TextChunk, Usage

__all__ = ["AnthropicReader"]

MAX_BLOCKS: Final = 1024
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Details(_Form):
    thinking_tokens: Count | None = None


class _UsageForm(_Form):
    """Counts of the whole answer until now; an event of a stream may leave out those that it told before."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens_details: _Details | None = None


class _Block(_Form):
    """Text, or the call of a tool; other blocks, thoughts for example, are no part of the answer."""

    type: str
    text: str = ""
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _Message(_Form):
    content: Annotated[list[_Block], Field(max_length=MAX_BLOCKS)]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _UsageForm


class _Delta(_Form):
    """What is new of a block, or of the message."""

    type: str | None = None
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Event(_Form):
    type: str
    index: Count | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _UsageForm | None = None


class AnthropicReader:
    """Reads one answer into `answer`: `push` for each event of a stream, or for a whole answer, once; see `OpenAIReader`."""

    def __init__(self, asked: Generate) -> None:
        self.answer = Answer(asked)
        self._told: dict[str, int] = {}
        self._without_arguments: set[int | None] = set()

    def push(self, event: Any) -> TextChunk | None:
        if isinstance(event, dict) and event.get("type") == "message":
            return self._whole(_Message.model_validate(event))
        form = _Event.model_validate(event)
        if form.message is not None:  # what it says of the answer is from before there was one
            self._note(form.message.usage.model_copy(update={"output_tokens": None}))
        if form.usage is not None:
            self._note(form.usage)
        if form.content_block is not None:
            return self._begin(form.index, form.content_block)
        if form.type == "content_block_stop" and form.index in self._without_arguments:
            self._without_arguments.discard(form.index)
            return self.answer.push(calls=[self.answer.call(form.index, None, None, "{}")])
        if form.delta is None:
            return None
        chunk = self._more(form.index, form.delta)
        self._end(form.delta.stop_reason, form.delta.stop_sequence)
        return chunk

    def _whole(self, form: _Message) -> TextChunk | None:
        self._note(form.usage)
        calls = [
            self.answer.call(place, block.id, block.name, json.dumps(block.input or {}, ensure_ascii=False))
            for place, block in enumerate(form.content)
            if block.type == "tool_use"
        ]
        chunk = self.answer.push("".join(block.text for block in form.content if block.type == "text"), calls=calls)
        self._end(form.stop_reason, form.stop_sequence)
        return chunk

    def _begin(self, index: int | None, block: _Block) -> TextChunk | None:
        if block.type == "tool_use":
            self._without_arguments.add(index)
            return self.answer.push(calls=[self.answer.call(index, block.id, block.name, "")])
        return self.answer.push(block.text) if block.type == "text" else None

    def _more(self, index: int | None, delta: _Delta) -> TextChunk | None:
        if delta.type == "input_json_delta" and delta.partial_json:
            self._without_arguments.discard(index)
            return self.answer.push(calls=[self.answer.call(index, None, None, delta.partial_json)])
        return self.answer.push(delta.text) if delta.type == "text_delta" else None

    def _end(self, reason: str | None, stop_string: str | None) -> None:
        if reason is not None:
            self.answer.finish(finish_reason(reason, calls=self.answer.calls_tools), stop_string)

    def _note(self, form: _UsageForm) -> None:
        """Later counts replace earlier ones. Of what was read, some was known, and some is kept from now on."""
        self._told |= form.model_dump(exclude_none=True, exclude={"output_tokens_details"})
        if form.output_tokens_details is not None and form.output_tokens_details.thinking_tokens is not None:
            self._told["thinking_tokens"] = form.output_tokens_details.thinking_tokens
        told = self._told
        if "input_tokens" not in told or "output_tokens" not in told:
            return
        cached = told.get("cache_read_input_tokens")
        read = told["input_tokens"] + told.get("cache_creation_input_tokens", 0) + (cached or 0)
        self.answer.usage = Usage(
            prompt_tokens=read,
            completion_tokens=told["output_tokens"],
            cached_tokens=cached,
            reasoning_tokens=told.get("thinking_tokens"),
        )
