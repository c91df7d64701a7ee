"""How chat and text completions are asked and answered, whatever their shape: whole, or as a stream of events.

Every answer that is asked for is an item of its own to the workflow: `n` for each prompt, answer i of a prompt with its
seed + i. Their streams are told interleaved as they come, and one that fails fails the whole.
"""

from __future__ import annotations

import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from functools import cached_property
from hashlib import blake2b
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.json_body import render_json
from deployments.router.merging import merged
from deployments.router.protocols.open_inference.metadata import own_version
from deployments.router.protocols.openai.requests import GenerationRequest
from deployments.router.request import Reply, Request, json_reply
from deployments.router.sse import json_event, send_events
from workflows.errors import BadOutput, Cancelled, InvalidInput, ModelNotFound, Unsupported, WorkflowError

__all__ = ["FINGERPRINT", "Answers", "answer", "ask_for_all", "chosen", "chosen_to_write", "inputs_of", "sampling_of"]

SEEDS: Final = 1 << 63
MAX_BIASES: Final = 1 << 16
"""Each answer has its own copy of them, which is checked where it is made: of a thousand prompts and a thousand biases, for
half a second."""
FINGERPRINT: Final = f"infernet-serve-{own_version()}"
"""What the same answer to the same seed depends on; not null, because TGI's own client takes nothing but text."""
_AS_THEY_ARE: Final = (
    "temperature",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "stop",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "min_tokens",
)
"""Fields that a workflow's sampling calls by the same name."""
_OTHER_NAMES: Final[Mapping[str, str]] = {
    "prompt_tokens": "prompt",
    "text": "input",
    "tokens": "input",
    "truncate": "truncate_prompt_tokens",
    "include_stop": "include_stop_str_in_output",
    "top_logprobs": "logprobs",
}
"""What workflows call by another name than OpenAI's clients."""
_PICTURE: Final = re.compile(r"(messages\.\d+\.content\.\d+)\.image\.data")
"""Where a workflow finds the bytes of a picture, which come in a URL."""
_LISTS: Final = frozenset({"input", "prompt"})
"""Fields that may hold several texts."""


def chosen(workflows: Workflows, request: Request, model: str | None, entry: Entry | None, kind: str) -> Entry:
    """The workflow that answers: the one that the path has named, else the one that the body names.

    Raises ModelNotFound, Unsupported for one of another kind, and NotReady where it never was ready.
    """
    if entry is None:
        if model is None:
            raise InvalidInput("model: Field required", param="model")
        try:
            entry = workflows.find(request, model)
        except ModelNotFound as error:
            error.param = "model"
            raise
    found = workflows.card(entry).kind
    if found != kind:
        raise Unsupported(f"model: this model takes {found} inputs, and one of kind {kind} is needed", param="model")
    return entry


def chosen_to_write(workflows: Workflows, request: Request, asked: GenerationRequest, entry: Entry | None) -> Entry:
    """The same for a model that generates; what belongs to one conversation goes where that was before.

    Raises InvalidInput where the body, once for each of `n` answers, would be more than a body may be.
    """
    if len(request.body) * (asked.n or 1) > request.limits.max_body_bytes:
        raise InvalidInput("n: too many answers for a request of this size", param="n")
    named = asked.prompt_cache_key
    if named is None and b"x-conversation-id" not in request.headers:  # which says more than who somebody is
        named = asked.user
    if named:  # what it is called within the system: short, of this caller alone, and no name of anybody
        request.session = blake2b(f"{request.key.id}\n{named}".encode(), digest_size=16).hexdigest()
    return chosen(workflows, request, asked.model, entry, "generate")


# ---- asking ---------------------------------------------------------------------------------------------------------------


def sampling_of(asked: GenerationRequest, max_tokens: int | None) -> dict[str, Any]:
    """A workflow's sampling, but for the seed. `max_tokens` None: as long as there is room."""
    said: dict[str, Any] = {name: value for name in _AS_THEY_ARE if (value := getattr(asked, name)) is not None}
    said["max_tokens"] = max_tokens
    if asked.top_p is not None:
        said["top_p"] = asked.top_p or sys.float_info.min  # of no share at all, the best token is left
    return said


