"""Which version of a model answers a request that names none: by configured shares. Knows names and numbers only."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import blake2b
from itertools import accumulate
from typing import Final

__all__ = ["Traffic"]

# Multiples of it, without their whole part, lie as evenly as can be: a hundred requests already have the shares of
# thousands, where drawn numbers would be off by as much as ten.
_GOLDEN: Final = 0.6180339887498949


class Traffic:
    """The shares of models' versions. Belongs to one event loop.

    Args:
        shares: By a model's name, that of each version in any unit; see `RouterSettings.traffic`.
    """

    def __init__(self, shares: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._shares = dict(shares or {})
        self._start = random.random()  # noqa: S311 - so that routers do not all begin with the same version
        self._turns: Counter[str] = Counter()

    def __contains__(self, name: object) -> bool:
        return name in self._shares

    def leaves_out(self, name: str, version: str) -> bool:
        """Whether it was said that this version gets nothing."""
        return self._shares.get(name, {}).get(version) == 0

    def choose(self, name: str, available: Collection[str], session: str | None = None) -> str | None:
        """The version for the next request to this model; for one of a session, always the same one while shares and
        available versions are. None where no version that is available has a share."""
        shares = self._shares.get(name, {})
        versions = [version for version in sorted(available) if shares.get(version, 0.0) > 0]
        if not versions:
            return None
        ends = list(accumulate(shares[version] for version in versions))
        if session is None:
            self._turns[name] += 1
            place = (self._start + self._turns[name] * _GOLDEN) % 1.0
        else:
            digest = blake2b(f"{name}\0{session}".encode("utf-8", "replace"), digest_size=6).digest()
            place = int.from_bytes(digest, "big") / (1 << 48)
        return versions[min(bisect_right(ends, place * ends[-1]), len(versions) - 1)]
