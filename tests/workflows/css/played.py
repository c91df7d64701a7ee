"""Workflows over an upstream whose answers are written by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from tests.workflows.remote.faulty_upstream import FaultyUpstream, Step, answer, parts
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.remote.clock import SYSTEM_CLOCK, Clock
from workflows.types.text import TextChunk

__all__ = ["asked_for", "chunks_of", "ending", "played"]


@asynccontextmanager
async def played(
    step: Step, *, clock: Clock = SYSTEM_CLOCK, path: str = "", **options: Any
) -> AsyncGenerator[tuple[CSSInferenceWorkflow, FaultyUpstream]]:
    """A workflow that is set up, and the upstream that it asks, at this path."""
    said: dict[str, Any] = {"provider": "openai-compatible", "model": "m", **options}
    async with FaultyUpstream() as upstream:
        upstream.plays(step)
        workflow = CSSInferenceWorkflow(base_url=upstream.url + path, **said)
        workflow.clock = clock
        await workflow.asetup()
        try:
            yield workflow, upstream
        finally:
            await workflow.ateardown()


async def asked_for(told: object, asked: object, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The answer to a request, out of what the upstream tells at once; and what the upstream was sent."""
    async with played(answer(200, told), **options) as (workflow, upstream):
        given = await workflow.ainference(asked)
        (request,) = upstream.asked
        return given, request.json()


async def chunks_of(
    events: Sequence[bytes], asked: object, then: Step | None = None, **options: Any
) -> tuple[list[TextChunk], dict[str, Any]]:
    """The same, of a stream; `then` is done in place of its proper end."""
    async with played(parts(events, then), **options) as (workflow, upstream):
        upstream.go.set()
        async with aclosing(workflow.astream(asked)) as stream:
            chunks = [chunk async for chunk in stream]
        (request,) = upstream.asked
        return chunks, request.json()


def ending(chunks: Sequence[TextChunk]) -> TextChunk:
    """The last chunk, of chunks that are as they must be: it alone has an end and the usage."""
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].finish_reason is not None
    assert chunks[-1].usage is not None
    return chunks[-1]
