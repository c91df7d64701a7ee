"""Who serves a model for a task, as the hub says it: asked once, before there are callers.

The library looks it up within a call, and waits for the hub in the middle of everybody else's calls; but it keeps what it
learns, so that what was looked up here is not looked up again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from workflows.errors import InvalidInput, WorkflowError

__all__ = ["addresses"]

log = logging.getLogger(__name__)

# What these give is fetched by the library from wherever they say, with a session of its own and without limits.
_FETCHED: Final = frozenset({"fal-ai", "replicate", "wavespeed", "zai-org"})


def addresses(helper_for: Any, provider: str, task: str, models: Iterable[str], key: str, *, media: bool) -> str:
    """The one origin at which all models are asked. Blocks.

    Raises InvalidInput naming an option, or WorkflowError where the hub does not answer.

    Args:
        helper_for: `huggingface_hub.inference._providers.get_provider_helper`.
        key: What the library takes for the key; it decides whether the provider is asked by way of Hugging Face.
        media: Whether files come.
    """
    found = {}
    for model in models:
        try:
            helper = helper_for(provider, task=task, model=model)
            mapped = helper._prepare_mapping_info(model)
            parts = urlsplit(helper._prepare_url(key, mapped.provider_id))
        except ValueError as cause:
            log.warning("model %s cannot be asked: %s", model, cause)
            raise InvalidInput(
                f"model: the hub knows of no way to ask {model} for {task} at {provider}", param="model"
            ) from None
        except Exception as cause:
            raise WorkflowError(f"the hub does not say who serves {model}: {type(cause).__name__}") from cause
        if media and helper.provider in _FETCHED:
            raise InvalidInput(
                f"provider: {helper.provider} gives addresses of files, which would be fetched without limits",
                param="provider",
            )
        found[f"{parts.scheme}://{parts.netloc}"] = model
    if len(found) != 1:
        raise InvalidInput("models: they are not all asked at one address: give each a workflow", param="models")
    (origin,) = found
    return origin
