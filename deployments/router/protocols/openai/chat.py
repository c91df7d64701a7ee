"""`POST /v1/chat/completions`: a conversation, and what the assistant says next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.openai.generation import Answers, answer, chosen_to_write, inputs_of, sampling_of
from deployments.router.protocols.openai.logprobs import told_tokens
from deployments.router.protocols.openai.requests import CHAT_REFUSED, ChatRequest, read
from deployments.router.protocols.openai.turns import tools_said
from deployments.router.request import Reply, Request
from workflows.errors import BadOutput, InvalidInput

__all__ = ["chat_completions", "chat_inputs"]


async def chat_completions(
    workflows: Workflows, request: Request, body: Any, entry: Entry | None = None
) -> Reply | None:
    """Answer a chat request, given as the JSON value of its body; None if the answer was a stream, which is sent then.

    Raises the error tree: whoever calls this answers errors as its own protocol has it, also within a stream.

    Args:
        entry: The workflow that answers, where something else than the body has named it: then the body's `model` may be
            anything, or missing.
    """
    asked, inputs = chat_inputs(body, request.limits.max_batch_items)
    entry = chosen_to_write(workflows, request, asked, entry)
    return await answer(workflows, request, entry, asked, inputs, _ChatAnswers(request, asked, entry))


def chat_inputs(body: Any, most: int) -> tuple[ChatRequest, list[dict[str, Any]]]:
    """The request in a body, and what the workflow is asked for each answer. Raises InvalidInput."""
    asked = read(ChatRequest, body, CHAT_REFUSED)
    prompt: dict[str, Any] = {"messages": [turn.said() for turn in asked.messages], **_beside(asked)}
    if asked.logprobs:
        prompt["top_logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs is not None:
        raise InvalidInput("top_logprobs: only with logprobs", param="top_logprobs")
    max_tokens = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    return asked, inputs_of(asked, [prompt], sampling_of(asked, max_tokens), most)


def _beside(asked: ChatRequest) -> dict[str, Any]:
    """What is asked beside the conversation itself. Raises InvalidInput."""
    try:
        said = tools_said(asked.tools, asked.tool_choice, asked.parallel_tool_calls)
    except ValueError as error:
        param, _, _ = str(error).partition(":")
        raise InvalidInput(str(error), param=param) from None
    wanted = asked.response_format.said() if asked.response_format is not None else None
    return said if wanted is None else {**said, "response_format": wanted}


class _ChatAnswers(Answers):
    kind = "chat.completion"
    kind_of_chunk = "chat.completion.chunk"

    def __init__(self, request: Request, asked: ChatRequest, entry: Entry) -> None:
        super().__init__(request, "chatcmpl", asked, entry.known_as)
        self._begun: set[int] = set()

    def choice(self, index: int, output: Mapping[str, Any]) -> dict[str, Any]:
        calls = output.get("tool_calls")
        message = {"role": "assistant", "content": output["text"], "refusal": None}
        if calls:
            message |= {"content": output["text"] or None, "tool_calls": _told(calls, _call)}
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs(output),
            "finish_reason": output.get("finish_reason"),
        }

    def pieces(self, index: int, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The role first, then text and calls, and at last why it ends, each by itself."""
        if index not in self._begun:
            self._begun.add(index)
            yield _piece(index, {"role": "assistant", "content": "", "refusal": None})
        logprobs = _logprobs(chunk)
        if chunk["text"] or (logprobs and logprobs["content"]):
            yield {**_piece(index, {"content": chunk["text"]}), "logprobs": logprobs}
        if chunk.get("tool_calls"):
            yield _piece(index, {"tool_calls": _told(chunk["tool_calls"], _call_piece)})
        if chunk.get("finish_reason") is not None:
            yield {**_piece(index, {}), "finish_reason": chunk["finish_reason"]}


def _piece(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _told(calls: Any, tell: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    """Raises BadOutput for what are no calls."""
    try:
        return [tell(call) for call in calls]
    except (KeyError, TypeError, AttributeError) as cause:
        raise BadOutput("the workflow gave no tool calls") from cause


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": call["id"], "type": "function", "function": function}


def _call_piece(piece: Mapping[str, Any]) -> dict[str, Any]:
    """Id, type and name only in the first piece of a call, as clients join what they get."""
    function = {"arguments": piece.get("arguments", "")}
    if piece.get("name") is not None:
        function["name"] = piece["name"]
    said: dict[str, Any] = {"index": piece["index"], "function": function}
    return said if piece.get("id") is None else {**said, "id": piece["id"], "type": "function"}


def _logprobs(said: Mapping[str, Any]) -> dict[str, Any] | None:
    tokens = said.get("tokens")
    return None if tokens is None else {"content": told_tokens(tokens), "refusal": None}
