"""Keeps out of the logs what gRPC itself would write of callers: a line and a traceback for each, before any key is asked for.

Of metadata and method names that are no UTF-8 it logs the bytes, which may be somebody's key; and it logs every caller who
leaves while an answer is on its way. All that reaches our own code is in the access log.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["quieten"]

_PROVOKED: Final = frozenset({"UnicodeDecodeError", "ExecuteBatchError"})


def quieten() -> None:
    """For the whole process; may be called again."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_may_be_logged)


def _may_be_logged(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ not in _PROVOKED  # one of them has no public name
