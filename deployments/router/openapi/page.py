"""The page that fetches the description from here and shows it."""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files

from deployments.router.request import Reply

__all__ = ["page"]


def page() -> Reply:
    """One HTML page that knows nothing by itself, the same for everybody: a browser sends no key when it opens a page.

    It fetches the description, with a key that its reader types in where one is needed; its policy allows nothing else.
    """
    script, style = _asset("docs.js"), _asset("docs.css")
    html = (
        b'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>infernet-serve</title><style>%b</style></head>'
        b'<body><main id="api"></main><script>%b</script></body></html>'
    ) % (style, script)
    policy = (
        f"default-src 'none'; script-src '{_source(script)}'; style-src '{_source(style)}'; "
        "connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]
    return Reply(200, html, headers)


def _asset(name: str) -> bytes:
    return files("deployments.router").joinpath("page", name).read_bytes()


def _source(content: bytes) -> str:
    return "sha256-" + base64.b64encode(sha256(content).digest()).decode()
