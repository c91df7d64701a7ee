"""A workflow's stream as server-sent events. Knows events and their end, not what the chunks mean.

The first chunk is awaited before the answer starts, so what fails until then is an ordinary HTTP error. Afterwards a
failure is an event `{"error": ...}` and the end mark is missing: a stream without `[DONE]` is not whole. The chunks'
generator is closed before this returns, on every way out; a slow reader slows the generator down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from deployments.router.json_body import render_json
from deployments.router.request import Request
from deployments.router.watch import Watch
from workflows.errors import WorkflowError

__all__ = ["END_MARK", "json_event", "send_events"]

log = logging.getLogger(__name__)

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    # A router may begin to drain while a stream runs, too late to say in its headers that the connection ends with it;
    # a client that did not know would send its next request into a connection that is being closed.
    (b"connection", b"close"),
]
END_MARK: Final = b"data: [DONE]\n\n"
LAST_WORD_S: Final = 5.0


def json_event(value: Any) -> bytes:
    """One event. JSON escapes line breaks, so that a value cannot end it early."""
    return b"data: %b\n\n" % render_json(value)


async def send_events(
    request: Request,
    groups: AsyncGenerator[list[Any]],
    *,
    first_chunk_s: float,
    total_s: float,
    event: Callable[[Any], bytes] = json_event,
    end_mark: bytes = END_MARK,
) -> None:
    """Answer with a stream; each group of chunks is one write.

    Raises the error tree as long as nothing was sent; later failures are told in the stream.

    Args:
        end_mark: What follows the last chunk of a whole stream, and no other.
    """
    try:
        await _send(request, groups, first_chunk_s, total_s, event, end_mark)
    except WorkflowError as error:
        if not request.answered:
            raise
        await _tell(request, error)
    except Exception:
        if not request.answered:
            raise
        log.exception("request %s: its stream broke", request.id)
        await _tell(request, WorkflowError())


async def _send(
    request: Request,
    groups: AsyncGenerator[list[Any]],
    first_chunk_s: float,
    total_s: float,
    event: Callable[[Any], bytes],
    end_mark: bytes,
) -> None:
    end = time.monotonic() + total_s
    with Watch(min(first_chunk_s, total_s), request.receive) as watch:
        async with aclosing(groups):
            group = await anext(groups, None)
            events = b"".join(map(event, group or ()))
            watch.limit(max(0.0, end - time.monotonic()))
            await request.begin(200, HEADERS)
            while group is not None:
                request.chunks += len(group)
                await request.write(events, more=True)
                group = await anext(groups, None)
                events = b"".join(map(event, group or ()))
        await request.write(end_mark)


async def _tell(request: Request, error: WorkflowError) -> None:
    """The last event of a stream that failed: no end mark follows. Nobody hears it if the caller has left."""
    request.code = error.code
    if error.code == "cancelled":
        return
    shown = request.errors.shown(error)
    try:
        async with asyncio.timeout(LAST_WORD_S):  # a reader who has stalled is not waited for
            await request.write(json_event(request.errors.body(shown, request.id)))
    except (TimeoutError, WorkflowError):
        log.debug("request %s: nobody read the end of its stream", request.id)
