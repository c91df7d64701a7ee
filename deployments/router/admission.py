"""What every door asks of whoever comes, over whatever protocol: with which headers, under which id, from where, as whom."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal

from deployments.router.control_headers import CLIENT_REQUEST_ID, is_control_header
from deployments.router.keys import ANYONE, Key, Keys
from workflows.errors import PermissionDenied

__all__ = ["NOBODY", "Access", "allowed_key", "is_loopback", "new_ids", "only_local", "read_headers"]

Access = Literal["public", "key", "operator"]
"""Who may: anyone, any valid key, or an operator's key."""

NOBODY: Final = ANYONE.model_copy(update={"id": "none", "role": "user", "workflows": []})
"""Whoever has not been asked for a key yet."""
_IDS: Final = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, and no secrets


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], set[bytes], int]:
    """Headers by name without Ray's, the names that came more than once, and the size of them all in bytes."""
    headers: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    size = 0
    for name, value in raw:
        size += len(name) + len(value)
        if name in headers:
            repeated.add(name)
        elif not is_control_header(name):
            headers[name] = value
    return headers, repeated, size


def new_ids(wished: bytes | None) -> tuple[str, str]:
    """A request's id as its caller sees it, and as workflows see it (see `Caller`), where the caller wishes for one."""
    own = f"{_IDS.getrandbits(128):032x}"
    if wished is None or not CLIENT_REQUEST_ID.fullmatch(wished):
        return own, own
    shown = wished.decode()
    return shown, f"{shown}.{own}"


@lru_cache(maxsize=256)
def is_loopback(address: str) -> bool:
    """Whether this is an IP address of the machine itself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def only_local() -> PermissionDenied:
    """The answer to other machines where no keys are configured."""
    return PermissionDenied("without API keys this server answers its own machine only")


def allowed_key(keys: Keys, headers: Mapping[bytes, bytes], repeated: AbstractSet[bytes], access: Access) -> Key:
    """The caller's key. Raises Unauthenticated, and PermissionDenied for what only operators may."""
    key = keys.identify(headers, repeated)
    if access == "operator" and key.role != "operator":
        raise PermissionDenied("this needs an operator's API key")
    return key
