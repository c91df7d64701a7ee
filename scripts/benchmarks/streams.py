"""Streams of tokens: when each arrived, and whether all did. A token's time is that of the read that completed it."""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from scripts.benchmarks.open_loop import percentile

__all__ = ["Reader", "run_streams"]

_TOKEN: Final = re.compile(rb"\bt(\d+)_")
_ENDS: Final = (b"\r\n0\r\n\r\n", b"0\r\n\r\n")


class Reader(asyncio.Protocol):
    """Reads one answer to its end and remembers how many bytes were there at which time."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.sent = 0.0
        self.data = bytearray()
        self.lengths: list[int] = []
        self.times: list[float] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def begin(self, request: bytes) -> None:
        self.sent = time.monotonic()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.lengths.append(len(self.data))
        self.times.append(time.monotonic())
        if self.data.endswith(_ENDS):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def time_of(self, end: int) -> float:
        """When so many bytes were there."""
        return self.times[bisect_left(self.lengths, end)]

    def lines(self) -> Iterator[tuple[bytes, int]]:
        """The lines of a body in chunks, each with where it ends in what came."""
        place, line = self.data.find(b"\r\n\r\n") + 4, b""
        while place >= 4 and (after := self.data.find(b"\r\n", place)) > 0:
            size = int(self.data[place:after].split(b";")[0] or b"0", 16)
            if not size:
                return
            chunk = bytes(self.data[after + 2 : after + 2 + size])
            *whole, rest = chunk.split(b"\n")
            for part in whole:
                yield line + part, after + 2 + size
                line = b""
            line += rest
            place = after + 4 + size

    def arrivals(self) -> tuple[list[int], list[float], int]:
        """The tokens' numbers, their times, and how many events the body has."""
        start = self.data.find(b"\r\n\r\n") + 4
        if start < 4 or self.data[9:12] != b"200":
            return [], [], 0
        found = [(int(match.group(1)), match.end()) for match in _TOKEN.finditer(self.data, start)]
        times = [self.time_of(end) for _, end in found]
        return [number for number, _ in found], times, self.data.count(b"data:", start)


async def run_streams(port: int, request: bytes, streams: int, tokens: int, patience_s: float) -> dict[str, Any]:
    """So many streams at once, each on a connection of its own, all asked for at the same moment."""
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(Reader, "127.0.0.1", port))[1] for _ in range(streams)]
    for stream in opened:
        stream.begin(request)
    await asyncio.wait([stream.ended for stream in opened], timeout=patience_s)
    for stream in opened:
        stream.transport.abort()
    whole, firsts, gaps, count, last, events = 0, list[float](), list[float](), 0, 0.0, 0
    for stream in opened:
        numbers, times, seen = stream.arrivals()
        whole += numbers == list(range(tokens))
        count += len(numbers)
        events += seen
        if times:
            firsts.append(times[0] - stream.sent)
            gaps += [after - before for before, after in pairwise(times)]
            last = max(last, times[-1])
    firsts.sort()
    gaps.sort()
    return {
        "streams": streams,
        "tokens": count,
        "events": events,
        "whole": whole,
        "tokens_per_s": count / (last - opened[0].sent) if count else 0.0,
        "first_p50_ms": percentile(firsts, 0.5) * 1e3,
        "first_p99_ms": percentile(firsts, 0.99) * 1e3,
        "gap_p50_ms": percentile(gaps, 0.5) * 1e3,
        "gap_p99_ms": percentile(gaps, 0.99) * 1e3,
    }
