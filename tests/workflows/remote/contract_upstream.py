"""What every workflow that asks a remote model promises, whatever that model does: run by each over `FAULTS`.

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    async def test_fault(fault: Fault, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        await check_fault(fault, DIALECT, streamed, tmp_path, caplog)

A `Dialect` says how the provider at hand speaks, and makes the workflow.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.ports import free_port
from tests.workflows.remote.faulty_upstream import (
    JSON,
    SSE,
    Exchange,
    FaultyUpstream,
    Step,
    answer,
    endless,
    parts,
    silence,
)
from tests.workflows.remote.hand_clock import HandClock
from workflows.async_base import AsyncInferenceWorkflow
from workflows.batch import working_for
from workflows.context import CallContext
from workflows.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    RateLimited,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
)
from workflows.remote.clock import Clock

__all__ = [
    "ANSWER",
    "CALLERS_KEY",
    "FAULTS",
    "KEY",
    "POLICY",
    "PROMPT",
    "Dialect",
    "Fault",
    "check_budget",
    "check_fault",
    "check_good",
    "check_leaving",
    "quiescence",
]

Workflow = AsyncInferenceWorkflow[Any, Any, Any]

# None of these may be seen anywhere but in the upstream's own request, or the caller's own answer.
KEY: Final = "sk-canary-of-the-provider-8c1f"
CALLERS_KEY: Final = "canary-of-the-caller-31d0"
PROMPT: Final = "the canary of the prompt 55aa"
ANSWER: Final = "the canary of the answer 77bb"

POLICY: Final[Mapping[str, Any]] = {
    "connect_s": 5.0,
    "first_byte_s": 30.0,
    "between_tokens_s": 30.0,
    "total_s": 600.0,
    "attempts": 2,
    "retry_reserve": 1,
    "max_concurrent": 1,
    "max_body_bytes": 60_000,
    "max_line_bytes": 20_000,
}


def _plain_error(message: str) -> bytes:
    return json.dumps({"error": {"message": message}}).encode()


def _bearer(headers: Mapping[str, str]) -> bool:
    return headers.get("authorization") == f"Bearer {KEY}"


@dataclass(frozen=True)
class Dialect:
    """How one provider speaks.

    Attributes:
        make: A workflow that asks the model at this URL with this policy and clock; its key stands in this file.
        ask: Its input, with this prompt.
        text: The text of its answer, or of one of its chunks.
        whole: The body of a good answer that is not streamed, with `ANSWER` as its text; None where the workflow has
            even those streamed by the upstream.
        events: The parts of a good streamed answer, whose text is `ANSWER`: the first holds a piece of text, and without
            the last the answer is not complete. None where the workflow does not stream.
        error: The body of an error, with what the provider says in this place.
        error_event: The part of a streamed answer that says that it has failed; None where there is none.
        key_came: Whether the upstream was given the key, by the headers of a request.
    """

    make: Callable[[str, Mapping[str, Any], Clock, Path], Workflow]
    ask: Callable[[str], Any]
    text: Callable[[Any], str]
    whole: bytes | None
    events: Sequence[bytes] | None = None
    error: Callable[[str], bytes] = _plain_error
    error_event: bytes | None = None
    key_came: Callable[[Mapping[str, str]], bool] = _bearer

    def good(self, streamed: bool) -> Step:
        return parts(self.events_or_whole(streamed), kind=_kind(self, streamed))

    def events_or_whole(self, streamed: bool) -> Sequence[bytes]:
        """The parts of the upstream's answer, two at the least."""
        if self.whole is not None and not streamed:
            return self.whole[:-9], self.whole[-9:]
        assert self.events is not None
        return self.events


@dataclass(frozen=True)
class Fault:
    """What the upstream does, and what then has to become of the caller.

    Attributes:
        play: The step for a dialect, for a streamed answer or a whole one; None where nobody listens.
        error: What the caller gets, and nothing else that is in the tree.
        begun: Whether a streamed answer gives something first.
        passes_s: How much time passes once the upstream was asked, or has given something.
        within_s: The caller's own limit.
        retry_after_s: What the error says about coming back.
        attempts: How often the upstream is asked, unless an answer had begun; None where that is the adapter's to say.
        policy: What differs from `POLICY`, where the upstream streams.
    """

    name: str
    play: Callable[[Dialect, bool], Step] | None
    error: type[WorkflowError] = UpstreamFailed
    begun: bool = False
    passes_s: float = 0.0
    within_s: float | None = None
    retry_after_s: float | None = None
    attempts: int | None = 1
    policy: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def _says(status: int, message: str = "no", **headers: str) -> Callable[[Dialect, bool], Step]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda dialect, streamed: answer(status, dialect.error(message), named)


def _body(*sent: bytes, then: Step | None = None, **headers: str) -> Callable[[Dialect, bool], Step]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda dialect, streamed: parts(sent, then, kind=_kind(dialect, streamed), headers=named)


