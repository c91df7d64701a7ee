"""Sends this project's log records where Serve's own go: the log file of the replica they come from."""

from __future__ import annotations

import logging

__all__ = ["join_serve_logs"]


def join_serve_logs() -> None:
    """Call it in a replica's constructor. Without it, records below an error would go nowhere in a Ray worker."""
    serve = logging.getLogger("ray.serve")
    for name in ("deployments", "workflows"):
        ours = logging.getLogger(name)
        ours.handlers = serve.handlers
        ours.setLevel(logging.INFO)
        ours.propagate = False
