"""What every `WorkflowClient` promises, as rules that run over any of them: in this process or behind a Ray handle.

Each rule takes a client of one of `DEPLOYMENTS` and a `Place`: an empty folder that the test and the workflow share.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from deployments.client import Item, Outcome, WorkflowClient
from deployments.config import WorkflowSettings
from tests.bits import EVERY_BFLOAT16
from tests.orders import AsyncOrders, SyncOrders
from workflows import BaseInferenceWorkflow, CallContext
from workflows.errors import DeadlineExceeded, InvalidInput, Overloaded, WorkflowError
from workflows.tensors import widened

__all__ = [
    "DEPLOYMENTS",
    "PATIENCE_S",
    "RULES",
    "Deployment",
    "Place",
    "Rule",
    "all_of",
    "collect",
    "error_of",
    "numbers",
    "read",
    "rule",
]

PATIENCE_S: Final = 20.0
ENDLESS: Final = 1_000_000


@dataclass(frozen=True)
class Deployment:
    """One workflow as it must be deployed for the rules that name it.

    Attributes:
        slots: How many gated items occupy the model.
    """

    workflow: type[BaseInferenceWorkflow[Any, Any, Any]]
    settings: WorkflowSettings = field(default_factory=WorkflowSettings)
    slots: int = 1

    @property
    def import_path(self) -> str:
        return f"{self.workflow.__module__}.{self.workflow.__name__}"


_NARROW = WorkflowSettings(max_queue=1, max_streams=1)
DEPLOYMENTS: Final[dict[str, Deployment]] = {
    "sync": Deployment(SyncOrders),
    "async": Deployment(AsyncOrders, slots=2),
    "narrow-sync": Deployment(SyncOrders, _NARROW),
    "narrow-async": Deployment(AsyncOrders, _NARROW, slots=2),
}


@dataclass(frozen=True)
class Place:
    """A folder that the rule and the workflow share, and how the deployment at hand behaves."""

    folder: Path
    deployment: Deployment

    def order(self, value: int, *, request_id: str = "", within_s: float | None = None, **about: Any) -> Item:
        for gate in (about.get("gate"), about.get("closing_gate")):
            if gate:
                os.mkfifo(self.folder / gate)
        deadline = None if within_s is None else time.monotonic() + within_s
        return Item(
            {"folder": str(self.folder), "value": value, **about},
            CallContext(request_id or f"request-{value}", deadline),
        )

    @asynccontextmanager
    async def held(self, *gates: str) -> AsyncIterator[None]:
        """Inside, the workflow stands at these gates; it goes on at the end."""
        async with AsyncExitStack() as held:
            for gate in gates:
                held.callback(os.close, await self._meet(self.folder / gate))
            yield

    async def let_pass(self, gate: str) -> None:
        async with self.held(gate):
            pass

    @property
    def ran(self) -> list[int]:
        """The values that reached the model, in that order."""
        ledger = self.folder / "ledger"
        return [int(line) for line in ledger.read_text(encoding="utf-8").split()] if ledger.exists() else []

    async def _meet(self, gate: Path) -> int:
        opening = asyncio.ensure_future(asyncio.to_thread(os.open, gate, os.O_WRONLY))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(opening)
        except TimeoutError:
            reader = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)  # frees our own thread
            os.close(await opening)
            os.close(reader)
            raise AssertionError(f"the workflow never came to the gate {gate.name}") from None

    @asynccontextmanager
    async def busy(self, client: WorkflowClient) -> AsyncIterator[None]:
        """Inside, the model is fully occupied."""
        gates = [f"busy-{number}" for number in range(self.deployment.slots)]
        items = [self.order(9000 + number, gate=gate) for number, gate in enumerate(gates)]
        running = asyncio.create_task(collect(client, items))
        try:
            async with self.held(*gates):
                yield
        finally:
            await running


async def collect(client: WorkflowClient, items: list[Item]) -> list[Outcome]:
    """All outcomes in the order of the items; every index must come exactly once."""
    found: dict[int, Outcome] = {}
    async with asyncio.timeout(PATIENCE_S), aclosing(client.submit(items)) as groups:
        async for group in groups:
            assert group, "an empty group"
            for index, outcome in group:
                assert index not in found, f"index {index} came twice"
                found[index] = outcome
    assert sorted(found) == list(range(len(items)))
    return [found[index] for index in range(len(items))]


def error_of(outcome: Outcome) -> WorkflowError:
    assert outcome.error is not None, f"an answer instead of an error: {outcome.output}"
    return outcome.error


def numbers(groups: list[list[Any]]) -> list[int]:
    return [chunk["number"] for group in groups for chunk in group]


async def read(client: WorkflowClient, item: Item) -> tuple[list[list[Any]], WorkflowError | None]:
    """A stream's groups, and the error that ended it."""
    groups: list[list[Any]] = []
    try:
        async with asyncio.timeout(PATIENCE_S), aclosing(client.stream(item)) as stream:
            async for group in stream:
                assert group, "an empty group"
                groups.append(group)
    except WorkflowError as error:
        return groups, error
    return groups, None


