"""How the two families of providers speak, for the contract of remote workflows and for answers written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.workflows.remote.contract_upstream import ANSWER, KEY, Dialect
from workflows.inference.css.asked import AskEmbedding, AskText
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.remote.clock import Clock
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef

__all__ = ["DIALECTS", "DONE", "EMBEDDINGS", "anthropic_events", "chat_events", "event", "typed"]

DONE: Final = b"data: [DONE]\n\n"


def event(told: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(told).encode()


def typed(told: Mapping[str, Any]) -> bytes:
    """As Anthropic names its events."""
    return b"event: %b\n%b" % (str(told["type"]).encode(), event(told))


def chat_events(texts: Sequence[str], usage: Mapping[str, Any] | None = None, **last: Any) -> list[bytes]:
    """A role, texts, an end, perhaps the usage: one event each, without a mark for the end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    told: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}], "usage": None} for delta in deltas]
    told.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **last}], "usage": None})
    if usage is not None:
        told.append({"choices": [], "usage": usage})
    return [event(each) for each in told]


def anthropic_events(texts: Sequence[str], stop_reason: str = "end_turn", **delta: Any) -> list[bytes]:
    """One text of so many pieces."""
    return [
        typed(
            {
                "type": "message_start",
                "message": {"type": "message", "content": [], "usage": {"input_tokens": 7, "output_tokens": 1}},
            }
        ),
        typed({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(
            typed({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
            for text in texts
        ),
        typed({"type": "content_block_stop", "index": 0}),
        typed(
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop_reason, **delta},
                "usage": {"output_tokens": 3},
            }
        ),
        typed({"type": "message_stop"}),
    ]


def _made(options: Mapping[str, Any], url: str, policy: Mapping[str, Any], clock: Clock, key: Path) -> Any:
    made = CSSInferenceWorkflow(
        **options, base_url=url, key=SecretRef(file=str(key)), upstream=UpstreamPolicy.model_validate(policy)
    )
    made.clock = clock
    return made


def _asks_text(prompt: str) -> AskText:
    return AskText.model_validate({"messages": [{"role": "user", "content": prompt}]})


def _text(answer: Any) -> str:
    return str(answer.text)


def _openai_error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "param": message, "code": None}}).encode()


def _anthropic_error(message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": "x_error", "message": message}}).encode()


def _key_in(name: str, prefix: str = "") -> Callable[[Mapping[str, str]], bool]:
    others = {"authorization", "api-key", "x-api-key"} - {name}
    return lambda headers: headers.get(name) == prefix + KEY and not others & headers.keys()


_HALVES: Final = (ANSWER[:5], ANSWER[5:])
_USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
_MESSAGE: Final = {"role": "assistant", "content": ANSWER}
_OPENAI: Final = {
    "ask": _asks_text,
    "text": _text,
    "whole": json.dumps(
        {"choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}], "usage": _USAGE}
    ).encode(),
    "error": _openai_error,
    "error_event": event({"error": {"message": "the canary of the prompt 55aa"}}),
}


def _up_to_the_end(events: Sequence[bytes]) -> list[bytes]:
    """The last of these parts is what makes the answer whole."""
    cut = next(place for place, each in enumerate(events) if b"finish_reason" in each or b"stop_reason" in each)
    return [*events[:cut], b"".join(events[cut:])]


_CHAT: Final = _up_to_the_end([b"".join(chat_events(_HALVES)[:2]), *chat_events(_HALVES, _USAGE)[2:], DONE])
DIALECTS: Final[Mapping[str, Dialect]] = {
    "openai": Dialect(
        make=partial(_made, {"provider": "openai", "model": "m"}),
        events=_CHAT,
        key_came=_key_in("authorization", "Bearer "),
        **_OPENAI,  # type: ignore[arg-type]
    ),
    "azure": Dialect(
        make=partial(_made, {"provider": "azure", "model": "m", "api_version": "2024-10-21"}),
        events=_CHAT,
        key_came=_key_in("api-key"),
        **_OPENAI,  # type: ignore[arg-type]
    ),
    "anthropic": Dialect(
        make=partial(_made, {"provider": "anthropic", "model": "m"}),
        ask=_asks_text,
        text=_text,
        whole=json.dumps(
            {
                "type": "message",
                "content": [{"type": "text", "text": ANSWER}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 7, "output_tokens": 3},
            }
        ).encode(),
        events=_up_to_the_end([b"".join(anthropic_events(_HALVES)[:3]), *anthropic_events(_HALVES)[3:]]),
        error=_anthropic_error,
        error_event=typed(
            {"type": "error", "error": {"type": "api_error", "message": "the canary of the prompt 55aa"}}
        ),
        key_came=_key_in("authorization", "Bearer "),
    ),
}
EMBEDDINGS: Final = Dialect(
    make=partial(_made, {"provider": "openai", "model": "m", "endpoint": "embeddings"}),
    ask=lambda prompt: AskEmbedding(text=prompt),
    text=lambda answer: ANSWER if answer.embedding.tolist() == [0.5, -0.25] else "",
    whole=json.dumps({"data": [{"index": 0, "embedding": [0.5, -0.25]}], "usage": {"prompt_tokens": 4}}).encode(),
    error=_openai_error,
    key_came=_key_in("authorization", "Bearer "),
)
