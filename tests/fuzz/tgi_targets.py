"""Fuzz targets: requests of Text Generation Inference's protocol, and streams of tokens told in it.

For any bytes there is an error of the caller's, or an input that every text workflow takes. However a text is cut into
tokens and chunks, what is told of them joins to the text again.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

from deployments.config import Limits
from deployments.router.json_body import parse_json
from deployments.router.protocols.tgi.answers import Telling, whole_answer
from deployments.router.protocols.tgi.parameters import Asked, Parameters, read_request
from deployments.router.refusals import BadJson
from tests.fuzz.bounded import bounded
from tests.fuzz.picks import Picks
from workflows.card import Card
from workflows.errors import BadOutput, InvalidInput
from workflows.types import Generate

__all__ = ["any_tgi_answer", "any_tgi_request", "nearly_right_tgi_request", "told_tgi_stream"]

LIMITS: Final = Limits(max_json_elements=2000, max_json_depth=16)
CARD: Final = Card(name="m", summary="", kind="generate", input_schema={}, output_schema={})
GOOD: Final[dict[str, list[Any]]] = {
    "max_new_tokens": [1, 1 << 20, None],
    "do_sample": [True, False, None],
    "temperature": [1, 0.5, 2.0, 1e-300],
    "top_k": [1, 50],
    "top_p": [0.5, 1e-300, 0.999],
    "typical_p": [0.5],
    "repetition_penalty": [0.01, 1, 100],
    "frequency_penalty": [-2, 0, 2.0],
    "seed": [0, (1 << 63) - 1],
    "stop": [[], ["a"], ["é" * 256] * 16],
    "return_full_text": [True, None],
    "truncate": [1, 1 << 20],
    "details": [True, False],
    "top_n_tokens": [0, 20],
    "best_of": [1, None],
    "watermark": [False, None],
    "decoder_input_details": [False],
    "grammar": [None],
    "adapter_id": [None],
}
ODD: Final[list[Any]] = [-1, 0.0, 3.5, 1 << 63, 1 << 70, "1", [""], {}, ["a"] * 17, 1e300]
TEXTS: Final = ["a", " b", "é", "中", "", "</s>", "\u0000"]


def any_tgi_request(data: bytes) -> None:
    """A whole body."""
    _check(data)


def nearly_right_tgi_request(data: bytes) -> None:
    """A body of likely fields; where nothing odd was picked it has to be taken."""
    picks = Picks(data)
    body: dict[str, Any] = {"inputs": picks.likely(["a", "é \u0000"], ["", 1, None, ["a"]])}
    parameters = {
        picks.likely([name], [f"{name}s"]): picks.likely(values, ODD) for name, values in GOOD.items() if picks.below(2)
    }
    body["parameters"] = picks.likely([parameters, parameters, None], [[], "a"])
    if picks.below(4) == 1:
        body["stream"] = picks.likely([True, False, None], [1, "true"])
    asked = _check(json.dumps(body).encode())
    assert asked is not None or picks.odd
    if asked is not None:
        said = body["parameters"] or {}
        assert asked.parameters.model_dump() == {**Parameters().model_dump(), **said}


def any_tgi_answer(data: bytes) -> None:
    """Any JSON as an answer and as a chunk of one."""
    picks = Picks(data)
    asked = Asked("hi", Parameters(details=bool(picks.below(2)), top_n_tokens=picks.below(3)), None)
    try:
        given = parse_json(picks.rest(), LIMITS)
    except (BadJson, InvalidInput):
        return
    for tell in (lambda: whole_answer(asked, given), lambda: Telling(asked).event(given)):
        try:
            tell()
        except (BadOutput, InvalidInput):
            continue
        assert isinstance(given["text"], str)


def told_tgi_stream(data: bytes) -> None:
    """A text in tokens, which are told alone or several at once, with text that may come later than they."""
    picks = Picks(data)
    asked = Asked("hi", Parameters(details=True, return_full_text=bool(picks.below(2))), None)
    telling, held, text = Telling(asked), "", ""
    told: list[Any] = []
    ids: list[int] = []
    for _ in range(1 + picks.below(8)):
        tokens = []
        for _ in range(picks.below(4)):
            special, own = picks.below(8) == 1, picks.one_of(TEXTS)
            ids.append(len(ids))
            shown = "\N{REPLACEMENT CHARACTER}" if picks.below(4) == 1 else own
            tokens.append({"id": ids[-1], "text": shown, "logprob": -0.5, "special": special})
            held += "" if special else own
        kept = picks.below(3) if picks.below(2) else 0
        piece, held = held[: len(held) - kept], held[max(0, len(held) - kept) :]
        text += piece
        told += _events(telling.event({"text": piece, "tokens": tokens, "finish_reason": None}))
    ids.append(len(ids))
    usage = {"prompt_tokens": 1, "completion_tokens": len(ids)}
    last = [{"id": ids[-1], "text": "x", "logprob": -0.5, "special": False}]
    told += _events(telling.event({"text": f"{held}x", "tokens": last, "finish_reason": "stop", "usage": usage}))
    text += f"{held}x"
    assert [event["index"] for event in told] == list(range(1, len(told) + 1))
    assert [event["token"]["id"] for event in told] == ids
    assert "".join(event["token"]["text"] for event in told if not event["token"]["special"]) == text
    assert [event["generated_text"] for event in told[:-1]] == [None] * (len(told) - 1)
    assert told[-1]["generated_text"] == ("hi" if asked.parameters.return_full_text else "") + text


def _events(raw: bytes) -> list[Any]:
    return [orjson.loads(event.removeprefix(b"data: ")) for event in raw.split(b"\n\n") if event]


def _check(body: bytes) -> Asked | None:
    """The request, if it is one."""
    try:
        with bounded(len(body)):
            asked = read_request(CARD, parse_json(body, LIMITS))
    except (BadJson, InvalidInput):
        return None
    for streaming in (False, True):
        Generate.model_validate(asked.input_data(streaming=streaming))
    return asked
