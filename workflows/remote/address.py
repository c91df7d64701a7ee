"""The address of an upstream, as an operator may give it. Callers never do."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from workflows.errors import InvalidInput
from workflows.remote.secret import SecretRef

__all__ = ["PORTS", "Origin", "address", "origin_of"]

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")
PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """To whom a key may be sent."""

    scheme: str
    host: str
    port: int


def address(option: str, url: str, key: SecretRef | None) -> str:
    """The URL that an operator gives as this option, without a slash at its end. Raises InvalidInput naming the option.

    A key is sent in the clear only to this machine itself.
    """
    try:
        origin = origin_of(url)
    except ValueError as error:
        raise InvalidInput(f"{option}: {error}", param=option) from None
    if origin.scheme == "http" and key is not None and not _is_this_machine(origin.host):
        raise InvalidInput(f"{option}: a key would go to {origin.host} for everybody to read: use https", param=option)
    return url.rstrip("/")


def origin_of(url: str) -> Origin:
    """Raises ValueError for what is no address of an HTTP server, or carries a user, a query or a fragment: URLs are logged,
    and keys have another place (`SecretRef`).
    """
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


def _is_this_machine(host: str) -> bool:
    return ip_address(host).is_loopback if _is_ip(host) else host == "localhost"


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
