"""What pydantic makes of the types that a workflow declares: validators and schemas."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import PydanticJsonSchemaWarning

__all__ = ["adapter_of", "json_schema", "read_back", "reads_what_it_writes"]


def adapter_of(declared: Any, role: str, cls: type) -> TypeAdapter[Any]:
    """Raises TypeError for a type that pydantic does not take; names in it are those of the module that defines `cls`."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(declared)
        if not adapter.pydantic_complete:
            adapter.rebuild(_types_namespace=vars(sys.modules[cls.__module__]))
    except (PydanticUserError, NameError) as cause:
        raise TypeError(
            f"{cls.__name__}: pydantic does not take its {role} type {declared!r}: {str(cause).partition(chr(10))[0]} "
            "(for arrays there are workflows.Tensors and workflows.types.Tensor)"
        ) from cause
    return adapter


def json_schema(adapter: TypeAdapter[Any], mode: Any) -> dict[str, Any]:
    """An empty one where a type has none."""
    try:
        return adapter.json_schema(mode=mode)
    except (PydanticUserError, PydanticJsonSchemaWarning):
        return {}


def read_back(adapter: TypeAdapter[Any], plain: Any) -> Any:
    """An instance from its plain form; the form itself where the type does not take the names that it gives."""
    return adapter.validate_python(plain, strict=False) if reads_what_it_writes(adapter) else plain


@lru_cache(maxsize=256)
def reads_what_it_writes(adapter: TypeAdapter[Any]) -> bool:
    """Whether a type takes the names that it gives. One with a `serialization_alias` does not, and one that computes
    fields and forbids what it does not know."""
    return _reads(adapter.core_schema)


def _reads(schema: object) -> bool:
    if isinstance(schema, list | tuple):
        return all(map(_reads, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "model" and (schema.get("config") or {}).get("extra_fields_behavior") == "forbid":
        inner = schema["schema"]
        if isinstance(inner, Mapping) and inner.get("computed_fields"):
            return False
    fields = schema.get("fields")
    if isinstance(fields, Mapping):
        named = list(fields.items())
    else:
        named = [(part.get("name"), part) for part in fields or () if isinstance(part, Mapping)]
    return all(_same_name(name, field) for name, field in named) and all(map(_reads, schema.values()))


def _same_name(name: object, field: Any) -> bool:
    if not isinstance(field, Mapping) or not str(field.get("type")).endswith("-field"):
        return True  # something else that is called "fields"
    written = field.get("serialization_alias", name)
    read = field.get("validation_alias", name)
    return [written] in read if isinstance(read, list) else written == read  # a list has one path for each choice
