"""A value that a JSON Schema accepts, for an example: what the schema's author shows, else the least that is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["instance_of"]

_LOCAL: Final = "#/$defs/"
MAX_DEPTH: Final = 12
MAX_ITEMS: Final = 1000
_BY_FORMAT: Final[Mapping[str, str]] = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "duration": "PT1M",
    "email": "somebody@example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance_of(schema: Mapping[str, Any]) -> Any:
    """A value for a schema whose definitions are its own, as pydantic makes them.

    What a schema cannot be satisfied with by looking at one keyword at a time (a pattern, a `not`) is not looked for.
    """
    return _instance(schema, schema.get("$defs", {}), 0)


def _instance(schema: Any, definitions: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return _instance(definitions.get(str(schema["$ref"]).removeprefix(_LOCAL)), definitions, depth + 1)
    if shown := _shown(schema):
        return shown[0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        options = [option for option in options if option.get("type") != "null"] or options
        return _instance(options[0], definitions, depth + 1)
    if schema.get("allOf"):
        parts = [_instance(part, definitions, depth + 1) for part in schema["allOf"]]
        return {key: value for part in parts for key, value in part.items()} if _are_objects(parts) else parts[0]
    return _of_type(schema, definitions, depth)


def _shown(schema: Mapping[str, Any]) -> list[Any]:
    """The values that the schema itself names, best first."""
    found = [schema["const"]] if "const" in schema else []
    found += schema.get("examples", [])
    found += [schema["default"]] if schema.get("default") is not None else []
    found += schema.get("enum", [])
    return found


def _are_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _of_type(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            fields = schema.get("properties", {})
            return {
                name: _instance(fields.get(name, {}), definitions, depth + 1) for name in schema.get("required", ())
            }
        case "array":
            first = [_instance(part, definitions, depth + 1) for part in schema.get("prefixItems", ())]
            least = schema.get("minItems", 0 if depth or first else 1)  # an empty one as a whole would show nothing
            more = min(least, schema.get("maxItems", MAX_ITEMS), MAX_ITEMS) - len(first)
            return first + [_instance(schema.get("items", {}), definitions, depth + 1) for _ in range(more)]
        case "string":
            return _text(schema)
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
    return None


def _text(schema: Mapping[str, Any]) -> str:
    text = _BY_FORMAT.get(schema.get("format", ""), "text")
    return text.ljust(min(schema.get("minLength", 0), MAX_ITEMS), "t")[: schema.get("maxLength", None)]


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    """The one nearest to 1 or, for fractions, to 0.5."""
    least, most = float(schema.get("minimum", -math.inf)), float(schema.get("maximum", math.inf))
    above, below = float(schema.get("exclusiveMinimum", -math.inf)), float(schema.get("exclusiveMaximum", math.inf))
    if whole:
        step = schema.get("multipleOf", 1)
        return int(min(math.ceil(max(1, least, above + 1) / step) * step, most, below - 1))
    low, high = max(least, above), min(most, below)
    if low < 0.5 < high:
        return 0.5
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    return low + 1 if math.isfinite(low) else high - 1
