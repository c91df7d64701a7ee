"""A workflow's stream as the body of an answer, part by part. Knows its time and its end, not what the parts are.

The first chunk is awaited before the answer starts, so what fails until then is an ordinary HTTP error. What fails later
leaves the body without its end, and the server ends the connection: whoever reads it can tell that it is not whole.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from deployments.router.protocols.tables import Headers
from deployments.router.request import Request
from deployments.router.watch import Watch

__all__ = ["STREAM_HEADERS", "send_parts"]

STREAM_HEADERS: Final[Headers] = [
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    # A router may begin to drain while a stream runs, too late to say in its headers that the connection ends with it;
    # a client that did not know would send its next request into a connection that is being closed.
    (b"connection", b"close"),
]


async def send_parts(
    request: Request,
    groups: AsyncGenerator[list[Any]],
    *,
    first_chunk_s: float,
    total_s: float,
    media_type: bytes,
    part: Callable[[Any], bytes],
    end: bytes = b"",
) -> None:
    """Answer with a stream; each group of chunks is one write. The chunks' generator is closed before this returns, on
    every way out; a slow reader slows it down.

    Raises whatever went wrong, and `request.answered` says whether something was sent before.

    Args:
        part: What is sent of a chunk.
        end: What follows the last chunk of a whole stream, and no other.
    """
    end_at = time.monotonic() + total_s
    with Watch(min(first_chunk_s, total_s), request.receive) as watch:
        async with aclosing(groups):
            group = await anext(groups, None)
            parts = b"".join(map(part, group or ()))
            watch.limit(max(0.0, end_at - time.monotonic()))
            await request.begin(200, [(b"content-type", media_type), *STREAM_HEADERS])
            while group is not None:
                request.chunks += len(group)
                await request.write(parts, more=True)
                group = await anext(groups, None)
                parts = b"".join(map(part, group or ()))
        await request.write(end)
