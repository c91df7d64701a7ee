"""A router in front of a scripted language model that tells its tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import ReplicaLost

__all__ = ["FEW", "Model", "chunk", "events", "house", "token"]

USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
END = {"id": 0, "text": "</s>", "logprob": -0.5, "special": True}
FEW: dict[str, Any] = {"inputs": "hi"}


def token(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "text": text, "logprob": -0.25, "special": False, "top": [], **more}


def chunk(text: str, *tokens: Any, **last: Any) -> dict[str, Any]:
    """A chunk that tells these tokens; `last` is what only the last one of a stream says."""
    ended = {"usage": USAGE, **last} if "finish_reason" in last else {"finish_reason": None, "usage": None}
    return {"text": text, "tokens": list(tokens), **ended}


class Model:
    """Answers with these groups of chunks, or with all of them folded."""

    def __init__(self, *groups: list[Any]) -> None:
        self.groups = groups
        self.seen: list[Any] = []
        self.client = ScriptedClient(self._whole, self._pieces)

    async def _whole(self, input_data: Any, call: CallContext) -> Any:
        self.seen.append(input_data)
        chunks = [chunk for group in self.groups for chunk in group]
        told = [token for chunk in chunks for token in chunk.get("tokens", ())]
        tokens = {"tokens": told} if "tokens" in chunks[0] and "top_logprobs" in input_data else {}
        return {**chunks[-1], "text": "".join(chunk["text"] for chunk in chunks), **tokens}

    async def _pieces(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        self.seen.append(input_data)
        said = input_data["messages"][-1]["content"] if "messages" in input_data else input_data["prompt"]
        for group in self.groups:
            if said == "break" and group is self.groups[-1]:
                raise ReplicaLost(may_have_run=True)
            yield group


def house(model: Model | None = None, **args: Any) -> Front:
    """`m` is that model, and there are a workflow that takes tensors and one that was never ready."""
    made = Front(**args)
    made.add("m", (model or Model([chunk("a", token(1, "a"), finish_reason="length")])).client, kind="generate")
    made.add("tensors", kind="tensors")
    made.add("new", kind="generate", state="loading", reason="downloading", with_card=False)
    return made


def events(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event]
