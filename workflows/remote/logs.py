"""Keeps what callers ask out of the logs of libraries that write whole requests, whatever level an operator sets."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["keep_bodies_out"]

# Loggers whose DEBUG lines may hold a prompt, an answer, or a command line with all of a request.
_TALKATIVE: Final = (
    "anthropic._base_client",
    "anthropic._response",
    "anthropic._tracing",
    "huggingface_hub.utils._http",
    "openai._base_client",
    "openai._legacy_response",
    "openai._response",
)


class _NoDebug(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG


_NO_DEBUG: Final = _NoDebug()


def keep_bodies_out() -> None:
    """For this process, once and for all; calling it again changes nothing."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_NO_DEBUG)
