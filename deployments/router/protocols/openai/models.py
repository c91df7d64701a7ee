"""`GET /v1/models`: which models there are for chat, text completions, embeddings and speech."""

from __future__ import annotations

import time
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from workflows.errors import ModelNotFound

__all__ = ["listed_models", "model"]

KINDS: Final = ("generate", "embed", "speech")
OWNER: Final = "infernet-serve"
STARTED: Final = int(time.time())
"""Models do not say when they were made; no model's time is later than this router's."""


def listed_models(workflows: Workflows, caller: Caller) -> dict[str, Any]:
    """Every name that this caller may ask for: of models, of their versions, and at last their aliases."""
    entries = [entry for entry in workflows.listed(caller) if _speaks(entry)]
    by_name = {entry.known_as: entry for entry in entries}
    for entry in entries:
        by_name.setdefault(entry.name, entry)
    for entry in entries:
        for alias in entry.card.aliases if entry.card else ():
            by_name.setdefault(alias, entry)
    return {"object": "list", "data": [_model(name, entry) for name, entry in by_name.items()]}


def model(workflows: Workflows, caller: Caller, name: str) -> dict[str, Any]:
    """One of them, by its name or an alias. Raises ModelNotFound."""
    entry = workflows.find(caller, name)
    if not _speaks(entry):
        raise ModelNotFound()
    return _model(name, entry)


def _speaks(entry: Entry) -> bool:
    """Whether this protocol can ask it. One that never was ready has not said what it is."""
    return entry.card is not None and entry.card.kind in KINDS


def _model(name: str, entry: Entry) -> dict[str, Any]:
    """OpenAI's fields; and, as vLLM has them, the name behind an alias and how many tokens the model takes."""
    root = name if name in {entry.name, entry.known_as} else entry.name
    context = entry.card.context_tokens if entry.card else None
    more = {} if context is None else {"max_model_len": context}
    return {"id": name, "object": "model", "created": STARTED, "owned_by": OWNER, "root": root, **more}
