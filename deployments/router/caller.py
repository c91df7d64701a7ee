"""Who asks, over whatever protocol: what workflows are asked with, and what is counted and logged of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from starlette.types import Receive

from deployments.config import Limits
from deployments.router.keys import Key

__all__ = ["Caller"]


@dataclass(slots=True, eq=False, kw_only=True)
class Caller:
    """One request's side of the router; each protocol's door makes its own kind.

    Attributes:
        id: What the caller sees in `x-request-id`; the caller may have chosen it.
        call_id: What workflows see: begins with `id` and is unique even if two callers choose the same.
        headers: Names in lower case, without Ray's control headers; of repeated ones the first.
        repeated: The names that came more than once.
        receive: Where it is heard that the caller has left; None where that cancels the task by itself.
        started: `time.perf_counter()` when the request was here.
        session: What the conversation that this belongs to is called, where a protocol has a word for that; others say it
            with the header `x-conversation-id`.
        workflow: For metrics and the log: a name of the directory, or empty. Protocols set it.
        served_by: The workflows that have answered, `degraded` once one of them did so in another's place.
        status: What the protocol's own status line says.
        code: What became of it: `ok` or an error's code.
    """

    id: str
    call_id: str
    key: Key
    limits: Limits
    headers: Mapping[bytes, bytes]
    repeated: AbstractSet[bytes]
    started: float
    receive: Receive | None = None
    session: str | None = None
    workflow: str = ""
    served_by: tuple[str, ...] = ()
    degraded: bool = False
    status: int = 0
    code: str = "ok"
    bytes_out: int = 0
    chunks: int = 0

    def answered_by(self, name: str, *, degraded: bool) -> None:
        """Note who has answered, or begun to."""
        if name not in self.served_by:
            self.served_by = (*self.served_by, name)
        self.degraded |= degraded

    def marks(self) -> list[tuple[str, str]]:
        """The headers, or metadata, that tell the caller who has answered."""
        if not self.served_by:
            return []
        served = [("x-served-by", ", ".join(self.served_by))]
        return [*served, ("x-degraded", "true")] if self.degraded else served
