"""Serving workflows: a Ray Serve deployment for each, and one router in front of all of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.python_client import AsyncWorkflow, Workflow, connect, connect_async

__all__ = ["AsyncWorkflow", "Workflow", "connect", "connect_async"]


def __getattr__(name: str) -> Any:
    """The Python client, on first use: most of this package knows no Ray, and importing it must not import Ray."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("deployments.python_client"), name)
