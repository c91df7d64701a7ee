"""Open loop: requests leave when a Poisson process says so, whether or not earlier ones were answered.

Latency counts from the moment at which a request should have left, so that a server (or a connection) that is late for
one is late for all behind it. The timer is the kernel's: an event loop's own would round to milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import struct
import time
from collections import deque
from typing import Any, Final

from scripts.benchmarks.connection import Connection, connect
from scripts.benchmarks.payloads import Target

__all__ = ["closed_and_checked", "percentile", "run_open"]

_FIRST_CONNECTIONS: Final = 64
_MOST_CONNECTIONS: Final = 512
_PATIENCE_S: Final = 10.0
_KEPT: Final = 20_000  # answers whose contents are looked at
_CLOCK_MONOTONIC: Final = 1
_NONBLOCK: Final = 0o4000
_ABSOLUTE: Final = 1


def percentile(values: list[float], share: float) -> float:
    """Of sorted values; 0 of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class _Alarm:
    """A timer with the kernel's own precision, in terms of `time.monotonic()`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, at: float) -> None:
        seconds = int(at)
        spec = struct.pack("qqqq", 0, 0, seconds, int((at - seconds) * 1e9) or 1)
        self._libc.timerfd_settime(self.fd, _ABSOLUTE, spec, None)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)


class _OpenLoop:
    def __init__(self, port: int, target: Target, rate: float, seconds: float) -> None:
        self._port = port
        self._requests = target.requests()
        chance = random.Random(1)  # noqa: S311
        self._due: list[float] = []
        at = 0.0
        while (at := at + chance.expovariate(rate)) < seconds:
            self._due.append(at)
        self._next = 0
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._latencies: list[float] = []
        self._failed = 0
        self._finished = asyncio.Event()
        self._alarm = _Alarm()

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._open() for _ in range(_FIRST_CONNECTIONS)))
        self._began = time.monotonic() + 0.01
        self._due = [self._began + at for at in self._due]
        loop.add_reader(self._alarm.fd, self._fire)
        self._alarm.set(self._due[0])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._due[-1] - self._began + _PATIENCE_S):
                await self._finished.wait()
        took = time.monotonic() - self._began
        loop.remove_reader(self._alarm.fd)
        os.close(self._alarm.fd)
        done = len(self._latencies)
        for connection in self._idle:
            connection.transport.close()
        values = sorted(self._latencies)
        return {
            "requests": len(self._due),
            "errors": len(self._due) - done,
            "rate": done / took,
            "p50_ms": percentile(values, 0.5) * 1e3,
            "p90_ms": percentile(values, 0.9) * 1e3,
            "p99_ms": percentile(values, 0.99) * 1e3,
            "max_ms": values[-1] * 1e3 if values else 0.0,
        }

    def _fire(self) -> None:
        """Send what is due."""
        self._alarm.clear()
        now = time.monotonic()
        due, number = self._due, self._next
        while number < len(due) and due[number] <= now:
            self._send(number)
            number += 1
        self._next = number
        if number < len(due):
            self._alarm.set(due[number])

    def _send(self, number: int) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.send(self._requests[number % len(self._requests)], number)
                return
            self._connections -= 1
        self._waiting.append(number)
        if self._connections < _MOST_CONNECTIONS:
            task = asyncio.ensure_future(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        self._connections += 1
        try:
            self._free(await connect(self._port, self._answered))
        except OSError:
            self._connections -= 1

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            number = self._waiting.popleft()
            connection.send(self._requests[number % len(self._requests)], number)
        else:
            self._idle.append(connection)

    def _answered(self, connection: Connection, number: int, status: int, body: bytes) -> None:
        if status == 200:
            self._latencies.append(time.monotonic() - self._due[number])
        else:
            self._failed += 1
        if len(self._latencies) + self._failed == len(self._due):
            self._finished.set()
        if connection.is_open:
            self._free(connection)
        else:
            self._connections -= 1


async def run_open(port: int, target: Target, rate: float, seconds: float) -> dict[str, Any]:
    """One measurement at `rate` requests per second."""
    gc.collect()
    gc.disable()
    try:
        return {"asked_rate": rate, **await _OpenLoop(port, target, rate, seconds).run()}
    finally:
        gc.enable()


async def closed_and_checked(
    port: int, target: Target, connections: int, seconds: float, *, at_least: int = 1
) -> dict[str, Any]:
    """A closed loop that keeps the answers and compares their contents afterwards. Also the rate and median time."""
    requests, kept, times = target.requests(), list[tuple[int, int, bytes]](), list[float]()
    until = time.monotonic() + seconds
    sent: dict[Connection, float] = {}
    turn, running, finished = 0, connections, asyncio.Event()

    def send(connection: Connection) -> None:
        nonlocal turn
        sent[connection] = time.monotonic()
        connection.send(requests[turn % len(requests)], turn % len(requests))
        turn += 1

    def answered(connection: Connection, number: int, status: int, body: bytes) -> None:
        nonlocal running
        now = time.monotonic()
        times.append(now - sent[connection])
        if len(kept) < _KEPT:
            kept.append((number, status, body))
        if connection.is_open and (now < until or turn < at_least):
            send(connection)
        else:
            running -= 1
            if not running:
                finished.set()

    opened = [await connect(port, answered) for _ in range(connections)]
    began = time.monotonic()
    until = began + seconds
    for connection in opened:
        send(connection)
    async with asyncio.timeout(seconds + 60 + at_least):
        await finished.wait()
    took = time.monotonic() - began
    for connection in opened:
        connection.transport.close()
    times.sort()
    wrong = sum(not target.is_right(*answer) for answer in kept)
    return {
        "requests": len(times),
        "checked": len(kept),
        "wrong": wrong,
        "rate": len(times) / took,
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
    }
