"""What callers of each protocol hear where the model that a workflow asks elsewhere misbehaves: a status, a body, whether to
come back, and nothing that is anybody's secret. The whole way, from a scripted upstream's socket to the app; without Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ports import free_port
from tests.router.router_front import Front, Visit
from tests.router.test_in_process import serving
from tests.workflows.css.dialects import DIALECTS
from tests.workflows.hf_client import hub_dialects
from tests.workflows.remote.contract_upstream import (
    ANSWER,
    CALLERS_KEY,
    FAULTS,
    KEY,
    POLICY,
    PROMPT,
    Dialect,
    Fault,
    quiescence,
)
from tests.workflows.remote.faulty_upstream import FaultyUpstream, silence
from tests.workflows.remote.hand_clock import HandClock
from tests.workflows.tgi_client import tgi_dialects

Body = dict[str, Any]
Answer = tuple[int, dict[str, str], str]  # status, headers, body

MESSAGES: Final = [{"role": "user", "content": PROMPT}]
TENSOR: Final = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [PROMPT]}
DRAWN: Final = {
    "parameters": {"do_sample": True}
}  # what TGI's callers do not say is greedy, which Anthropic does not take
streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
FAULT: Final[Mapping[str, Fault]] = {fault.name: fault for fault in FAULTS}


@dataclass(frozen=True)
class Door:
    """One way to ask for text.

    Attributes:
        protocol: How errors are told, see `TOLD`.
        streamed: Whether the answer comes in pieces.
        chat: Whether a conversation is asked, or a prompt.
    """

    protocol: str
    path: str
    body: Body
    streamed: bool = False
    chat: bool = False

    def __str__(self) -> str:
        return f"{self.protocol}-{'streamed' if self.streamed else 'whole'}"


DOORS: Final = [
    Door("native", "/v1/workflows/m/inference", {"prompt": PROMPT}),
    Door("native", "/v1/workflows/m/stream", {"prompt": PROMPT}, streamed=True),
    Door("openai", "/v1/chat/completions", {"model": "m", "messages": MESSAGES}, chat=True),
    Door("openai", "/v1/chat/completions", {"model": "m", "messages": MESSAGES, "stream": True}, True, chat=True),
    Door("tgi", "/tgi/m/generate", {**DRAWN, "inputs": PROMPT}),
    Door("tgi", "/tgi/m/generate_stream", {**DRAWN, "inputs": PROMPT}, streamed=True),
    Door("huggingface", "/hf/m", {**DRAWN, "inputs": PROMPT}),
    Door("huggingface", "/hf/m", {**DRAWN, "inputs": PROMPT, "stream": True}, streamed=True),
    Door("open_inference", "/v2/models/m/infer", {"inputs": [TENSOR]}),
    Door("open_inference", "/v2/models/m/generate", {"text_input": PROMPT}),
    Door("open_inference", "/v2/models/m/generate_stream", {"text_input": PROMPT}, streamed=True),
]


@dataclass(frozen=True)
class Heard:
    """What an error is to callers, before a protocol has put it into its words."""

    code: str
    message: str
    openai: tuple[str, str]
    tgi: str
    status: int
    tgi_status: int | None = None
    retry_after: str | None = None
    should_retry: str | None = None


def _failed(message: str) -> Heard:
    return Heard("upstream", message, ("server_error", "upstream_error"), "generation", 502, tgi_status=424)


def _late(message: str) -> Heard:
    """The model may be at work still: asked again it would do so twice."""
    return Heard("deadline", message, ("server_error", "deadline_exceeded"), "timeout", 504, should_retry="false")


LIMITED: Final = Heard(
    "limited",
    "the upstream model's rate limit is reached, try again later",
    ("rate_limit_error", "rate_limit_exceeded"),
    "overloaded",
    429,
    retry_after="2",
)
BROKE_OFF: Final = _failed("the upstream model broke off its answer")
UNREADABLE: Final = _failed("the upstream model's answer cannot be read")
TOO_LARGE: Final = _failed("the upstream model's answer is larger than allowed")
SILENT: Final = _late("the upstream model did not answer in time")
OUTCOMES: Final[Mapping[str, Heard]] = {
    "limited": LIMITED,
    "limited_too_long": replace(LIMITED, retry_after="300"),
    "failing": _failed("the upstream model failed"),
    "key_refused": _failed("the upstream model does not admit this service"),
    "rejected": Heard(
        "invalid",
        "the upstream model does not take this input",
        ("invalid_request_error", "invalid_value"),
        "validation",
        400,
        tgi_status=422,
    ),
    "nobody_listens": _failed("the upstream model cannot be reached"),
    "silent": SILENT,
    "stalls": SILENT,
    "page": UNREADABLE,
    "nonsense": UNREADABLE,
    "reset_at_once": BROKE_OFF,
    "reset_within": BROKE_OFF,
    "cut_within": BROKE_OFF,
    "endless_line": TOO_LARGE,
    "huge_body": TOO_LARGE,
}

TOLD: Final[Mapping[str, Callable[[Heard, str], Body]]] = {
    "native": lambda heard, request_id: {
        "error": {
            "code": heard.code,
            "message": heard.message,
            "request_id": request_id,
            "retryable": heard.retry_after is not None,
        }
    },
    "openai": lambda heard, request_id: {
        "error": {"message": heard.message, "type": heard.openai[0], "param": None, "code": heard.openai[1]}
    },
    "tgi": lambda heard, request_id: {"error": heard.message, "error_type": heard.tgi},
    "huggingface": lambda heard, request_id: {"error": heard.message, "error_type": heard.tgi},
    "open_inference": lambda heard, request_id: {"error": heard.message},
}

# Of each family, how its upstream speaks to a prompt and to a conversation.
FAMILIES: Final[Mapping[str, tuple[Dialect, Dialect]]] = {
    "openai": (DIALECTS["openai"], DIALECTS["openai"]),
    "anthropic": (DIALECTS["anthropic"], DIALECTS["anthropic"]),
    "hub": (hub_dialects.PROMPTS, replace(hub_dialects.CHAT, make=hub_dialects.PROMPTS.make)),
    "tgi": (tgi_dialects.PROMPTS, tgi_dialects.CHAT),
}


@dataclass
class House:
    """A router before one workflow, `m`, and the upstream that it asks."""

    front: Front
    upstream: FaultyUpstream
    clock: HandClock
    dialects: tuple[Dialect, Dialect]

    async def ask(self, door: Door, fault: Fault, **headers: str) -> Answer:
        """Time passes, and connections break, once they are to."""
        self.upstream.asked.clear()
        self.upstream.go.clear()
        self.upstream.plays(silence if fault.play is None else fault.play(self.dialects[door.chat], door.streamed))
        visit = self.visit(door, **headers)
        answering = visit.start()
        begins = door.streamed and fault.begun
        while not answering.done() and not (visit.messages.qsize() > 1 if begins else self.upstream.asked):
            await asyncio.sleep(0)
        self.upstream.go.set()
        if fault.passes_s:
            await quiescence()
            self.clock.advance(fault.passes_s)
        async with asyncio.timeout(10):
            await answering
        return answer_of(visit)

    def visit(self, door: Door, **headers: str) -> Visit:
        pairs = [("authorization", f"Bearer {CALLERS_KEY}"), *headers.items()]
        return Visit(self.front.app, "POST", door.path, door.body, pairs)


@asynccontextmanager
async def house(fault: Fault, family: str, streamed: bool, folder: Path, **more: Any) -> AsyncGenerator[House]:
    """Whose workflow asks once for each of its callers, and goes on to ask however often that fails."""
    dialects, clock = FAMILIES[family], HandClock(sleepless=True)
    key = folder / "key"
    key.write_text(KEY)
    policy = {**POLICY, "attempts": 1, "breaker": {"failures": 10_000}, **(fault.policy if streamed else {}), **more}
    async with FaultyUpstream() as upstream:
        url = upstream.url if fault.play is not None else f"http://127.0.0.1:{free_port()}"
        async with serving(("m", dialects[0].make(url, policy, clock, key))) as front:
            yield House(front, upstream, clock, dialects)


def answer_of(visit: Visit) -> Answer:
    start, *body = visit.rest()
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], told, b"".join(message.get("body", b"") for message in body).decode()


def require_error(told: str, door: Door, heard: Heard, request_id: str, *, begun: bool) -> None:
    """The protocol's body, and after the beginning of a stream an event of it, which is the last."""
    if begun:
        assert "[DONE]" not in told
        *_, told, rest = told.split("\n\n")
        assert rest == ""
        told = told.rpartition("data:")[2]
    assert json.loads(told) == TOLD[door.protocol](heard, request_id)