# ---- the rules -----------------------------------------------------------------------------------------------------------

Check = Callable[[WorkflowClient, Place], Awaitable[None]]


@dataclass(frozen=True)
class Rule:
    """`check` holds for a client of `deployment`."""

    check: Check
    deployment: str

    @property
    def id(self) -> str:
        return f"{self.check.__name__}-{self.deployment}"


RULES: Final[list[Rule]] = []


def rule(*deployments: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES.extend(Rule(check, deployment) for deployment in deployments)
        return check

    return register


@rule("sync", "async")
async def every_index_comes_once_with_its_own_answer(client: WorkflowClient, place: Place) -> None:
    items = [place.order(value, bucket="ab"[value % 2]) for value in range(20)]
    outcomes = await collect(client, items)
    assert [outcome.output["value"] for outcome in outcomes] == [2 * value for value in range(20)]
    assert all(outcome.error is None and outcome.timing.batch_size >= 1 for outcome in outcomes)


@rule("sync", "async")
async def arrays_come_and_go_bit_by_bit(client: WorkflowClient, place: Place) -> None:
    sent = [
        EVERY_BFLOAT16,
        EVERY_BFLOAT16.reshape(256, 256).T[:3],
        EVERY_BFLOAT16[0x7F81:0x7F82].reshape(()),
        EVERY_BFLOAT16[:0],
        widened(EVERY_BFLOAT16),
        np.array(["ä", "b"], object),
    ]
    outcomes = await collect(client, [place.order(value, tensor=array) for value, array in enumerate(sent)])
    groups, error = await read(client, place.order(9, count=2, tensor=EVERY_BFLOAT16))
    assert error is None
    chunks = [chunk["tensor"] for group in groups for chunk in group]
    got = [outcome.output["tensor"] for outcome in outcomes] + chunks
    for array, expected in zip(got, [*sent, EVERY_BFLOAT16, EVERY_BFLOAT16], strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        if array.dtype == object:
            assert array.tolist() == expected.tolist()
        else:
            assert array.tobytes() == expected.tobytes()


@rule("sync", "async")
async def nothing_to_do_is_done_at_once(client: WorkflowClient, place: Place) -> None:
    assert await collect(client, []) == []


@rule("sync", "async")
async def a_slow_item_does_not_hold_back_a_fast_one(client: WorkflowClient, place: Place) -> None:
    fast, slow = place.order(1, bucket="fast"), place.order(2, bucket="slow", gate="slow")
    # On one thread whoever came first runs first; an async workflow runs both at once.
    items = [fast, slow] if place.deployment.slots == 1 else [slow, fast]
    async with aclosing(client.submit(items)) as groups:
        coming = asyncio.ensure_future(anext(groups))
        async with place.held("slow"):
            ((index, outcome),) = await coming
            assert items[index] is fast
            assert outcome.output["value"] == 2
        ((index, outcome),) = await anext(groups)
        assert items[index] is slow
        assert outcome.output["value"] == 4


@rule("sync", "async")
async def a_refusal_is_the_outcome_of_its_item_alone(client: WorkflowClient, place: Place) -> None:
    malformed = Item({"folder": str(place.folder), "value": "three"}, CallContext("malformed"))
    late = place.order(4, within_s=-1.0)
    items = [place.order(1), malformed, place.order(2, fault="invalid"), late, place.order(5)]
    outcomes = await collect(client, items)
    assert [outcome.error and outcome.error.code for outcome in outcomes] == [
        None,
        "invalid",
        "invalid",
        "deadline",
        None,
    ]
    assert [outcomes[0].output["value"], outcomes[4].output["value"]] == [2, 10]
    assert error_of(outcomes[1]).param == "value"
    assert error_of(outcomes[2]).message == "no such dish"
    assert not error_of(outcomes[3]).may_have_run
    assert 4 not in place.ran


@rule("sync", "async")
async def a_crash_is_an_internal_error_and_keeps_its_secret(client: WorkflowClient, place: Place) -> None:
    outcomes = await collect(client, [place.order(1), place.order(2, fault="crash"), place.order(3)])
    error = error_of(outcomes[1])
    assert (type(error), error.code, error.message) == (WorkflowError, "internal", "internal error")
    assert [outcomes[0].output["value"], outcomes[2].output["value"]] == [2, 6]


@rule("sync", "async")
async def a_deadline_that_passes_in_the_queue_means_not_run(client: WorkflowClient, place: Place) -> None:
    item = place.order(1, within_s=0.03)
    async with place.busy(client):
        waiting = asyncio.create_task(collect(client, [item]))
        await asyncio.sleep((item.call.seconds_left() or 0.0) + 0.05)  # its clock may start when it arrives there
    error = error_of((await waiting)[0])
    assert isinstance(error, DeadlineExceeded)
    assert not error.may_have_run
    assert 1 not in place.ran


@rule("sync", "async")
async def cancel_drops_what_waits(client: WorkflowClient, place: Place) -> None:
    refused = Item({}, CallContext("refused"))  # its outcome shows that the others have arrived
    groups = client.submit([refused, place.order(1), place.order(2)])
    async with aclosing(groups):
        async with place.busy(client):
            ((index, _),) = await anext(groups)
            assert index == 0
            await client.cancel(["request-1", "unknown"])
            ((index, outcome),) = await anext(groups)
            assert index == 1
            assert error_of(outcome).code == "cancelled"
        ((index, outcome),) = await anext(groups)
        assert index == 2
        assert outcome.output["value"] == 4
    assert 1 not in place.ran


@rule("sync", "async")
async def closing_drops_what_waits(client: WorkflowClient, place: Place) -> None:
    refused = Item({}, CallContext("refused"))
    async with place.busy(client):
        groups = client.submit([refused, place.order(1)])
        await anext(groups)
        await groups.aclose()
        await collect(client, [Item({}, CallContext("barrier"))])  # refused at once, after what was said before it
    await collect(client, [place.order(2)])
    assert 1 not in place.ran
    assert 2 in place.ran


@rule("sync", "async")
async def hooks_see_whose_call_it_is(client: WorkflowClient, place: Place) -> None:
    outcomes = await collect(client, [place.order(value, request_id=f"mine-{value}") for value in range(3)])
    assert [outcome.output["request_id"] for outcome in outcomes] == ["mine-0", "mine-1", "mine-2"]
    groups, _ = await read(client, place.order(7, request_id="mine-7", count=3))
    assert {chunk["request_id"] for group in groups for chunk in group} == {"mine-7"}


@rule("narrow-sync", "narrow-async")
async def a_full_queue_refuses(client: WorkflowClient, place: Place) -> None:
    async with place.busy(client):
        items = [place.order(value) for value in (1, 2, 3)]
        async with aclosing(client.submit(items)) as groups:
            refused = await anext(groups)
    assert [index for index, _ in refused] == [1, 2]
    for _, outcome in refused:
        error = error_of(outcome)
        assert isinstance(error, Overloaded)
        assert error.retry_after_s
        assert not error.may_have_run
    assert not {2, 3} & set(place.ran)


@rule("sync", "async")
async def a_stream_comes_in_order_and_its_first_chunk_at_once(client: WorkflowClient, place: Place) -> None:
    async with aclosing(client.stream(place.order(1, count=200, gate="second", at=1))) as stream:
        first = await anext(stream)
        assert numbers([first]) == [0]
        assert place.ran == [1]  # nothing else has been computed
        rest = asyncio.ensure_future(all_of(stream))
        await place.let_pass("second")
        await rest
    assert numbers(rest.result()) == list(range(1, 200))


@rule("sync", "async")
async def an_empty_stream_ends(client: WorkflowClient, place: Place) -> None:
    assert await read(client, place.order(1, count=0)) == ([], None)


@rule("sync", "async")
async def leaving_a_stream_runs_its_finally(client: WorkflowClient, place: Place) -> None:
    stream = client.stream(place.order(1, count=ENDLESS, closing_gate="finally"))
    await anext(stream)
    await asyncio.gather(stream.aclose(), place.let_pass("finally"))


@rule("sync", "async")
async def a_hook_hears_that_its_caller_has_left(client: WorkflowClient, place: Place) -> None:
    order = place.order(1, count=3, at=1, fault="until cancelled", closing_gate="finally")
    stream = client.stream(order)
    await anext(stream)
    leaving = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, place.let_pass("finally"), return_exceptions=True)
    await stream.aclose()
    outcomes = await collect(client, [place.order(2)])  # the thread is free again
    assert outcomes[0].output["value"] == 4


@rule("sync", "async")
async def an_error_before_the_first_chunk_is_raised(client: WorkflowClient, place: Place) -> None:
    groups, error = await read(client, place.order(1, count=3, fault="invalid", at=0))
    assert groups == []
    assert isinstance(error, InvalidInput)
    assert (error.message, error.param) == ("no such dish", "value")
    groups, error = await read(client, Item({"value": 1}, CallContext("malformed")))
    assert groups == []
    assert isinstance(error, InvalidInput)
    assert error.param == "folder"


@rule("sync", "async")
async def an_error_between_chunks_comes_after_them(client: WorkflowClient, place: Place) -> None:
    groups, error = await read(client, place.order(1, count=9, fault="crash", at=4))
    assert numbers(groups) == [0, 1, 2, 3]
    assert error is not None
    assert (error.code, error.message) == ("internal", "internal error")


@rule("sync", "async")
async def a_late_stream_never_begins(client: WorkflowClient, place: Place) -> None:
    groups, error = await read(client, place.order(1, count=3, within_s=-1.0))
    assert groups == []
    assert isinstance(error, DeadlineExceeded)
    assert not error.may_have_run
    assert place.ran == []


@rule("sync", "async")
async def a_stream_ends_at_its_deadline(client: WorkflowClient, place: Place) -> None:
    groups, error = await read(client, place.order(1, count=ENDLESS, within_s=0.05))
    assert numbers(groups) == list(range(len(numbers(groups))))
    assert isinstance(error, DeadlineExceeded)
    assert error.may_have_run == bool(groups)


@rule("sync", "async")
async def a_stream_and_batches_take_turns(client: WorkflowClient, place: Place) -> None:
    async def drain() -> None:
        async with aclosing(client.stream(place.order(1, count=ENDLESS))) as stream:
            async for _ in stream:
                flowing.set()

    flowing = asyncio.Event()
    draining = asyncio.create_task(drain())
    await flowing.wait()
    outcomes = await collect(client, [place.order(2)])
    assert outcomes[0].output["value"] == 4
    assert not draining.done()
    draining.cancel()
    await asyncio.wait([draining])


@rule("sync", "async")
async def streams_run_side_by_side(client: WorkflowClient, place: Place) -> None:
    async with (
        aclosing(client.stream(place.order(1, count=300, request_id="one"))) as one,
        aclosing(client.stream(place.order(2, count=300, request_id="two"))) as two,
    ):
        begun = [await anext(one), await anext(two)]
        rest = await asyncio.gather(all_of(one), all_of(two))
    for first, others, name in zip(begun, rest, ("one", "two"), strict=True):
        assert numbers([first, *others]) == list(range(300))
        assert {chunk["request_id"] for group in others for chunk in group} == {name}


async def all_of(stream: AsyncGenerator[list[Any]]) -> list[list[Any]]:
    return [group async for group in stream]


@rule("narrow-sync", "narrow-async")
async def too_many_streams_are_refused(client: WorkflowClient, place: Place) -> None:
    async with aclosing(client.stream(place.order(1, count=ENDLESS))) as stream:
        await anext(stream)
        groups, error = await read(client, place.order(2, count=3))
    assert groups == []
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    assert 2 not in place.ran


@rule("sync", "async")
async def the_card_describes_the_workflow(client: WorkflowClient, place: Place) -> None:
    card = await client.card()
    assert card.kind == "json"
    assert card.streams
    assert card.retry_safe
    assert card.summary.startswith("Doubles numbers")
    assert card.concurrency == place.deployment.slots
    assert (card.batching and card.batching.max_size) == (8 if place.deployment.slots == 1 else None)
    assert "value" in card.input_schema["properties"]
