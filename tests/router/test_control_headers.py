"""Ray's control headers are gone before anything behind the layer can act on them."""

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.router.control_headers import WithoutControlHeaders, serve_middlewares


async def seen(kind: str, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async def nothing(*args: Any) -> Message:
        raise NotImplementedError

    (middleware,) = serve_middlewares()
    original: Scope = {"type": kind, "headers": headers}
    await middleware.cls(app, *middleware.args, **middleware.kwargs)(original, nothing, nothing)  # type: ignore[arg-type]
    assert original["headers"] == headers
    return list(scopes[0]["headers"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"X-Request-Timeout-Seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-serve-router-anything",
        b"x-ray-authorization",
        b"x-session-id",
    ],
)
async def test_control_headers_are_taken_off_and_others_stay(kind: str, name: bytes) -> None:
    kept = [(b"host", b"a"), (b"x-api-key", b"k"), (b"serve", b"1")]
    assert await seen(kind, [*kept, (name, b"\xff"), (name, b"1")]) == kept


@pytest.mark.parametrize(
    ("value", "stays"), [(b"a-1", True), (b"\xff\xfe", False), (b"x" * 65, False), (b"a b", False)]
)
async def test_request_ids_that_would_break_serve_are_taken_off(value: bytes, stays: bool) -> None:
    headers = [(b"x-request-id", value)]
    assert await seen("http", headers) == (headers if stays else [])


async def test_rays_token_in_a_cookie_is_taken_off() -> None:
    assert await seen("http", [(b"cookie", b"a=1; ray-authentication-token=x")]) == []
    assert await seen("http", [(b"cookie", b"a=1")]) == [(b"cookie", b"a=1")]


async def test_other_scopes_pass_untouched() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    lifespan: Scope = {"type": "lifespan"}
    await WithoutControlHeaders(app)(lifespan, None, None)  # type: ignore[arg-type]
    assert scopes == [lifespan]
