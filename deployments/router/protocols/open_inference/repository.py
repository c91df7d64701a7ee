"""The model repository extension: which models there are; their setup and teardown inside the replicas that run.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md

Models come and go only with `serve deploy`: what is unloaded stays deployed, and refuses until it is loaded again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from workflows.errors import InvalidInput, Unsupported

__all__ = ["index", "load", "unload"]

_STATES: Final = {"ready": "READY", "loading": "LOADING"}


def index(workflows: Workflows, caller: Caller, *, only_ready: bool) -> list[dict[str, Any]]:
    """The models that the caller may use, by name."""
    found = [
        {
            "name": entry.known_as,
            "version": entry.version,
            "state": _STATES.get(entry.state, "UNAVAILABLE"),
            "reason": entry.reason if entry.reason or entry.state in _STATES else entry.state,
        }
        for entry in workflows.listed(caller)
    ]
    return [model for model in found if model["state"] == "READY" or not only_ready]


async def load(workflows: Workflows, caller: Caller, name: str, parameters: Mapping[str, Any]) -> None:
    """Set the model up in every replica of all its versions. Raises the error tree if one is not ready afterwards."""
    for parameter in parameters:
        raise Unsupported(
            f"{parameter[:64]!r} cannot be loaded: models and their configuration come with serve deploy",
            param=parameter[:64],
        )
    await _each(workflows.load, caller, workflows.versions(caller, name))


async def unload(workflows: Workflows, caller: Caller, name: str, parameters: Mapping[str, Any]) -> None:
    """Tear the model down in every replica of all its versions, after the requests in flight. Raises the error tree if one
    stays loaded."""
    for parameter, setting in parameters.items():
        if parameter != "unload_dependents":  # nothing depends on a workflow
            raise Unsupported(f"unknown parameter {parameter[:64]!r}", param=parameter[:64])
        if type(setting) is not bool:
            raise InvalidInput("unload_dependents must be true or false", param=parameter)
    await _each(workflows.unload, caller, workflows.versions(caller, name))


async def _each(change: Callable[[Caller, Entry], Awaitable[None]], caller: Caller, entries: Sequence[Entry]) -> None:
    """All at once; each is tried, and then the first error is raised."""
    outcomes = await asyncio.gather(*(change(caller, entry) for entry in entries), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