def _begins(then: Step | None) -> Callable[[Dialect, bool], Step]:
    """A good answer but for its last part."""
    return lambda dialect, streamed: parts(dialect.events_or_whole(streamed)[:-1], then, kind=_kind(dialect, streamed))


def _never_ends(dialect: Dialect, streamed: bool) -> Step:
    first, kind = dialect.events_or_whole(streamed)[0], _kind(dialect, streamed)
    return parts([first], endless(b" " * 4096 if kind == JSON else first), kind=kind)


def _fails_within(dialect: Dialect, streamed: bool) -> Step:
    """Says so in its stream; a whole answer just ends."""
    sent = dialect.events_or_whole(streamed)[:-1]
    if _kind(dialect, streamed) != JSON and dialect.error_event is not None:
        sent = [*sent, dialect.error_event]
    return parts(sent, kind=_kind(dialect, streamed))


def _kind(dialect: Dialect, streamed: bool) -> str:
    return JSON if dialect.whole is not None and not streamed else SSE


async def _huge(exchange: Exchange) -> None:
    await exchange.head(200, {"content-type": JSON, "content-length": str(10 * 2**30)})
    await endless(b"[")(exchange)


FAULTS: Final[Sequence[Fault]] = [
    Fault("limited", _says(429, retry_after="2"), RateLimited, retry_after_s=2.0, attempts=2),
    Fault("limited_too_long", _says(429, retry_after="300"), RateLimited, within_s=60.0, retry_after_s=300.0),
    Fault("failing", _says(500, PROMPT), attempts=2),
    Fault("unavailable", lambda d, s: answer(503, b"<html>no</html>", kind="text/html"), attempts=2),
    Fault("key_refused", _says(401, f"Incorrect API key provided: {KEY}")),
    Fault("no_such_model", _says(404), ModelNotFound),
    Fault("rejected", _says(400, f"not this: {PROMPT}"), InvalidInput),
    Fault("nobody_listens", None, attempts=0),
    Fault("silent", lambda d, s: silence, UpstreamSilent, passes_s=30.0),
    Fault("silent_until_the_deadline", lambda d, s: silence, DeadlineExceeded, passes_s=11.0, within_s=10.0),
    Fault("says_nothing", _body(b": ping\n\n", then=Exchange.until_left), UpstreamSilent, passes_s=30.0),
    Fault("stalls", _begins(Exchange.until_left), UpstreamSilent, begun=True, passes_s=30.0),
    Fault("stalls_until_the_deadline", _begins(Exchange.until_left), DeadlineExceeded, True, 11.0, within_s=10.0),
    Fault("reset_at_once", lambda d, s: Exchange.reset, attempts=2),
    Fault("reset_within", _begins(Exchange.reset), begun=True, attempts=2),
    Fault("cut_within", _begins(Exchange.cut), begun=True, attempts=2),
    Fault("ends_too_early", _begins(None), begun=True, attempts=None),
    Fault("empty", _body(), attempts=None),
    Fault("page", lambda d, s: answer(200, b"<html>hello</html>", kind="text/html; charset=utf-8")),
    Fault("nonsense", _body(b"data: {nonsense\n\n")),
    Fault("not_text", _body(b"data: \xff\xfe\n\n")),
    Fault("packed", _body(b"\x1f\x8b\x08\x00", content_encoding="gzip")),
    Fault("fails_within", _fails_within, begun=True, attempts=None),
    Fault("endless_line", _body(b"data: ", then=endless(b"x" * 4096)), policy={"max_body_bytes": 2**40}),
    Fault("endless_body", _never_ends, begun=True),
    Fault("huge_body", lambda d, s: _huge),
]


@asynccontextmanager
async def served(
    dialect: Dialect, folder: Path, clock: Clock, step: Step | None, **policy: Any
) -> AsyncGenerator[tuple[Workflow, FaultyUpstream]]:
    """The workflow, set up, and the upstream it asks. Afterwards nothing is left of either: no task and no socket."""
    tasks, sockets = asyncio.all_tasks(), _sockets()
    key = folder / "key"
    key.write_text(f"{KEY}\n")
    async with FaultyUpstream() as upstream:
        url = upstream.url if step is not None else f"http://127.0.0.1:{free_port()}"
        upstream.plays(step or silence)
        workflow = dialect.make(url, {**POLICY, **policy}, clock, key)
        await workflow.asetup()
        upstream.asked.clear()  # what setting up has asked is not what the tests are about
        try:
            yield workflow, upstream
            await upstream.until(lambda seen: seen.busy == 0)  # nothing is read on that nobody waits for
        finally:
            await workflow.ateardown()
        await upstream.until(lambda seen: seen.connections == 0)
    await quiescence()
    assert asyncio.all_tasks() == tasks
    assert _sockets() == sockets


