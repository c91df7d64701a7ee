"""Which workflows there are right now, by name, version and alias. No Ray: discovery fills it in, protocols read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from deployments.router.dispatch import Dispatcher
from deployments.router.traffic import Traffic
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

    @property
    def known_as(self) -> str:
        """The name under which callers find it, with its version or without."""
        return self.name if self.card is None else self.card.known_as

    @property
    def version(self) -> str:
        return "1" if self.card is None else self.card.version

    def is_alone_as(self, name: str) -> bool:
        """Whether this name means this application, and no other version of the same."""
        return self.name == name != self.known_as

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
    """All entries. Belongs to the router's event loop.

    Attributes:
        traffic: Which version of a model gets a request that names none; replaced as a whole when the shares change.
    """

    traffic: Traffic = field(default_factory=Traffic)
    _entries: dict[str, Entry] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        """Entries by name, in alphabetical order."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def find(
        self,
        name: str,
        may_use: Callable[[Entry], bool] = bool,
        version: str = "",
        session: str | None = None,
    ) -> Entry:
        """The entry of this name, else of this alias, and of this version; raises ModelNotFound.

        An application that is asked by its own name answers itself, whatever it is a version of. Else, where no version is
        asked for, `traffic` chooses among those that are ready. Where that says nothing, it is the entry of this name, or
        else the newest version; one that is ready before others, and none whose share is 0 while there is another.

        Args:
            may_use: Whom it is for: what it does not accept is passed over while there is something else.
            session: That of the request, if any, which stays with its version.
        """
        called = self._called(name, may_use)
        named = called[0] if called and may_use(called[0]) else None
        known_as = called[0].known_as if called else name
        if named is not None and (
            version == named.version if version else named.is_alone_as(name) or known_as not in self.traffic
        ):
            return named
        versions = [entry for entry in self.versions(known_as) if may_use(entry)]
        found: Entry | None
        if version:
            found = next((entry for entry in versions if entry.version == version), None)
        else:
            ready = {entry.version: entry for entry in reversed(versions) if entry.state == "ready"}
            chosen = self.traffic.choose(known_as, ready.keys(), session)
            others = [*([] if named is None else [named]), *reversed(versions)]
            wanted = [entry for entry in others if not self.traffic.leaves_out(known_as, entry.version)] or others
            # Of those that are equally good, the first.
            found = max(wanted, key=lambda entry: entry.state == "ready", default=next(iter(called), None))
            if chosen is not None:
                found = ready[chosen]
        if found is None:
            raise ModelNotFound()
        return found

    def versions(self, known_as: str) -> list[Entry]:
        """The versions that are known of a model, oldest first; numbers in them count as such."""
        return sorted((entry for entry in self if entry.known_as == known_as), key=lambda entry: _age(entry.version))

    def _called(self, name: str, may_use: Callable[[Entry], bool]) -> list[Entry]:
        """The entries of this name or alias, one that may be used before others."""
        entry = self._entries.get(name)
        if entry is not None and may_use(entry):
            return [entry]
        found = [] if entry is None else [entry]
        found += [other for other in self if other.card and name in other.card.aliases]
        return sorted(found, key=lambda other: not may_use(other))

    def put(self, entry: Entry) -> None:
        self._entries[entry.name] = entry

    def remove(self, name: str) -> None:
        self._entries.pop(name, None)


def _age(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9]+", version)]
