"""Fuzz targets: OpenAI's requests.

For any bytes there is an error of the caller's that names a field, or inputs that the workflow's own types take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from deployments.router.json_body import parse_json
from deployments.router.protocols.openai.chat import chat_inputs
from deployments.router.protocols.openai.completions import completion_inputs
from deployments.router.protocols.openai.embeddings import embedding_inputs
from deployments.router.protocols.openai.speech import speech_input
from deployments.router.protocols.tables import OPENAI
from deployments.router.refusals import BadJson
from tests.fuzz.bounded import bounded
from tests.fuzz.chat_parts import chat_fields, turn
from tests.fuzz.http_targets import LIMITS
from tests.fuzz.picks import Picks
from workflows.errors import InvalidInput
from workflows.types import Embed, Generate, Speak

__all__ = ["PLACE", "any_openai_body", "nearly_right_openai_body"]


def _speech_inputs(body: Any, most: int) -> tuple[Any, list[Any]]:
    asked, input_data = speech_input(body)
    return asked, [input_data]


MOST: Final = 16
PLACE: Final = re.compile(r"[a-z_]+(\.([a-z_]+|[0-9]+))*")
"""What names a field to a caller: names that stand in the body, and numbers."""
KINDS: Final[list[tuple[Callable[[Any, int], tuple[Any, list[Any]]], type[BaseModel]]]] = [
    (chat_inputs, Generate),
    (completion_inputs, Generate),
    (embedding_inputs, Embed),
    (_speech_inputs, Speak),
]
_SOURCES: Final[list[Any]] = ["a", ["a", "é"], [0, 5], [[1], [2, 3]], "", [(1 << 31) - 1]]
_ODD: Final[list[Any]] = [
    True,
    -1,
    1e300,
    "x" * 300,
    [],
    {},
    [None],
    {"a": {"a": 1}},
    1 << 62,
    [[]],
    [1, "a"],
    0.5,
    3000,
]
_SHARED: Final[Mapping[str, list[Any]]] = {
    "n": [1, 2, 4],
    "max_tokens": [1, 7, 1 << 20],
    "temperature": [0, 0.7, 2],
    "top_p": [0, 0.5, 1],
    "stop": ["x", ["x", "é"], []],
    "seed": [0, -1, (1 << 63) - 1, -(1 << 63)],
    "logit_bias": [{}, {"5": -100, "0": 0.5}],
    "presence_penalty": [-2, 2],
    "top_k": [-1, 0, 1, 50],
    "min_p": [0, 1],
    "repetition_penalty": [0.01, 100],
    "min_tokens": [0, 3],
    "truncate_prompt_tokens": [1],
    "include_stop_str_in_output": [True, False],
    "user": ["u"],
    "nobody_knows": [1, {"a": []}],
}
_OWN: Final[list[Mapping[str, list[Any]]]] = [
    {"max_completion_tokens": [1, 9], "logprobs": [True, False]},
    {"echo": [True, False], "suffix": [""], "response_format": [{"type": "text"}]},
    {"dimensions": [1, 8], "encoding_format": ["float", "base64"], "user": ["u"]},
    {
        "voice": ["ann", {"id": "v2/bob"}],
        "response_format": ["mp3", "opus", "flac", "wav", "pcm"],
        "speed": [0.25, 1, 4],
        "sample_rate": [8000, 24000],
        "stream_format": ["audio", "sse"],
        "seed": [0, (1 << 63) - 1],
        "language": ["en", "pt-BR"],
        "instructions": [""],
    },
]


def any_openai_body(data: bytes) -> None:
    """A body as it comes; the first byte says of which request."""
    picks = Picks(data)
    _check(picks.below(len(KINDS)), picks.rest())


def nearly_right_openai_body(data: bytes) -> None:
    """A body of likely fields, and then perhaps of one byte that is not. Where nothing odd was picked it is taken."""
    picks = Picks(data)
    kind = picks.below(len(KINDS))
    body: dict[str, Any] = {"model": picks.likely(["m", "org/m"], _ODD), **_what(picks, kind)}
    known = {**(_SHARED if kind < 2 else {}), **_OWN[kind]}
    for _ in range(picks.below(6)):
        name = picks.one_of(list(known))
        body[name] = None if picks.below(8) == 1 else picks.likely(known[name], _ODD)
    raw = json.dumps(body, ensure_ascii=False).encode()
    if picks.rarely():
        place = picks.below(256) % len(raw)
        raw = raw[:place] + picks.take(1) + raw[place + 1 :]
    inputs = _check(kind, raw)
    assert inputs is not None or picks.odd
    if inputs is not None and not picks.odd:
        source: Any = body.get("prompt") or body.get("input")
        texts = len(source) if isinstance(source, list) and not isinstance(source[0], int) else 1
        assert len(inputs) == (body.get("n") or 1) * texts


def _what(picks: Picks, kind: int) -> dict[str, Any]:
    """What the request is about."""
    if kind == 3:
        return {"input": picks.likely(["a", "é", "\u0000"], ["", *_ODD])}
    if kind:
        return {"prompt" if kind == 1 else "input": picks.likely(_SOURCES, _ODD)}
    turns = [turn(picks) for _ in range(1 + picks.below(3))]
    return {"messages": picks.likely([turns], _ODD), **chat_fields(picks)}


def _check(kind: int, body: bytes) -> list[Any] | None:
    """The inputs, if it is a request."""
    inputs_of, exchange = KINDS[kind]
    try:
        with bounded(len(body)):
            _, inputs = inputs_of(parse_json(body, LIMITS), MOST)
    except BadJson:
        return None
    except InvalidInput as error:
        told = json.loads(json.dumps(OPENAI.body(error, "r")))["error"]
        assert told["code"] == "invalid_value"
        if told["param"] is not None:
            assert told["message"].startswith(told["param"])
            assert PLACE.fullmatch(told["param"]), told
        return None
    assert 0 < len(inputs) <= MOST
    faults = {fault for each in inputs for fault in _faults(exchange, each)}
    assert faults <= {("data",)}  # a picture's bytes are left to the workflow
    return None if faults else inputs


def _faults(kind: type[BaseModel], value: Any) -> list[tuple[int | str, ...]]:
    """The last names of the fields that are not as the type has them."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        return [problem["loc"][-1:] for problem in error.errors()]
    return []
