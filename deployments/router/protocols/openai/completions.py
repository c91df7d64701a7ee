"""`POST /v1/completions`: texts to continue, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.openai.generation import Answers, answer, chosen_to_write, inputs_of, sampling_of
from deployments.router.protocols.openai.logprobs import TokenColumns
from deployments.router.protocols.openai.requests import COMPLETION_REFUSED, CompletionRequest, Source, read
from deployments.router.request import Reply, Request
from workflows.errors import Unsupported

__all__ = ["completion_inputs", "completions"]

DEFAULT_TOKENS: Final = 16


async def completions(workflows: Workflows, request: Request, body: Any, entry: Entry | None = None) -> Reply | None:
    """Answer a completion request; see `chat_completions`, which does the same for conversations."""
    asked, inputs = completion_inputs(body, request.limits.max_batch_items)
    entry = chosen_to_write(workflows, request, asked, entry)
    return await answer(workflows, request, entry, asked, inputs, _TextAnswers(request, asked, entry))


def completion_inputs(body: Any, most: int) -> tuple[CompletionRequest, list[dict[str, Any]]]:
    """The request in a body, and what the workflow is asked for each answer. Raises InvalidInput."""
    asked = read(CompletionRequest, body, COMPLETION_REFUSED, most)
    samples = asked.n or 1
    if asked.best_of not in (None, samples):
        raise Unsupported("best_of: all answers are given, so it can only be what n is", param="best_of")
    if asked.echo and asked.logprobs is not None:
        raise Unsupported("echo: the tokens of a prompt have no logprobs here", param="echo")
    more: dict[str, Any] = {"echo": True} if asked.echo else {}
    if asked.logprobs is not None:
        more["top_logprobs"] = asked.logprobs
    sampling = sampling_of(asked, DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens)
    prompts = [{**_prompt(source), **more} for source in asked.prompt]
    return asked, inputs_of(asked, prompts, sampling, most)


def _prompt(source: Source) -> dict[str, Any]:
    return {"prompt": source} if isinstance(source, str) else {"prompt_tokens": source}


class _TextAnswers(Answers):
    kind = "text_completion"
    kind_of_chunk = "text_completion"

    def __init__(self, request: Request, asked: CompletionRequest, entry: Entry) -> None:
        super().__init__(request, "cmpl", asked, entry.known_as)
        self._columns: dict[int, TokenColumns] = {}

    def choice(self, index: int, output: Mapping[str, Any]) -> dict[str, Any]:
        tokens = output.get("tokens")
        logprobs = None if tokens is None else self._columns.setdefault(index, TokenColumns()).told(tokens)
        reason = output.get("finish_reason")
        return {"index": index, "text": output["text"], "logprobs": logprobs, "finish_reason": reason}

    def pieces(self, index: int, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if chunk["text"] or chunk.get("tokens") or chunk.get("finish_reason") is not None:
            yield self.choice(index, chunk)
