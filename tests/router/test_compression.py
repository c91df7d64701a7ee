"""Compressed answers: as the caller likes, only where it pays, and never on the way in."""

import gzip
import zlib
from typing import Any

import pytest

from tests.router.router_front import Front

PATH = "/v2/models/m/infer"


def body(elements: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [elements], "data": [0.5] * elements}]}


async def raw(elements: int, accept: str | None, binary: bool = False) -> tuple[dict[str, str], bytes]:
    front = Front()
    front.add("m", kind="tensors")
    asked = body(elements) | {"parameters": {"binary_data_output": binary}}
    headers = {} if accept is None else {"accept-encoding": accept}
    answer = await front.post(PATH, asked, headers={"accept-encoding": "identity", **headers})
    return dict(answer.headers), answer.content


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP", "gzip"),
        ("br, gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("gzip ; q=1.0 , deflate", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("*", None),
        ("", None),
        ("gzip;q=2", None),
        ("gzip;level=1", None),
        ("identity", None),
    ],
)
@pytest.mark.parametrize("elements", [1000, 100_000], ids=["at once", "on a thread"])
async def test_the_caller_chooses(accept: str, coding: str | None, elements: int) -> None:
    _, plain = await raw(elements, "identity")
    headers, answer = await raw(elements, accept)  # httpx has undone what it was told of
    assert headers.get("content-encoding") == coding
    assert answer == plain
    if coding is not None:
        assert headers["vary"] == "accept-encoding"
        assert int(headers["content-length"]) < len(plain) / 10


async def test_binary_tensors_are_compressed_as_a_whole() -> None:
    headers, answer = await raw(10_000, "gzip", binary=True)
    head = int(headers["inference-header-content-length"])  # of what was compressed
    assert headers["content-encoding"] == "gzip"
    assert len(answer) - head == 40_000


async def test_small_answers_are_left_alone() -> None:
    headers, _ = await raw(10, "gzip")
    assert "content-encoding" not in headers


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_nothing_compressed_comes_in(pack: Any) -> None:
    front = Front()
    front.add("m", kind="tensors")
    coding = "gzip" if pack is gzip.compress else "deflate"
    answer = await front.post(PATH, pack(b"{}"), headers={"content-encoding": coding})
    assert (answer.status_code, answer.json()) == (415, {"error": "compressed bodies are not accepted"})
