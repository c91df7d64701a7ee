"""The plain form of an answer: what crosses to another process and can be written as JSON there. Knows no process.

| value                                        | plain form                                                        |
|----------------------------------------------|-------------------------------------------------------------------|
| pydantic model, dataclass                    | dict of its fields, by the names (aliases) of its JSON Schema     |
| mapping                                      | dict; a key that is no text becomes the text that JSON has for it |
| list, tuple, set, frozenset                  | list; a set's members in order                                    |
| numpy array, bytes                           | itself: both cross as they are                                    |
| numpy scalar                                 | the Python number, text or bytes                                  |
| date, timedelta, Decimal, UUID, enum, ...    | as pydantic writes it in JSON                                     |

In JSON, bytes are UTF-8 text, as pydantic takes and gives them; other bytes belong into a field of `Base64Bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, Final

import numpy as np
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from workflows.errors import BadOutput

__all__ = ["plain", "plain_chunk"]

_SIMPLE: Final = frozenset({str, int, float, bool, type(None), bytes})
_LEAVES: Final = _SIMPLE | {np.ndarray}
_HOLDERS: Final = frozenset({dict, list, np.ndarray})


def plain(value: Any) -> Any:
    """An answer or a chunk in its plain form; `parse_output` and `parse_chunk` of its workflow take that back.

    Raises BadOutput for what has none; the text says of what type it is, and never what is in it.
    """
    try:
        return _plain(value)
    except RecursionError:
        deep = BadOutput("the workflow gave an output that is nested too deeply")
    raise deep  # out here, so that what is in the value does not come along as context


def plain_chunk(value: Any) -> Any:
    """`plain`, with arrays of its own: a workflow may fill the same one again before its last content was written."""
    return value if type(value) in _SIMPLE else _owned(plain(value))


def _owned(value: Any) -> Any:
    """Plain data, whose dicts and lists are nobody else's, with arrays that are nobody else's either."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is dict:
        for key, part in value.items():
            if type(part) in _HOLDERS:
                value[key] = _owned(part)
    elif type(value) is list:
        for index, part in enumerate(value):
            if type(part) in _HOLDERS:
                value[index] = _owned(part)
    return value


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return _mapping(value)
    if isinstance(value, BaseModel):
        return _plain(_fields(value))
    if isinstance(value, list | tuple):
        return [part if type(part) in _LEAVES else _plain(part) for part in value]
    if isinstance(value, AbstractSet):
        return _ordered([_plain(part) for part in value])
    return _mapping(value) if isinstance(value, Mapping) else _leaf(value)


def _leaf(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        item = value.item()
        return _written(value) if isinstance(item, np.generic) else _plain(item)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "__pydantic_serializer__") and not isinstance(value, type):  # pydantic's own dataclass
        return _plain(_fields(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return _written(value)


def _fields(model: Any) -> Any:
    try:
        # As model_dump() does, without its overhead. No warnings: they would show the value.
        return model.__pydantic_serializer__.to_python(model, by_alias=True, warnings=False)
    except (ValueError, TypeError):
        unsayable = _unsayable(model)
    raise unsayable


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    result = {
        key if type(key) is str else _key(key): part if type(part) in _LEAVES else _plain(part)
        for key, part in value.items()
    }
    if len(result) != len(value):
        raise BadOutput("the workflow gave a mapping with two keys that are the same in JSON")
    return result


def _key(key: Any) -> str:
    (text,) = _written({key.item() if isinstance(key, np.generic) else key: None})
    return str(text)


def _ordered(members: list[Any]) -> list[Any]:
    try:
        return sorted(members)
    except TypeError:  # of several types, or models
        return sorted(members, key=repr)


def _written(value: Any) -> Any:
    """As pydantic writes it in JSON."""
    try:
        return to_jsonable_python(value)
    except (ValueError, TypeError):
        unsayable = _unsayable(value)
    raise unsayable


def _unsayable(value: Any) -> BadOutput:
    return BadOutput(f"the workflow gave a {type(value).__name__[:64]}, which plain data cannot say")
