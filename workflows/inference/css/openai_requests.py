"""Bodies of requests as OpenAI has them, and those who follow it. Sends nothing; what a provider takes, its row says."""

from __future__ import annotations

from typing import Any

from workflows.errors import Unsupported
from workflows.inference.css.parameters import check_generate, most_tokens, sampling_of
from workflows.inference.css.providers import Takes
from workflows.types.conversation import Message, TextPart
from workflows.types.embed import Embed
from workflows.types.text import Generate
from workflows.types.tools import ResponseFormat, Tool, ToolChoice, ToolName

__all__ = ["chat_body", "completion_body", "embedding_body"]

Body = dict[str, Any]


def chat_body(asked: Generate, takes: Takes, provider: str, most: int | None) -> Body:
    """A conversation's. `most`: what no answer may be longer than.

    Raises Unsupported and InvalidInput.
    """
    check_generate(asked, takes, provider)
    turns = asked.messages or []
    body: Body = {"messages": [_message(turn) for turn in turns]}
    body |= sampling_of(asked, takes, provider) | _length(asked, takes, most) | _others(asked, takes)
    if asked.tools is not None and takes.parameters["tools"] is not None:
        body["tools"] = [_tool(tool) for tool in asked.tools]
        if asked.tool_choice is not None:
            body["tool_choice"] = _choice(asked.tool_choice)
        if asked.parallel_tool_calls is not None and (wire := takes.parameters["parallel_tool_calls"]) is not None:
            body[wire] = asked.parallel_tool_calls
    if asked.response_format is not None and asked.response_format.type != "text":
        wire = takes.parameters["response_format"]
        if wire is not None:
            body[wire] = _format(asked.response_format)
    return body


def completion_body(asked: Generate, takes: Takes, provider: str, most: int | None) -> Body:
    """A text's to continue; a conversation can be one, if it is a single message of a user. Raises as `chat_body`."""
    check_generate(asked, takes, provider)
    body: Body = {"prompt": _only_text(asked, provider) if asked.prompt_tokens is None else asked.prompt_tokens}
    return body | sampling_of(asked, takes, provider) | _length(asked, takes, most) | _others(asked, takes)


def embedding_body(asked: Embed, takes: Takes) -> Body:
    """A text's. What the row does not have was refused before, by `check_embed`."""
    body: Body = {"input": asked.text if asked.tokens is None else asked.tokens}
    if asked.dimensions is not None and (wire := takes.parameters["dimensions"]) is not None:
        body[wire] = asked.dimensions
    if asked.truncate and (wire := takes.parameters["truncate"]) is not None:
        body[wire] = True
    if takes.base64:
        body["encoding_format"] = "base64"
    return body


def _length(asked: Generate, takes: Takes, most: int | None) -> Body:
    length, wire = most_tokens(asked, most), takes.parameters.get("max_tokens")
    return {} if length is None or wire is None else {wire: length}


def _others(asked: Generate, takes: Takes) -> Body:
    """What stands beside text, sampling and tools."""
    body: Body = {}
    if asked.truncate is not None and (wire := takes.parameters["truncate"]) is not None:
        body[wire] = asked.truncate
    if asked.include_stop and asked.sampling.stop and (wire := takes.parameters.get("include_stop")) is not None:
        body[wire] = True
    if asked.top_logprobs is not None and (wire := takes.parameters["top_logprobs"]) is not None:
        if takes.logprobs == "flag":
            body |= {"logprobs": True, wire: asked.top_logprobs}
        else:
            body["logprobs"] = asked.top_logprobs
    return body


def _only_text(asked: Generate, provider: str) -> str:
    if asked.messages is None:
        return asked.prompt or ""
    if len(asked.messages) != 1 or asked.messages[0].role != "user" or asked.messages[0].images:
        raise Unsupported(f"messages: {provider} continues texts here, and holds no conversations", param="messages")
    return asked.messages[0].text


def _message(turn: Message) -> Body:
    message: Body = {"role": turn.role, "content": _content(turn)}
    if turn.tool_calls is not None:
        message["content"] = message["content"] or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _content(turn: Message) -> str | list[Body]:
    """Text alone as text: not everybody who follows OpenAI reads parts."""
    if not turn.images:
        return turn.text
    parts: list[Body] = []
    for part in turn.content if not isinstance(turn.content, str) else ():
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            image = {"url": part.data_url if part.type == "image" else part.url}
            parts.append({"type": "image_url", "image_url": image | ({"detail": part.detail} if part.detail else {})})
    return parts


def _tool(tool: Tool) -> Body:
    return {
        "type": "function",
        "function": tool.model_dump(include={*tool.model_fields_set, "name"}, exclude_none=True),
    }


def _choice(choice: ToolChoice) -> str | Body:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, ToolName) else choice


def _format(form: ResponseFormat) -> Body:
    if form.type != "json_schema":
        return {"type": form.type}
    told: Body = {"name": form.name, "schema": form.json_schema}
    if form.description is not None:
        told["description"] = form.description
    if form.strict is not None:
        told["strict"] = form.strict
    return {"type": "json_schema", "json_schema": told}
