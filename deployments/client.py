"""The seam between the router and a workflow, wherever it runs: in this process, behind a Ray handle, over a socket.

Only plain data crosses it: JSON types, bytes and numpy arrays. All implementations pass one contract suite.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from deployments.standing import Standing
from deployments.statistics import Statistics
from workflows.card import Card
from workflows.context import CallContext
from workflows.errors import WorkflowError

__all__ = ["MODEL_AFFINITY", "Item", "Outcome", "Timing", "WorkflowClient"]

MODEL_AFFINITY: Final = "model "
"""What the affinity of a request begins with that names its model."""


@dataclass(slots=True)  # not frozen: that would double what it costs to make one
class Item:
    """One input on its way to a workflow, with the call it belongs to; for reading only.

    `since` is when it came to whoever sends it, as a reading of `time.monotonic()` of this process; 0 means now.
    `affinity` is what it has in common with others that had better go to the same replica, because that remembers
    something of it: its session, or the model that it names, which begins with `MODEL_AFFINITY`. It does not travel.
    """

    input_data: Any
    call: CallContext
    since: float = 0.0
    affinity: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where an item's time went in the replica: seconds waiting, seconds in the model, items in its batch."""

    queue_s: float = 0.0
    model_s: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: `output` as plain data, or `error`."""

    output: Any = None
    error: WorkflowError | None = None
    timing: Timing = field(default_factory=Timing)


class WorkflowClient(Protocol):
    """One workflow, as its callers see it. All methods belong to one event loop."""

    def submit(self, items: Sequence[Item]) -> AsyncGenerator[list[tuple[int, Outcome]]]:
        """Send several items in one call; their outcomes come in groups, each with its index in `items`, as they finish.

        Every index comes exactly once, unless this raises: ReplicaLost (whatever is outstanding may have run),
        Overloaded or NotReady (nothing ran). An outcome may be ReplicaLost as well, and says whether its
        item may have run. Closing the generator drops the items that have not started.
        """
        ...

    def stream(self, item: Item) -> AsyncGenerator[list[Any]]:
        """One item's chunks as plain data, in groups of those that were ready together, never empty.

        Raises the error tree. Closing it closes the workflow's own stream, before the next chunk is computed.
        """
        ...

    async def cancel(self, request_ids: Sequence[str]) -> None:
        """The callers of these requests have left: drop what has not started. Best effort, unknown ids are ignored."""
        ...

    async def tell_waiting(self, caller: str, items: float) -> None:
        """So many items wait at this caller for each replica: what Serve scales by, beside what the replicas hold.

        Best effort, and forgotten after a few seconds (`deployments.runner.EXPECTED_S`). `caller` names who says it.
        """
        ...

    async def card(self) -> Card:
        """The workflow's card, also while it is unloaded. Raises NotReady before its first setup."""
        ...

    async def unload(self, timeout_s: float) -> list[Standing]:
        """Take the workflow out of memory in every running replica; what became of each. Idempotent.

        A replica refuses new work at once (Unloaded), finishes what it has taken in, open streams among it, and tears
        the workflow down. One that is still busy when the time is up serves again as if nothing had been.
        Replicas that are started later, or again, set the workflow up as always. Changes of a replica happen one after
        the other, and go on if whoever asked for them leaves.

        Raises:
            DeadlineExceeded: A replica is still busy, and stays loaded; or it is still being unloaded.
            NotReady: No replica runs, or a teardown has failed; the workflow is unloaded all the same.
            ReplicaLost: A replica is stopping, or did not answer.
        """
        ...

    async def load(self, timeout_s: float) -> list[Standing]:
        """Set the workflow up again, with what each running replica was given; they all take work again. Idempotent.

        Raises:
            NotReady: No replica runs, or a setup has failed: that replica stays unloaded, for the reason told.
            DeadlineExceeded: A setup takes longer; it goes on.
            ReplicaLost: A replica is stopping, or did not answer.
        """
        ...

    async def statistics(self) -> Statistics:
        """What the running replicas have counted since each was started, summed up; nothing where none runs.

        Raises the error tree where one does not answer.
        """
        ...
