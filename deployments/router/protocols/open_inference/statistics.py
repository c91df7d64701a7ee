"""The statistics extension: what the replicas that run now have done since they started, and how long it took. Where none
runs, there is nothing but what this router has given up itself.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

from typing import Any

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from deployments.statistics import Duration, Statistics
from workflows.errors import WorkflowError

__all__ = ["all_statistics", "model_statistics"]

_NONE = Duration(0, 0)


async def model_statistics(workflows: Workflows, caller: Caller, name: str, version: str = "") -> list[dict[str, Any]]:
    """One model's, of all its versions or the one that is given. Raises ModelNotFound, and why it is not known where a
    replica does not say."""
    entries = workflows.versions(caller, name, version)
    told = []
    for entry, found in zip(entries, await workflows.statistics(caller, entries), strict=True):
        if isinstance(found, WorkflowError):
            raise found
        told.append(_said(entry, found))
    return told


async def all_statistics(workflows: Workflows, caller: Caller) -> list[dict[str, Any]]:
    """Those of all models that the caller may use, by name, but for models whose replicas do not say."""
    entries = workflows.listed(caller)
    found = await workflows.statistics(caller, entries)
    return [_said(entry, each) for entry, each in zip(entries, found, strict=True) if isinstance(each, Statistics)]


def _said(entry: Entry, found: Statistics) -> dict[str, Any]:
    times = {
        "success": found.success,
        "fail": found.fail,
        "queue": found.queue,
        "compute_input": found.compute_input,
        "compute_infer": found.compute_infer,
        "compute_output": found.compute_output,
        "cache_hit": _NONE,  # there is no cache of answers
        "cache_miss": _NONE,
    }
    batches = [
        {
            "batch_size": size,
            "compute_input": _duration(batch.compute_input),
            "compute_infer": _duration(batch.compute_infer),
            "compute_output": _duration(batch.compute_output),
        }
        for size, batch in sorted(found.batches.items())
    ]
    return {
        "name": entry.known_as,
        "version": entry.version,
        "last_inference": found.last_inference_ms,
        "inference_count": found.inference_count,
        "execution_count": found.execution_count,
        "inference_stats": {name: _duration(duration) for name, duration in times.items()},
        "batch_stats": batches,
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