def inputs_of(
    asked: GenerationRequest, prompts: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any], most: int
) -> list[dict[str, Any]]:
    """The workflow's inputs: of every prompt one for each answer, side by side. Raises InvalidInput for more than `most`, and
    for more biases than `MAX_BIASES`."""
    samples = asked.n or 1
    if len(prompts) * samples > most:
        param = "n" if samples > 1 else "prompt"
        raise InvalidInput(f"{param}: no more than {most} answers in one request", param=param)
    if len(prompts) * samples * len(sampling.get("logit_bias", ())) > MAX_BIASES:
        raise InvalidInput(f"logit_bias: no more than {MAX_BIASES} for all answers of one request", param="logit_bias")
    more: dict[str, Any] = {}
    if asked.include_stop_str_in_output:
        more["include_stop"] = True
    if asked.truncate_prompt_tokens is not None:
        more["truncate"] = asked.truncate_prompt_tokens
    of_each = [
        {**sampling, **({} if asked.seed is None else {"seed": (asked.seed + i) % SEEDS})} for i in range(samples)
    ]
    return [{**prompt, **more, "sampling": each} for prompt in prompts for each in of_each]


def _as_asked(error: WorkflowError, member: int | None = None) -> WorkflowError:
    """A workflow's error, with the field called as the caller knows it; of a list of texts also which one it is about."""
    if error.param is None:
        return error
    param = _PICTURE.sub(r"\1.image_url.url", error.param.removeprefix("sampling."))
    renamed = copy(error)
    renamed.param = _OTHER_NAMES.get(param, param)
    whose, what = renamed.param, error.message.removeprefix(f"{error.param}: ")
    if member is not None and whose in _LISTS:
        whose = f"{whose} {member}"
    if (whose, what) != (renamed.param, error.message):
        renamed.message = f"{whose}: {what}"
    return renamed


# ---- answering ------------------------------------------------------------------------------------------------------------


