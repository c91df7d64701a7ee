"""Bodies of requests as Anthropic has them. Sends nothing; what is taken, the row of the provider says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from workflows.errors import InvalidInput
from workflows.inference.css.parameters import check_generate, most_tokens, sampling_of
from workflows.inference.css.providers import Takes
from workflows.types.conversation import ImagePart, Message, RemoteImagePart, TextPart
from workflows.types.text import Generate
from workflows.types.tools import Tool, ToolChoice, ToolName

__all__ = ["DEFAULT_TOKENS", "message_body"]

Body = dict[str, Any]

DEFAULT_TOKENS: Final = 4096
"""An answer's longest where nobody says one: Anthropic wants to hear a number."""
_NO_ARGUMENTS: Final[Body] = {"type": "object", "properties": {}}


def message_body(asked: Generate, takes: Takes, provider: str, most: int | None) -> Body:
    """A conversation's. `most`: what no answer may be longer than.

    Raises Unsupported and InvalidInput.
    """
    check_generate(asked, takes, provider)
    turns = asked.messages or []
    system = [turn.text for turn in _leading(turns)]
    body: Body = {"messages": list(_messages(turns[len(system) :], len(system)))}
    if system:
        body["system"] = "\n\n".join(system)
    body["max_tokens"] = most_tokens(asked, most) or DEFAULT_TOKENS
    body |= sampling_of(asked, takes, provider)
    if asked.tools is not None and takes.parameters["tools"] is not None:
        body["tools"] = [_tool(tool) for tool in asked.tools]
        choice = _choice(asked.tool_choice or "auto")
        if asked.parallel_tool_calls is False and choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
        body["tool_choice"] = choice
    form = asked.response_format
    if form is not None and form.type == "json_schema" and takes.parameters["response_format"] is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": form.json_schema}}
    return body


def _leading(turns: list[Message]) -> Iterator[Message]:
    """The instructions before the first turn; those that come later stay in their place."""
    for turn in turns:
        if turn.role != "system":
            return
        yield turn


def _messages(turns: list[Message], first: int) -> Iterator[Body]:
    """Results of tools that follow each other are one message, of the user."""
    numbered = enumerate(turns, first)
    for role, group in groupby(numbered, key=lambda each: "user" if each[1].role == "tool" else each[1].role):
        blocks = [block for index, turn in group for block in _blocks(turn, f"messages.{index}")]
        if not blocks:
            continue  # empty turns are refused there, and say nothing
        yield {"role": role, "content": blocks}


def _blocks(turn: Message, param: str) -> Iterator[Body]:
    content = list(_contents(turn, param))
    if turn.role == "tool":
        yield {"type": "tool_result", "tool_use_id": turn.tool_call_id, "content": content}
        return
    yield from content
    for call in turn.tool_calls or ():
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments, param)}


def _contents(turn: Message, param: str) -> Iterator[Body]:
    parts = [TextPart(text=turn.content)] if isinstance(turn.content, str) else turn.content
    for part in parts:
        if isinstance(part, TextPart):
            if part.text:
                yield {"type": "text", "text": part.text}
        else:
            yield {"type": "image", "source": _source(part, param)}


def _source(image: ImagePart | RemoteImagePart, param: str) -> Body:
    if image.detail not in (None, "auto"):
        raise InvalidInput(f"{param}.content: anthropic has no detail of images", param=f"{param}.content")
    if isinstance(image, RemoteImagePart):
        return {"type": "url", "url": image.url}
    begin, _, data = image.data_url.partition(",")
    return {"type": "base64", "media_type": begin.removeprefix("data:").partition(";")[0], "data": data}


def _arguments(text: str, param: str) -> Body:
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidInput(f"{param}.tool_calls: arguments are no JSON object", param=f"{param}.tool_calls")
    return arguments


def _tool(tool: Tool) -> Body:
    told: Body = {"name": tool.name, "input_schema": _NO_ARGUMENTS if tool.parameters is None else tool.parameters}
    if tool.description is not None:
        told["description"] = tool.description
    if tool.strict is not None:
        told["strict"] = tool.strict
    return told


def _choice(choice: ToolChoice) -> Body:
    if isinstance(choice, ToolName):
        return {"type": "tool", "name": choice.name}
    return {"type": "any" if choice == "required" else choice}
