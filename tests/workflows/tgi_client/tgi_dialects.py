"""How a text-generation-inference server speaks, for the contract of remote workflows: to prompts, and to conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.workflows.remote.contract_upstream import ANSWER, PROMPT, Dialect
from workflows.inference.tgi_client.workflow import TGIClientInferenceWorkflow
from workflows.remote.clock import Clock
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

__all__ = ["CHAT", "PROMPTS", "chat_events", "chat_whole", "tgi_events", "tgi_whole"]

PIECES: Final = (ANSWER[:5], ANSWER[5:])
ENDED: Final[Mapping[str, Any]] = {"finish_reason": "length", "generated_tokens": 2, "seed": None, "input_length": 6}


def event(told: Any) -> bytes:
    return b"data:%b\n\n" % json.dumps(told).encode()


def _token(index: int, text: str) -> dict[str, Any]:
    return {"id": index, "text": text, "logprob": -0.5, "special": False}


def tgi_whole(**details: Any) -> bytes:
    tokens = [_token(index, text) for index, text in enumerate(PIECES)]
    told = {**ENDED, "prefill": [], "tokens": tokens, **details}
    return json.dumps([{"generated_text": ANSWER, "details": told}]).encode()


def tgi_events() -> Sequence[bytes]:
    last = {"token": _token(1, PIECES[1]), "index": 2, "generated_text": ANSWER, "details": ENDED}
    return [event({"token": _token(0, PIECES[0]), "index": 1, "generated_text": None, "details": None}), event(last)]


def chat_whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def chat_events() -> Sequence[bytes]:
    """The last two parts end the answer, tell its usage, and say that nothing follows: in one, since without the first of
    them the answer is not whole."""

    def said(content: str, reason: str | None = None) -> bytes:
        delta = {"role": "assistant", "content": content}
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    usage = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
    end = [said(PIECES[1], "stop"), event({"choices": [], "usage": usage}), b"data: [DONE]\n\n"]
    return [said(PIECES[0]), b"".join(end)]


def _make(url: str, policy: Mapping[str, Any], clock: Clock, key: Path) -> TGIClientInferenceWorkflow:
    options: Any = UpstreamPolicy.model_validate(policy)
    workflow = TGIClientInferenceWorkflow(url, key=SecretRef(file=str(key)), upstream=options, ask_at_setup=False)
    workflow.clock = clock
    return workflow


PROMPTS: Final = Dialect(
    make=_make,
    ask=lambda prompt: {"prompt": prompt},
    text=lambda answer: str(answer.text),
    whole=tgi_whole(),
    events=tgi_events(),
    error=lambda message: json.dumps({"error": message}).encode(),
    error_event=event({"error": PROMPT, "error_type": "generation"}),
)
CHAT: Final = replace(
    PROMPTS,
    ask=lambda prompt: {"messages": [{"role": "user", "content": prompt}]},
    whole=chat_whole(),
    events=chat_events(),
)
