"""What an input has to wait for before it can be run, where something else does it meanwhile. Knows no model."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

__all__ = ["Prerequisite"]


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Who has other inputs runs those meanwhile.

    Attributes:
        done: Ends, with whatever result, when waiting makes no more sense; in any thread.
        at_most_s: After so many seconds the input is run all the same, and told what the workflow has to say then.
    """

    done: Future[None]
    at_most_s: float
