"""Which workflows there are right now, by name and alias. No Ray: discovery fills it in, protocols read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from deployments.router.dispatch import Dispatcher
from deployments.statistics import Statistics
from workflows.card import Card
from workflows.errors import ModelNotFound

__all__ = ["Directory", "Entry", "State"]

State = Literal["loading", "ready", "failed", "stopping", "unloaded"]


def _sleep_on() -> None: ...


@dataclass(slots=True)
class Entry:
    """One workflow application.

    Attributes:
        state: `unloaded` once no running replica has it loaded; requests are refused by the replicas, which know best.
        reason: What is wrong, for callers; a ready one may have a reason, if an upgrade of it failed.
        detail: The same for operators: with the text of an exception that is not ours, which may hold paths.
        card: None until the workflow was first ready; kept while it is upgraded.
        replicas: That run.
        lanes: Open local lanes to them.
        wake: Called for somebody who asks while there is no card, which no replica can give as long as none runs.
    """

    name: str
    dispatcher: Dispatcher
    state: State = "loading"
    reason: str = ""
    detail: str = ""
    card: Card | None = None
    replicas: int = 0
    lanes: int = 0
    wake: Callable[[], None] = _sleep_on

    async def statistics(self) -> Statistics:
        """See `WorkflowClient.statistics`; with what this router, and no other one, has given up by itself."""
        whole = await self.dispatcher.client.statistics()
        whole.merge(self.dispatcher.counts.statistics())
        return whole

    async def unload(self, timeout_s: float) -> None:
        """See `WorkflowClient.unload`, which says what this raises; this entry says so from then on."""
        await self.dispatcher.client.unload(timeout_s)
        if self.state in ("ready", "loading"):
            self.state, self.reason, self.detail = "unloaded", "", ""

    async def load(self, timeout_s: float) -> None:
        """See `WorkflowClient.load`, which says what this raises; from then on this entry is of what was loaded."""
        await self.dispatcher.client.load(timeout_s)
        self.card = await self.dispatcher.client.card()
        if self.state in ("unloaded", "loading"):
            self.state, self.reason, self.detail = "ready", "", ""


@dataclass(slots=True)
class Directory:
    """All entries. Belongs to the router's event loop."""

    _entries: dict[str, Entry] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        """Entries by name, in alphabetical order."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def find(self, name: str, may_use: Callable[[str], bool] = bool) -> Entry:
        """The entry of this name, else of this alias; raises ModelNotFound.

        Args:
            may_use: Whom it is for: of several entries, the first one whose name it accepts, if there is any.
        """
        entry = self._entries.get(name)
        if entry is not None and may_use(entry.name):
            return entry
        found = [] if entry is None else [entry]
        found += [other for other in self if other.card and name in other.card.aliases]
        if not found:
            raise ModelNotFound()
        return next((other for other in found if may_use(other.name)), found[0])

    def put(self, entry: Entry) -> None:
        self._entries[entry.name] = entry

    def remove(self, name: str) -> None:
        self._entries.pop(name, None)
