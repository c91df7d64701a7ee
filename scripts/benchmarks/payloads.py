"""What is sent, and what must come back: the same tensors and texts for every peer, each with the model's own answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from scripts.benchmarks.models import WIDTHS, Floats, Truth
from scripts.benchmarks.peers import Peer

__all__ = ["TARGETS", "Payload", "Target", "json_request", "stream_request", "target"]

_SEED: Final = 7
_DIGITS: Final = 4
_TOLERANCE: Final = 2e-3  # of the largest number: what another order of additions and text may change
_SLACK: Final = 9  # characters by which one number's text may differ between two correct answers
_CALL: Final = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
_JSON: Final = b"application/json"
# Each is one token of the model's vocabulary.
_WORDS: Final = [
    "the",
    "house",
    "of",
    "time",
    "was",
    "long",
    "and",
    "water",
    "over",
    "light",
    "in",
    "small",
    "world",
    "music",
]


@dataclass(frozen=True)
class Payload:
    """A body and what the model says to it. `head`: bytes of JSON before a binary tensor; 0 where all is JSON."""

    body: bytes
    expected: Floats
    head: int = 0

    def request(self, path: str) -> bytes:
        kind = b"application/octet-stream" if self.head else _JSON
        more = b"Inference-Header-Content-Length: %d\r\n" % self.head if self.head else b""
        return _CALL % (path.encode(), kind, len(self.body), more) + self.body


@dataclass(frozen=True)
class Target:
    """One address of one peer.

    Attributes:
        read: The numbers in an answer's body.
    """

    name: str
    path: str
    payloads: list[Payload]
    read: Callable[[Any], list[float]]

    def requests(self) -> list[bytes]:
        """Whole HTTP requests."""
        return [payload.request(self.path) for payload in self.payloads]

    def is_right(self, number: int, status: int, body: bytes) -> bool:
        """Whether this is the answer to payload `number`."""
        if status != 200:
            return False
        try:
            return self.is_near(number, self.read(orjson.loads(body)))
        except (KeyError, IndexError, TypeError, ValueError):
            return False

    def is_near(self, number: int, numbers: Any) -> bool:
        """Whether these are the model's own answer to payload `number`."""
        expected = self.payloads[number].expected.reshape(-1)
        got = np.asarray(numbers, np.float32).reshape(-1)
        if got.shape != expected.shape:
            return False
        return bool(np.abs(got - expected).max() <= _TOLERANCE * max(1e-6, float(np.abs(expected).max())))

    def slack(self) -> int:
        """By how many bytes the answers may differ in length."""
        return 64 + _SLACK * int(self.payloads[0].expected.size)


@dataclass(frozen=True)
class _Kind:
    model: str
    rows: int
    variants: int
    binary: bool = False


_TENSORS: Final = {
    "small": _Kind("small", 1, 64),
    "small-binary": _Kind("small", 1, 64, binary=True),
    "mid": _Kind("mid", 1, 64),
    "mid-32": _Kind("mid", 32, 16),
    "tensor-1mb": _Kind("rowmean", 256, 4),
    "tensor-10mb": _Kind("rowmean", 2560, 2),
    "binary-1mb": _Kind("rowmean", 256, 4, binary=True),
    "binary-10mb": _Kind("rowmean", 2560, 2, binary=True),
    "mid-32-binary": _Kind("mid", 32, 16, binary=True),
}
TARGETS: Final = [*_TENSORS, "minilm"]
_cache: dict[tuple[str, str], list[Payload]] = {}


def target(peer: Peer, name: str, truth: Truth) -> Target:
    """How this peer is asked for that."""
    style = peer.style if name == "minilm" else "tensors"
    if (name, style) not in _cache:
        _cache[name, style] = _text_payloads(style, truth) if name == "minilm" else _tensor_payloads(name, truth)
    payloads = _cache[name, style]
    if name != "minilm":
        read = _read_bento if peer.style == "bento" else _read_v2
        return Target(name, f"/v2/models/{_TENSORS[name].model}/infer", payloads, read)
    paths = {"v2": "/v2/models/minilm/infer", "ours": "/v1/workflows/minilm/inference"}
    reads: dict[str, Callable[[Any], list[float]]] = {"v2": _read_v2, "bento": lambda answer: answer[0]}
    return Target(name, paths.get(style, "/embed"), payloads, reads.get(style, lambda answer: answer["embedding"]))


def stream_request(peer: Peer, tokens: int, delay_ms: float) -> bytes:
    """A whole HTTP request for a stream of tokens."""
    paths = {
        "ours": "/v1/workflows/stream/stream",
        "mlserver": "/v2/models/stream/infer_stream",
        "pytriton": "/v2/models/stream/generate_stream",
    }
    body: dict[str, Any] = {"tokens": tokens, "delay_ms": delay_ms}
    if peer.environment == "mlserver":
        wanted = {"name": "wanted", "shape": [1, 2], "datatype": "FP32", "data": [tokens, delay_ms]}
        body = {"inputs": [wanted]}
    return json_request(paths.get("ours" if peer.is_ours else peer.environment, "/stream"), body)


def json_request(path: str, body: Any) -> bytes:
    """A whole HTTP request."""
    content = orjson.dumps(body)
    return _CALL % (path.encode(), _JSON, len(content), b"") + content


def _read_v2(answer: Any) -> list[float]:
    data: list[float] = answer["outputs"][0]["data"]
    return data


def _read_bento(answer: Any) -> list[float]:
    data: list[float] = answer[0]["data"]
    return data


def _tensor_payloads(name: str, truth: Truth) -> list[Payload]:
    kind, random = _TENSORS[name], np.random.default_rng(_SEED)
    shape = (kind.rows, WIDTHS[kind.model][0])
    made = []
    for _ in range(kind.variants):
        exact = np.round(random.normal(0, 1, shape), _DIGITS)
        x = exact.astype(np.float32)
        tensor: dict[str, Any] = {"name": "x", "shape": shape, "datatype": "FP32"}
        if kind.binary:
            tensor["parameters"] = {"binary_data_size": x.nbytes}
            head = orjson.dumps({"inputs": [tensor]})
            made.append(Payload(head + x.tobytes(), truth.run(kind.model, x), len(head)))
        else:
            tensor["data"] = exact.reshape(-1).tolist()
            made.append(Payload(orjson.dumps({"inputs": [tensor]}), truth.run(kind.model, x)))
    return made


def _text_payloads(style: str, truth: Truth) -> list[Payload]:
    random = np.random.default_rng(_SEED)
    made = []
    for length in random.integers(8, 257, 64):
        text = " ".join(random.choice(_WORDS, int(length) - 2))  # with a token for the begin and one for the end
        body: dict[str, Any] = {"text": text}
        if style == "v2":
            body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}
        elif style == "bento":
            body = {"text": [text]}
        made.append(Payload(orjson.dumps(body), truth.embed(text)))
    return made
