"""Who answers in place of a workflow that cannot: its ladder, rung by rung. Knows no wire format.

Only failures that are nobody's fault but the workflow's lead on: what is wrong with a request is wrong for all, and what
somebody has begun to answer is answered by no other. Fallbacks of fallbacks are not asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final

from deployments.ladders import rung_complaint
from deployments.router.directory import Directory, Entry
from workflows.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    RateLimited,
    UpstreamFailed,
    WorkflowError,
)

__all__ = ["is_over", "leads_on", "rungs", "stands_aside"]

log = logging.getLogger(__name__)

_FAILURES: Final = (UpstreamFailed, Overloaded, NotReady, RateLimited)
"""RateLimited is what a remote model's server says to us; a caller who asks too much never comes so far."""
_AWAY: Final = frozenset({"loading", "failed", "stopping", "unloaded"})


@lru_cache(maxsize=256)
def _say_once(complaint: str) -> None:
    """Not for every request: it stays as it is until somebody deploys something else."""
    log.warning("%s", complaint)


def stands_aside(entry: Entry) -> bool:
    """Whether others are to be asked first: nobody waits for a workflow that is away while another one can answer."""
    return entry.state in _AWAY and entry.card is not None and bool(entry.card.fallbacks)


def leads_on(entry: Entry, error: WorkflowError) -> bool:
    """Whether another workflow is asked after this one has failed."""
    return isinstance(error, _FAILURES) and entry.card is not None and bool(entry.card.fallbacks)


def is_over(error: WorkflowError) -> bool:
    """Whether nobody else is asked after a fallback has failed like this: the caller or the time is gone."""
    return isinstance(error, Cancelled | DeadlineExceeded)


def rungs(directory: Directory, entry: Entry, may_use: Callable[[Entry], bool], session: str | None) -> Iterator[Entry]:
    """Those that may answer in its place, best first: that this caller may use, that are here, and that keep to the same."""
    card = entry.card
    if card is None:
        return
    seen = {entry.name}
    for name in card.fallbacks:
        try:
            other = directory.find(name, may_use, session=session)
        except ModelNotFound:
            continue
        if not may_use(other) or other.name in seen:
            continue
        seen.add(other.name)
        if other.card is None:
            other.wake()
            continue
        if complaint := rung_complaint(card, other.card):
            _say_once(f"workflow {entry.name} does not fall back on {name}: {complaint}")
        elif other.state not in _AWAY:
            yield other
