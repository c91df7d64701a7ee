"""A workflow's stream as server-sent events. Knows events and their end, not what the chunks mean.

A failure before the first chunk is an ordinary HTTP error (see `send_parts`). Afterwards it is an event `{"error": ...}`
and the end mark is missing: a stream without `[DONE]` is not whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from deployments.router.json_body import render_json
from deployments.router.request import Request
from deployments.router.streaming import send_parts
from workflows.errors import WorkflowError

__all__ = ["END_MARK", "json_event", "send_events"]

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = b"text/event-stream"
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
    """Answer with a stream of events; see `send_parts`.

    Raises the error tree as long as nothing was sent; later failures are told in the stream.

    Args:
        end_mark: What follows the last chunk of a whole stream, and no other.
    """
    try:
        await send_parts(
            request,
            groups,
            first_chunk_s=first_chunk_s,
            total_s=total_s,
            media_type=MEDIA_TYPE,
            part=event,
            end=end_mark,
        )
    except WorkflowError as error:
        if not request.answered:
            raise
        await _tell(request, error)
    except Exception:
        if not request.answered:
            raise
        log.exception("request %s: its stream broke", request.id)
        await _tell(request, WorkflowError())


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