@streamed_or_not
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OUTCOMES)
async def test_a_fault_is_told_in_the_words_of_each_protocol(
    name: str, family: str, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fault, heard = FAULT[name], OUTCOMES[name]
    if (name, family, streamed) == ("nonsense", "anthropic", True):
        heard = BROKE_OFF  # its library passes over events without a name, until there are no more
    begun = fault.begun and streamed
    headers = {} if fault.within_s is None else {"x-deadline-s": f"{fault.within_s:g}"}
    async with house(fault, family, streamed, tmp_path) as asked:
        for door in (door for door in DOORS if door.streamed == streamed):
            status, told, body = await asked.ask(door, fault, **headers)
            if begun:
                assert status == 200
            else:
                assert status == (heard.tgi_status or heard.status if door.protocol == "tgi" else heard.status)
                assert told["content-type"] == "application/json"
                assert (told.get("retry-after"), told.get("x-should-retry")) == (heard.retry_after, heard.should_retry)
            require_error(body, door, heard, told["x-request-id"], begun=begun)
            assert begun == (ANSWER[:5] in body)
            assert len(asked.upstream.asked) == (fault.play is not None)
            assert CALLERS_KEY not in str(asked.upstream.asked)
            for secret in (KEY, CALLERS_KEY, PROMPT):
                assert secret not in f"{told} {body}"
        metrics = (await asked.front.get("/metrics")).text
    for secret in (KEY, CALLERS_KEY, PROMPT, ANSWER):
        assert secret not in f"{metrics} {asked.front.lines.texts} {caplog.text}"


@streamed_or_not
async def test_details_that_cannot_be_told_are_refused_before_they_are_paid_for(streamed: bool, tmp_path: Path) -> None:
    """Providers tell no ids of tokens: without a tokenizer nobody knows them."""
    for door in (door for door in DOORS if door.streamed == streamed and door.protocol == "tgi"):
        asking = replace(door, body={**door.body, "parameters": {"do_sample": True, "details": True}})
        async with house(FAULT["silent"], "openai", streamed, tmp_path) as asked:
            visit = asked.visit(asking)
            async with asyncio.timeout(5):
                await visit.start()
            status, _, body = answer_of(visit)
            assert (status, asked.upstream.asked) == (422, [])
            assert json.loads(body)["error_type"] == "validation"


@streamed_or_not
async def test_a_silent_upstream_is_not_waited_for_longer_than_callers_have_time(
    streamed: bool, tmp_path: Path
) -> None:
    """By the callers' own clock: that of the policy stands still."""
    heard, doors = _late("deadline exceeded"), [door for door in DOORS if door.streamed == streamed]
    async with house(FAULT["silent"], "openai", streamed, tmp_path, max_concurrent=len(doors)) as asked:
        asked.upstream.plays(silence)
        visits = [asked.visit(door, **{"x-deadline-s": "1"}) for door in doors]
        async with asyncio.timeout(5):
            await asyncio.gather(*(visit.start() for visit in visits))
        assert len(asked.upstream.asked) == len(doors)
        for visit, door in zip(visits, doors, strict=True):
            status, told, body = answer_of(visit)
            assert (status, told["x-should-retry"]) == (504, "false")
            require_error(body, door, heard, told["x-request-id"], begun=False)
        await asked.upstream.until(lambda seen: seen.busy == 0)  # nobody is left at work
