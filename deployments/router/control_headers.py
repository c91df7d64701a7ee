"""Headers by which a client could steer Ray or Serve, and the ASGI layer that takes them off before either looks.

Needed where Serve's own proxy or ingress stands in front of the router (`listen: serve`): Serve reads them before any
application does. Set `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.router.control_headers.serve_middlewares`.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["CLIENT_REQUEST_ID", "WithoutControlHeaders", "is_control_header", "serve_middlewares"]

CLIENT_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CONTROL: Final = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x-ray-authorization",
    }
)


def is_control_header(name: bytes) -> bool:
    """Whether Ray or Serve would act on it. `name` is in lower case, as ASGI says."""
    return name in _CONTROL or name.startswith((b"x-serve-", b"x-ray-"))


class WithoutControlHeaders:
    """Hands on a scope without those headers, and without a request id that is not plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if _harmless(*pair)]}
        await self._app(scope, receive, send)


def _harmless(name: bytes, value: bytes) -> bool:
    name = name.lower()
    if name == b"x-request-id":
        return CLIENT_REQUEST_ID.fullmatch(value) is not None
    if name == b"cookie":
        return b"ray-authentication-token" not in value
    return not is_control_header(name)


def serve_middlewares() -> list[Middleware]:
    """What Serve's callback must return."""
    return [Middleware(WithoutControlHeaders)]
