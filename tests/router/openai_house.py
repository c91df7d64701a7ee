"""A front with workflows that say what the test has put into their mouths, for OpenAI's protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from deployments.router.keys import Keys
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import ContextTooLong, ReplicaLost
from workflows.types import Embed, Generate

__all__ = ["CHAT", "EMBED", "TEXT", "House", "events", "exact", "token"]

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
EMBED: Final = "/v1/embeddings"


def token(text: str, logprob: float = -0.5, *others: tuple[str, float], special: bool = False) -> dict[str, Any]:
    top = [{"id": 9, "text": other, "logprob": chance} for other, chance in others]
    return {"id": 7, "text": text, "logprob": logprob, "special": special, "top": top}


class House(Front):
    """`gpt` (also `org/gpt`) generates and streams, `slow` does not stream, `vectors` embeds, `tensors` is for none of it.

    What `gpt` says depends on the prompt: its words, one for a chunk, each with the seed behind it if there is one; the
    prompts `break` and `long` fail. Vectors are the text's length, or what the tokens are.

    Attributes:
        seen: What the workflows were asked, checked against their types.
    """

    def __init__(self, keys: Keys | None = None, **args: Any) -> None:
        super().__init__(keys, **args)
        self.seen: list[Any] = []
        self.gpt = self.add("gpt", ScriptedClient(self.whole, self.pieces), kind="generate", aliases=["org/gpt"])
        self.add("slow", ScriptedClient(self.whole), kind="generate")
        self.add("vectors", ScriptedClient(self.vector), kind="embed")
        self.add("tensors", kind="tensors")

    async def whole(self, input_data: Any, call: CallContext) -> Any:
        chunks = [chunk async for group in self.pieces(input_data) for chunk in group]
        text = "".join(chunk["text"] for chunk in chunks)
        said = {**chunks[-1], "text": text}
        if "tokens" in said:
            said["tokens"] = [each for chunk in chunks for each in chunk["tokens"]]
        return said

    async def pieces(self, input_data: Any) -> AsyncGenerator[list[Any]]:
        Generate.model_validate(input_data)
        self.seen.append(input_data)
        prompt = input_data.get("prompt") or input_data.get("prompt_tokens") or input_data["messages"][-1]["content"]
        if prompt == "long":
            raise ContextTooLong("context length exceeded: 9 tokens, and 8 fit", param="prompt")
        words = [str(word) for word in (prompt.split() if isinstance(prompt, str) else prompt)]
        seed = input_data["sampling"].get("seed")
        for word in words:
            if word == "break":
                raise ReplicaLost(may_have_run=True)
            text = word if seed is None else f"{word}{seed}"
            yield [self.chunk(input_data, text)]
        last = self.chunk(input_data, "")
        if "tokens" in last:
            last["tokens"] = [token("</s>", special=True)]
        usage = {"prompt_tokens": len(words), "completion_tokens": len(words) + 1, "cached_tokens": 1}
        yield [{**last, "finish_reason": "stop", "usage": usage}]

    def chunk(self, asked: Any, text: str) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text, "finish_reason": None, "usage": None}
        if asked.get("top_logprobs") is not None:
            said["tokens"] = [token(text, -0.5, (text, -0.5), ("x", -2.0), ("x", -3.0))]
        return said

    async def vector(self, input_data: Any, call: CallContext) -> Any:
        asked = Embed.model_validate(input_data)
        self.seen.append(input_data)
        if asked.text == "long":
            raise ContextTooLong("context length exceeded: 9 tokens, and 8 fit", param="text")
        said = [float(len(asked.text or ""))] if asked.tokens is None else [0.1 * each for each in asked.tokens]
        return {"embedding": np.array(said, np.float32)[: asked.dimensions], "tokens": len(said)}


def events(text: str) -> list[Any]:
    """A whole stream's events as JSON; its end mark is there and stands at the end."""
    *found, mark, nothing = text.split("\n\n")
    assert (mark, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


def exact(kind: type[BaseModel], value: Any) -> Any:
    """A value as the official client's type, which has a name for each of its fields, and takes it as it is."""
    found = kind.model_validate_json(json.dumps(value), strict=True)
    _nothing_unknown(found)
    return found


def _nothing_unknown(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list):
        for part in value:
            _nothing_unknown(part)
