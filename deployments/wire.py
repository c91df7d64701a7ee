"""What crosses to a replica and back: tuples of plain data (`workflows.plain`), that is JSON types, bytes and numpy arrays.

Deadlines travel as seconds left, and arrivals as seconds since, because two machines share no clock. Errors travel as
values, by code: a Ray exception would carry paths, pids and addresses in its text, and be logged as a crash of the replica.
"""

from __future__ import annotations

import time
from typing import Any

from deployments.client import Item, Outcome, Timing
from deployments.standing import LoadState
from workflows.context import CallContext
from workflows.plain import plain, plain_chunk
from workflows.plain_error import PlainError, decode_error, encode_error

__all__ = [
    "decode_item",
    "decode_outcome",
    "encode_item",
    "encode_outcome",
    "plain",
    "plain_chunk",
]

PlainItem = tuple[Any, str, float | None, str | None, int, str | None, str | None, float]
PlainOutcome = tuple[Any, PlainError | None, float, float, int]
PlainStanding = tuple[str, int, LoadState, str]


def encode_item(item: Item) -> PlainItem:
    call, now = item.call, time.monotonic()
    return (
        item.input_data,
        call.request_id,
        None if call.deadline is None else call.deadline - now,
        call.key_id,
        call.priority,
        call.session_id,
        call.traceparent,
        now - item.since if item.since else 0.0,
    )


def decode_item(wire: PlainItem) -> Item:
    input_data, request_id, seconds_left, key_id, priority, session_id, traceparent, waited_s = wire
    now = time.monotonic()
    deadline = None if seconds_left is None else now + seconds_left
    return Item(
        input_data, CallContext(request_id, deadline, key_id, priority, session_id, traceparent), now - waited_s
    )


def encode_outcome(outcome: Outcome) -> PlainOutcome:
    timing = outcome.timing
    error = None if outcome.error is None else encode_error(outcome.error)
    return (outcome.output, error, timing.queue_s, timing.model_s, timing.batch_size)


def decode_outcome(wire: PlainOutcome) -> Outcome:
    output, error, queue_s, model_s, batch_size = wire
    return Outcome(output, None if error is None else decode_error(error), Timing(queue_s, model_s, batch_size))
