"""Compressed answers, for those who ask for them. What comes in is never compressed: a small body could become a large one."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Final

from deployments.router.request import Reply, Request

__all__ = ["compressed"]

LEAST_BYTES: Final = 1400
"""What fits into one packet anyway is left alone."""
ASIDE_BYTES: Final = 64 << 10
LEVEL: Final = 1
_WINDOWS: Final = {b"gzip": 31, b"deflate": 15}  # as zlib counts them: with gzip's own header, or zlib's
_CODING: Final = re.compile(rb"\s*([!-~]+?)\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?")


async def compressed(request: Request, reply: Reply) -> Reply:
    """The answer as the caller's `accept-encoding` has it, on a thread if that may take long."""
    if len(reply.body) < LEAST_BYTES:
        return reply
    coding = _accepted(request.headers.get(b"accept-encoding", b""))
    if coding is None:
        return reply
    if len(reply.body) < ASIDE_BYTES:
        body = _compress(reply.body, coding)
    else:
        body = await asyncio.to_thread(_compress, reply.body, coding)
    return Reply(reply.status, body, [*reply.headers, (b"content-encoding", coding), (b"vary", b"accept-encoding")])


def _accepted(header: bytes) -> bytes | None:
    """The coding that the caller likes best, of those there are; None for no coding. A header that cannot be read has none."""
    best, liking = None, 0.0
    for part in header[:256].split(b","):
        found = _CODING.fullmatch(part)
        if found is None or found[1].lower() not in _WINDOWS:
            continue
        quality = 1.0 if found[2] is None else float(found[2])
        if quality > liking:
            best, liking = found[1].lower(), quality
    return best


def _compress(body: bytes, coding: bytes) -> bytes:
    packer = zlib.compressobj(LEVEL, wbits=_WINDOWS[coding])
    return packer.compress(body) + packer.flush()
