"""What a model says of itself, in the words of this protocol: what its card knows, and `null` for what it does not."""

from __future__ import annotations

from typing import Any

from deployments.router.directory import Entry
from deployments.router.protocols.open_inference.metadata import own_version
from deployments.router.protocols.tgi.parameters import check_generates
from workflows.card import Card
from workflows.types.text import MAX_STOP_STRINGS

__all__ = ["model_info"]


def model_info(entry: Entry, card: Card) -> dict[str, Any]:
    """Of one workflow; raises Unsupported if it generates no text.

    A field's older name stands beside its newer one, because clients read either.
    """
    check_generates(card)
    whole = card.context_tokens
    longest_input = None if whole is None else whole - 1
    return {
        "model_id": card.model or entry.name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": entry.dispatcher.max_queue,
        "max_best_of": 1,
        "max_stop_sequences": MAX_STOP_STRINGS,
        "max_input_length": longest_input,
        "max_input_tokens": longest_input,
        "max_total_tokens": whole,
        "max_batch_size": card.batching.max_size if card.batching else card.concurrency,
        "max_client_batch_size": 1,
        "router": "infernet-serve",
        "version": own_version(),
        "sha": None,
        "docker_label": None,
    }
