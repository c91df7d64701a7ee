"""API keys: who calls, and which workflows they may use. Knows hashes only; no HTTP beyond two header values.

A key is 256 random bits, so a plain SHA-256 of it cannot be reversed by guessing. The content of a keys file, or of
the environment variable that stands for one, is YAML or JSON:

    keys:
      - id: notebook
        sha256: 3f0a...            # what `mint_key` gives; the key itself is stored nowhere
      - id: team-b
        sha256: 91bc...
        role: user                 # or operator, who may also read /metrics and /-/routes
        workflows: ["digits-*"]    # shell patterns over workflow names; without this line, all
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.config import RouterArgs
from deployments.router.refusals import Unauthenticated

__all__ = ["ANYONE", "Key", "Keys", "load_keys", "mint_key", "parse_keys"]

PREFIX: Final = "isk-"
MAX_KEYS: Final = 1024
MAX_KEY_BYTES: Final = 512


class Key(BaseModel):
    """One caller's rights. `id` is what logs show; `workflows` are shell patterns over workflow names."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    role: Literal["user", "operator"] = "user"
    workflows: list[Annotated[str, Field(min_length=1, max_length=96)]] = Field(default=["*"], max_length=256)

    @cached_property
    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)

    @cached_property
    def _all(self) -> bool:
        return "*" in self.workflows

    def may_use(self, workflow: str) -> bool:
        return self._all or any(fnmatchcase(workflow, pattern) for pattern in self.workflows)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[Key] = Field(min_length=1, max_length=MAX_KEYS)


ANYONE: Final = Key(id="anyone", sha256="0" * 64, role="operator")
"""Whoever calls where no keys are configured. Its hash belongs to no known input and it is never in `Keys`."""


class Keys:
    """The keys that are valid now. Immutable: a new file makes a new object, and the edge swaps it."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        """Whether callers need a key at all."""
        return bool(self._keys)

    def identify(self, headers: Mapping[bytes, bytes], repeated: AbstractSet[bytes]) -> Key:
        """The caller's key from `authorization: Bearer ...` or `x-api-key`.

        Raises Unauthenticated, always with the same message: for none, a wrong one, one of the two headers given
        twice, or both with different keys. Every stored key is compared, so that the time tells nothing.
        """
        if not self._keys:
            return ANYONE
        given = _given(headers, repeated)
        digest = sha256(given or b"").digest()
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        if given is None or found is None:
            raise Unauthenticated()
        return found


def _given(headers: Mapping[bytes, bytes], repeated: AbstractSet[bytes]) -> bytes | None:
    if b"authorization" in repeated or b"x-api-key" in repeated:
        return None
    own = headers.get(b"x-api-key")
    bearer: bytes | None = None
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, bearer = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        if own is not None and not hmac.compare_digest(own, bearer):
            return None
    given = own if bearer is None else bearer
    return given if given and len(given) <= MAX_KEY_BYTES else None


def mint_key(
    key_id: str, role: Literal["user", "operator"] = "user", workflows: Iterable[str] = ("*",)
) -> tuple[str, Key]:
    """A new secret, to be shown to its owner once, and the entry that is stored for it."""
    secret = PREFIX + secrets.token_urlsafe(32)
    stored = Key(id=key_id, sha256=sha256(secret.encode()).hexdigest(), role=role, workflows=list(workflows))
    return secret, stored


def parse_keys(text: str) -> Keys:
    """The keys of a file's content. Raises ValueError with one line that names the wrong entry and shows no value."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as cause:
        raise ValueError("API keys: neither valid YAML nor JSON") from cause
    try:
        keys = _File.model_validate(content).keys
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"API keys: {where}: {first['msg']}" if where else f"API keys: {first['msg']}") from None
    for what, values in (("id", [key.id for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if len(set(values)) < len(values):
            raise ValueError(f"API keys: two entries have the same {what}")
    return Keys(keys)


def load_keys(args: RouterArgs) -> Keys:
    """The configured keys; empty where none are configured.

    Raises ValueError in one line if what is configured is missing or wrong: a typo must not open the door.
    """
    if args.keys_file is not None and args.keys_env is not None:
        raise ValueError("API keys: configure keys_file or keys_env, not both")
    if args.keys_file is not None:
        try:
            return parse_keys(Path(args.keys_file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as cause:
            raise ValueError(f"API keys: cannot read keys_file {args.keys_file!r}") from cause
    if args.keys_env is not None:
        content = os.environ.get(args.keys_env)
        if not content:
            raise ValueError(f"API keys: environment variable {args.keys_env!r} is not set")
        return parse_keys(content)
    return Keys()
