"""The address of an upstream, as an operator may give it. Callers never do."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator

__all__ = ["PORTS", "BaseUrl", "Origin", "checked_url", "origin_of"]

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")
PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """To whom a key may be sent."""

    scheme: str
    host: str
    port: int


def checked_url(url: str) -> str:
    """The URL. Raises ValueError for one that is no address of an HTTP server, or carries a user, a query or a fragment:
    URLs are logged, and keys have another place (`SecretRef`).
    """
    origin_of(url)
    return url


BaseUrl = Annotated[str, AfterValidator(checked_url)]


def origin_of(url: str) -> Origin:
    """Raises as `checked_url` does."""
    try:
        parsed = urlsplit(url)
        host, port = parsed.hostname or "", parsed.port
    except ValueError:
        raise ValueError(_WANTED) from None
    if (
        len(url) > 2048
        or not url.isascii()
        or not url.isprintable()
        or " " in url
        or parsed.scheme not in PORTS
        or not (_HOST.fullmatch(host) or _is_ip(host))
        or "@" in parsed.netloc
        or "?" in url
        or "#" in url
    ):
        raise ValueError(_WANTED)
    return Origin(parsed.scheme, host, port or PORTS[parsed.scheme])


_WANTED: Final = "give http:// or https://, a host and a path, without user, query or fragment"


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