class Answers(ABC):
    """The answers to one request in their own shape.

    Args:
        prefix: Of its id.
        name: What the model is called if the caller has not said so.

    Attributes:
        samples: How many answers each prompt has.
    """

    kind: str
    """What an answer calls itself, as `object`."""
    kind_of_chunk: str

    def __init__(self, request: Request, prefix: str, asked: GenerationRequest, name: str) -> None:
        model = name if asked.model is None else asked.model
        created = int(time.time())
        self._head = {"id": f"{prefix}-{request.call_id}", "object": "", "created": created, "model": model}
        self.samples = asked.n or 1
        self._with_usage = asked.stream_options is not None and asked.stream_options.include_usage is True
        self._prompts: dict[int, Mapping[str, Any]] = {}
        self._ended: set[int] = set()
        self._completion_tokens = 0
        self._usages: list[Mapping[str, Any]] = []

    @abstractmethod
    def choice(self, index: int, output: Mapping[str, Any]) -> dict[str, Any]:
        """One whole answer."""

    @abstractmethod
    def pieces(self, index: int, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What the next chunk of one answer says."""

    def whole(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """All answers. Raises BadOutput where a workflow has given something else."""
        choices = []
        for index, output in enumerate(outputs):
            choices.append(self.choice(index, _checked(output)))
            self._count(index, output)
        return self._told(self.kind, choices, self._usage())

    def events(self, chunks: Sequence[tuple[int, Any]]) -> bytes:
        """The events that tell these chunks."""
        pieces: list[dict[str, Any]] = []
        for index, chunk in chunks:
            pieces += self.pieces(index, _checked(chunk))
            if chunk.get("finish_reason") is not None:
                self._ended.add(index)
                self._count(index, chunk)
        begin, end = self._around
        return b"".join([b"data: %b[%b]%b\n\n" % (begin, render_json(piece), end) for piece in pieces])

    def last_event(self, answers: int) -> bytes:
        """What follows the last chunk of all. Raises BadOutput if not so many answers have come to their end."""
        if len(self._ended) != answers:
            raise BadOutput("the workflow's text has no end")
        return json_event(self._told(self.kind_of_chunk, [], self._usage())) if self._with_usage else b""

    @cached_property
    def _around(self) -> tuple[bytes, bytes]:
        """What stands around the choices of every event but the last: to render it once is half of what a token costs."""
        event = render_json(self._told(self.kind_of_chunk, [], None, self._with_usage))
        begin, _, end = event.rpartition(b"[]")
        return begin, end

    def _told(
        self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None, with_usage: bool = True
    ) -> dict[str, Any]:
        told = {**self._head, "object": kind, "system_fingerprint": FINGERPRINT, "choices": choices}
        if with_usage:
            told["usage"] = usage
        return told

    def _count(self, index: int, output: Mapping[str, Any]) -> None:
        """A prompt is read for each of its answers, and counted once."""
        usage = output.get("usage")
        if not isinstance(usage, Mapping):
            raise BadOutput("the workflow did not say how many tokens it has read and made")
        self._prompts.setdefault(index // self.samples, usage)
        self._completion_tokens += usage["completion_tokens"]
        self._usages.append(usage)

    def _usage(self) -> dict[str, Any]:
        read = sum(usage["prompt_tokens"] for usage in self._prompts.values())
        made = self._completion_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": made,
            "total_tokens": read + made,
            **_details("prompt_tokens_details", "cached_tokens", self._prompts.values()),
            **_details("completion_tokens_details", "reasoning_tokens", self._usages),
        }


def _details(title: str, name: str, usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of a part of the tokens; nothing where no model has told it."""
    known = [count for usage in usages if (count := usage.get(name)) is not None]
    return {title: {name: sum(known)}} if known else {}


def _checked(output: Any) -> Mapping[str, Any]:
    if not isinstance(output, dict) or not isinstance(output.get("text"), str):
        raise BadOutput("the workflow gave no text")
    return output


async def answer(
    workflows: Workflows,
    request: Request,
    entry: Entry,
    asked: GenerationRequest,
    inputs: Sequence[Any],
    answers: Answers,
) -> Reply | None:
    """Ask for all inputs at once, and answer whole, or with a stream if that was asked for. Raises the error tree."""
    if asked.stream:
        await _stream(workflows, request, entry, inputs, answers)
        return None
    if asked.stream_options is not None:
        raise InvalidInput("stream_options: only a stream has them", param="stream_options")
    return json_reply(answers.whole(await ask_for_all(workflows, request, entry, inputs, asked.n or 1)))


async def ask_for_all(
    workflows: Workflows, request: Request, entry: Entry, inputs: Sequence[Any], samples: int = 1
) -> Sequence[Any]:
    """The outputs for all inputs, or the first error. `samples`: how many inputs each text has, side by side."""
    if len(inputs) > 1:
        outcomes = await workflows.ask_all(request, entry, inputs, or_none=True)
        failed = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, WorkflowError)]
        if failed:  # those that were given up are no reason
            index, error = next((each for each in failed if not isinstance(each[1], Cancelled)), failed[0])
            raise _as_asked(error, index // samples if len(inputs) > samples else None)
        return outcomes
    try:
        return [await workflows.ask(request, entry, inputs[0])]
    except WorkflowError as error:
        raise _as_asked(error) from error.__cause__


async def _stream(
    workflows: Workflows, request: Request, entry: Entry, inputs: Sequence[Any], answers: Answers
) -> None:
    card = workflows.card(entry)
    if not card.streams:
        raise Unsupported("stream: this model does not stream", param="stream")
    most = None if card.max_streams is None else card.max_streams * max(1, entry.replicas)
    if most is not None and len(inputs) > most and not card.fallbacks:  # which answer what is too much for this one
        param = "n" if answers.samples > 1 else "prompt"
        raise InvalidInput(f"{param}: no more than {most} answers in one stream", param=param)
    limits, total_s = request.limits, workflows.stream_seconds(request)
    streams = [
        workflows.chunks(request, entry, each, at_most_s=total_s, member=index if len(inputs) > 1 else None)
        for index, each in enumerate(inputs)
    ]
    events = _events(merged(streams) if len(streams) > 1 else _numbered(streams[0]), answers, len(streams))
    await send_events(request, events, first_chunk_s=limits.stream_first_chunk_s, total_s=total_s, event=_as_it_is)


async def _events(
    groups: AsyncGenerator[list[tuple[int, Any]]], answers: Answers, count: int
) -> AsyncGenerator[list[bytes]]:
    try:
        async with aclosing(groups):
            async for group in groups:
                yield [answers.events(group)]
    except WorkflowError as error:
        raise _as_asked(error) from error.__cause__
    if last := answers.last_event(count):
        yield [last]


async def _numbered(groups: AsyncGenerator[list[Any]]) -> AsyncGenerator[list[tuple[int, Any]]]:
    """A single stream, numbered as several are."""
    async with aclosing(groups):
        async for group in groups:
            yield [(0, chunk) for chunk in group]


def _as_it_is(event: bytes) -> bytes:
    return event