async def check_fault(
    fault: Fault, dialect: Dialect, streamed: bool, folder: Path, log: pytest.LogCaptureFixture
) -> None:
    """The right error, in time, no more attempts than allowed, nothing given away, and nothing left behind."""
    log.set_level(logging.DEBUG)
    clock = HandClock(sleepless=True)
    step = fault.play and fault.play(dialect, streamed)
    policy = fault.policy if _kind(dialect, streamed) == SSE else {}
    async with served(dialect, folder, clock, step, **policy) as (workflow, upstream):
        deadline = None if fault.within_s is None else time.monotonic() + fault.within_s
        call = CallContext("request-1", deadline, key_id=CALLERS_KEY)
        got: list[str] = []
        caught: WorkflowError | None = None
        asking = asyncio.create_task(_asked(workflow, dialect, streamed, call, got))
        await _until_it_matters(fault, streamed, upstream, asking, got)
        upstream.go.set()
        if fault.passes_s:
            await quiescence()
            clock.advance(fault.passes_s)
        try:
            await asking
        except WorkflowError as error:
            caught = error
        assert type(caught) is fault.error
        assert caught.retry_after_s == fault.retry_after_s or fault.retry_after_s is None
        asked = len(upstream.asked)
    begun = fault.begun and streamed
    assert bool(got) == begun
    assert asked == 1 if begun else asked <= 2 if fault.attempts is None else asked == fault.attempts
    _require_discreet(caught, log)


async def check_good(dialect: Dialect, streamed: bool, folder: Path, log: pytest.LogCaptureFixture) -> Any:
    """A good answer arrives, the key with the request, and neither in the log. Returns the answer, or the chunks."""
    log.set_level(logging.DEBUG)
    async with served(dialect, folder, HandClock(), dialect.good(streamed)) as (workflow, upstream):
        asked = dialect.ask(PROMPT)
        if streamed:
            async with aclosing(workflow.astream(asked)) as chunks:
                given = [chunk async for chunk in chunks]
        else:
            given = await workflow.ainference(asked)
        (request,) = upstream.asked
    assert PROMPT.encode() in request.body
    assert dialect.key_came(request.headers)
    text = "".join(map(dialect.text, given)) if isinstance(given, list) else dialect.text(given)
    assert text == ANSWER
    _require_discreet(None, log)
    return given


async def check_leaving(dialect: Dialect, streamed: bool, folder: Path) -> None:
    """A caller who leaves ends the upstream's work at once, and makes room for the next."""
    step = _begins(Exchange.until_left)(dialect, streamed) if streamed else silence
    async with served(dialect, folder, HandClock(), step) as (workflow, upstream):
        got: list[str] = []
        asking = asyncio.create_task(_asked(workflow, dialect, streamed, CallContext("request-1"), got))
        await _until_it_matters(Fault("", None, begun=True), streamed, upstream, asking, got)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await upstream.until(lambda seen: seen.busy == 0)
        upstream.plays(dialect.good(streamed=False))
        assert dialect.text(await workflow.ainference(dialect.ask(PROMPT))) == ANSWER


async def check_budget(dialect: Dialect, folder: Path) -> None:
    """An upstream that fails whatever it is asked is asked 1.1 times as often as the workflow, at the most."""
    policy = {"attempts": 5, "retry_reserve": 0, "breaker": {"failures": 10_000}}
    step = answer(500, dialect.error("no"))
    async with served(dialect, folder, HandClock(sleepless=True), step, **policy) as (workflow, upstream):
        for _ in range(100):
            with pytest.raises(UpstreamFailed):
                await workflow.ainference(dialect.ask(PROMPT))
        assert len(upstream.asked) == 110


async def _asked(workflow: Workflow, dialect: Dialect, streamed: bool, call: CallContext, got: list[str]) -> None:
    with working_for(call):
        if not streamed:
            got_whole = await workflow.ainference(dialect.ask(PROMPT))
            raise AssertionError(f"an answer: {got_whole!r}")
        async with aclosing(workflow.astream(dialect.ask(PROMPT))) as chunks:
            async for chunk in chunks:
                got.append(dialect.text(chunk))  # noqa: PERF401 - each as it comes: the test waits for the first


async def _until_it_matters(
    fault: Fault, streamed: bool, upstream: FaultyUpstream, asking: asyncio.Task[None], got: list[str]
) -> None:
    """Until the upstream was asked, or its answer has begun; or everything is over."""
    while not asking.done() and not (got if fault.begun and streamed else upstream.asked):
        await asyncio.sleep(0)


def _require_discreet(error: BaseException | None, log: pytest.LogCaptureFixture) -> None:
    told = log.text
    if error is not None:
        told += "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.__reduce__())
        assert error.__cause__ is None
    for secret in (KEY, CALLERS_KEY, PROMPT, ANSWER):
        assert secret not in told


def _sockets() -> int:
    return sum(
        link.is_symlink() and str(link.readlink()).startswith("socket:") for link in Path("/proc/self/fd").iterdir()
    )


async def quiescence() -> None:
    """Let everybody react who can do so without waiting for anything."""
    for _ in range(30):
        await asyncio.sleep(0)
