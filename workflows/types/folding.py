"""One answer from the chunks of its stream, as the answer's type says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["fold"]


def fold(output_type: object, chunks: Iterable[Any]) -> Any:
    """One answer from a stream's chunks, as the output type says: by its own `fold`, or joined where it is text or bytes,
    or gathered in a list, tuple or set.

    Of what is none of these, an `Any` for example, text is joined and the rest a list.
    """
    declared = _bare(output_type)
    own = getattr(declared, "fold", None)
    if callable(own):
        return own(chunks)
    parts = list(chunks)
    kind = get_origin(declared) or declared
    if isinstance(kind, type):
        if issubclass(kind, str):
            return "".join(parts)
        if issubclass(kind, bytes):
            return b"".join(parts)
        if kind in (tuple, set, frozenset):
            return kind(parts)
        if issubclass(kind, Iterable) and not issubclass(kind, BaseModel | Mapping):
            return parts
    return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else parts


def _bare(declared: Any) -> Any:
    """A type without what is said about it: `Annotated[str, ...]`, `str | None`, an alias or a new type of `str`."""
    if get_origin(declared) is Annotated:
        return _bare(get_args(declared)[0])
    meant = getattr(declared, "__value__", None) or getattr(declared, "__supertype__", None)
    if meant is not None:
        return _bare(meant)
    if get_origin(declared) in (Union, UnionType):
        members = [member for member in get_args(declared) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else declared
    return declared
