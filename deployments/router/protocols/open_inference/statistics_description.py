"""The statistics extension described."""

from __future__ import annotations

from typing import Final

from deployments.router.openapi.parts import Json, closed, get_operation, ref
from deployments.router.protocols.open_inference.description import ERROR, TAG

__all__ = ["statistics_paths", "statistics_schemas"]

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_COMPUTING: Final = ("compute_input", "compute_infer", "compute_output")
_TIMES: Final = ("success", "fail", "queue", *_COMPUTING, "cache_hit", "cache_miss")


def statistics_paths() -> Json:
    """Of all models; that of one is among the model's paths."""
    about = "What the replicas of all models have done"
    return {"/v2/models/stats": {"get": get_operation("statistics", TAG, about, ref("Statistics"), error=ERROR)}}


def statistics_schemas() -> Json:
    duration = ref("StatisticDuration")
    batch = closed({"batch_size": _COUNT, **dict.fromkeys(_COMPUTING, duration)})
    model = {
        "name": _TEXT,
        "version": _TEXT,
        "last_inference": {**_COUNT, "description": "Milliseconds since 1970; 0 for never."},
        "inference_count": _COUNT,
        "execution_count": {**_COUNT, "description": "Runs of the model: a batch is one."},
        "inference_stats": closed(dict.fromkeys(_TIMES, duration)),
        "batch_stats": {"type": "array", "items": batch},
    }
    return {
        "StatisticDuration": closed({"count": _COUNT, "ns": _COUNT}),
        "Statistics": closed({"model_stats": {"type": "array", "items": closed(model)}}),
    }
