"""Texts from a language model over OpenAI's chat protocol, streamed: how many tokens a second, and when the first came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

import orjson

from scripts.benchmarks.models import ANSWER_TOKENS, LANGUAGE_MODEL, Truth
from scripts.benchmarks.open_loop import percentile
from scripts.benchmarks.payloads import json_request
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.streams import Reader

__all__ = ["Prompt", "chat_prompts", "run_texts"]

_PATIENCE_S: Final = 60.0
_BEGINNINGS: Final = (
    "The for statement",
    "A class definition",
    "If the name is not found",
    "The import system",
    "An assignment evaluates",
    "Generators are",
    "The following example",
    "When an exception is raised",
    "A string literal",
    "The value of an attribute",
    "Numbers are created by",
    "The with statement",
)


class Prompt:
    """One request, and the text that the model itself gives for it, greedily."""

    def __init__(self, request: bytes, text: str, tokens: int) -> None:
        self.request = request
        self.text = text
        self.tokens = tokens


def chat_prompts(peer: Peer, truth: Truth) -> list[Prompt]:
    """Beginnings that the demo's language model goes on with, and what it says itself."""
    made = []
    model = "text" if peer.is_ours else str(LANGUAGE_MODEL)
    for begin in _BEGINNINGS:
        text, tokens = truth.generate(begin)
        body = {"model": model, "messages": [{"role": "user", "content": begin}], "stream": True, "temperature": 0}
        made.append(Prompt(json_request("/v1/chat/completions", {**body, "max_tokens": ANSWER_TOKENS}), text, tokens))
    return made


async def run_texts(port: int, prompts: Sequence[Prompt], connections: int, seconds: float) -> dict[str, Any]:
    """Closed loop: so many callers, each of whom asks for the next text when its last one is whole."""
    loop, following = asyncio.get_running_loop(), cycle(prompts)
    firsts, tokens, texts, wrong = list[float](), 0, 0, 0
    began = time.monotonic()

    async def caller() -> None:
        nonlocal tokens, texts, wrong
        while True:
            prompt = next(following)
            transport, reader = await loop.create_connection(Reader, "127.0.0.1", port)
            reader.begin(prompt.request)
            async with asyncio.timeout(_PATIENCE_S):
                await reader.ended
            transport.abort()
            text, first = _read(reader)
            texts += 1
            wrong += text.strip() != prompt.text.strip()
            tokens += prompt.tokens
            if first is not None:
                firsts.append(first - reader.sent)
            if time.monotonic() >= began + seconds:
                return

    await asyncio.gather(*(caller() for _ in range(connections)))
    took = time.monotonic() - began
    firsts.sort()
    return {
        "requests": texts,
        "rate": texts / took,
        "tokens_per_s": tokens / took,
        "first_p50_ms": percentile(firsts, 0.5) * 1e3,
        "first_p99_ms": percentile(firsts, 0.99) * 1e3,
        "wrong": wrong,
    }


def _read(reader: Reader) -> tuple[str, float | None]:
    """The text of an answer and when the first of it was there; empty for what is no answer."""
    pieces: list[str] = []
    first: float | None = None
    if not reader.data.startswith(b"HTTP/1.1 200"):
        return "", None
    for line, end in reader.lines():
        if not line.startswith(b"data: {"):
            continue
        choices = orjson.loads(line[6:]).get("choices") or [{}]
        piece = (choices[0].get("delta") or {}).get("content")
        if piece:
            pieces.append(piece)
            first = reader.time_of(end) if first is None else first
    return "".join(pieces), first
