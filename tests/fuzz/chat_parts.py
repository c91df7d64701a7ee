"""Parts of chats that are nearly right: turns with images and calls, tools, the choice of one, and forms of an answer.

Whatever is rare is wrong, or may be.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from tests.fuzz.picks import Picks

__all__ = ["chat_fields", "turn"]

_NAMES: Final[list[Any]] = ["f", "get_weather", "a.b-c", "_9", "x" * 128]
_ODD_NAMES: Final[list[Any]] = ["", "a b", "é", "x" * 129, "-a", "f\n", None, 1, ["f"]]
_ODD: Final[list[Any]] = [True, -1, 1e300, 1 << 70, "x", [], {}, [None], {"type": "function"}, {"a": {"a": 1}}]
_TEXTS: Final[list[Any]] = ["a", "é", "", "\u0000"]
_KEYS: Final = ["type", "properties", "enum", "default", "$ref", "", "é", "__proto__"]
_LEAVES: Final[list[Any]] = [None, True, 0, -1.5, "object", "\u0000", 1 << 53, [], {}, "#"]
_ODD_SCHEMAS: Final[list[Any]] = [
    None,
    "object",
    [],
    True,
    {"enum": [0] * 5000},
    {"title": "x" * 70000},
    {"x" * 70000: 1},
]
_WRITTEN: Final = ["{}", '{"a": 1}', "", "no JSON", "[" * 100]
_HEADS: Final = ["data:image/png;base64,", "data:IMAGE/JPG;base64,", "data:image/webp;base64,"]
_ODD_URLS: Final[list[Any]] = [
    "data:image/png;base64,",
    "data:image/png;base64,a",
    "data:image/png;base64,a-_=",
    "data:image/png;base64,aGVq\n",
    "data:image/svg+xml;base64,aGVq",
    "data:image/svg;base64,aGVq",
    "data:,a",
    "file:///etc/passwd",
    "https://é",
    "https://" + "a" * 9000,
    "",
    None,
    {"url": "https://host/a"},
]


def chat_fields(picks: Picks) -> dict[str, Any]:
    """Tools, which of them is to be called, and what the answer is to be; of each perhaps nothing."""
    fields: dict[str, Any] = {}
    first, count = picks.below(len(_NAMES)), picks.below(4)
    names = [_NAMES[(first + number) % len(_NAMES)] for number in range(count)]
    if names:
        tools = [_tool(picks, name) for name in names]
        fields["tools"] = picks.likely([tools], [tools * 2, tools * 50, tools[0], *_ODD])
    elif picks.below(4) == 1:
        fields["tools"] = picks.one_of([[], None])
    if picks.below(2):
        named = [{"type": "function", "function": {"name": name}} for name in names]
        right = ["none", "auto", None, *(["required", *named] if names else [])]
        fields["tool_choice"] = picks.likely(right, ["required", "any", {"type": "function", "function": {}}, *_ODD])
    if picks.below(3) == 1:
        fields["parallel_tool_calls"] = picks.likely([True, False, None], _ODD[1:])
    if picks.below(2):
        fields["response_format"] = _form(picks)
    return fields


def turn(picks: Picks) -> dict[str, Any]:
    """One message of any role."""
    role = picks.one_of(["user", "system", "developer", "assistant", "tool"])
    made: dict[str, Any] = {"role": picks.likely([role], ["function", "", None, "user", "tool"])}
    if role == "tool":
        made["tool_call_id"] = picks.likely(["call-1", "é"], ["", "x" * 257, *_ODD])
    if role == "assistant" and picks.below(2):
        calls = [_call(picks) for _ in range(1 + picks.below(3))]
        made["tool_calls"] = picks.likely([calls], [calls * 50, calls[0], *_ODD])
        if picks.below(2):
            return {**made, "content": None} if picks.below(2) else made
    parts = [_part(picks) for _ in range(picks.below(4))]
    content = parts or picks.one_of(_TEXTS)
    return {**made, "content": picks.likely([content], [None, 1, [], [[]], {}, ["a"], [{}], [{"type": "audio"}]])}


def _tool(picks: Picks, name: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": picks.likely([name], _ODD_NAMES)}
    if picks.below(2):
        function["description"] = picks.likely([*_TEXTS, None], ["x" * 20000, 1, []])
    if picks.below(3):
        function["parameters"] = _schema(picks)
    if picks.below(3) == 1:
        function["strict"] = picks.likely([True, False, None], [1, "x"])
    return {"type": picks.likely(["function"], ["retrieval", None]), "function": picks.likely([function], _ODD)}


def _form(picks: Picks) -> Any:
    kind = picks.likely(["text", "json_object", "json_schema"], ["xml", None, 1])
    if kind != "json_schema":
        return picks.likely([{"type": kind}], [{}, *_ODD])
    schema: dict[str, Any] = {"name": picks.likely(_NAMES, _ODD_NAMES), "schema": _schema(picks)}
    if picks.below(2):
        schema |= {"strict": picks.likely([True, None], [0]), "description": picks.likely(_TEXTS, [1])}
    return {"type": kind, "json_schema": picks.likely([schema], _ODD)}


def _schema(picks: Picks) -> Any:
    """Of what it says nothing is looked at but its size."""
    if picks.rarely():
        deep: Any = "leaf"
        for _ in range(20 + picks.below(24)):
            deep = [deep] if picks.below(2) else {"not": deep}
        return picks.one_of([*_ODD_SCHEMAS, {"not": deep}])
    return {picks.one_of(_KEYS): _json(picks, 0) for _ in range(picks.below(5))}


def _json(picks: Picks, depth: int) -> Any:
    kind = picks.below(4) if depth < 2 else 0
    if kind == 1:
        return [_json(picks, depth + 1) for _ in range(picks.below(4))]
    if kind == 2:
        return {picks.one_of(_KEYS): _json(picks, depth + 1) for _ in range(picks.below(4))}
    return picks.one_of(_LEAVES)


def _call(picks: Picks) -> dict[str, Any]:
    function = {"name": picks.likely(_NAMES, _ODD_NAMES), "arguments": picks.likely(_WRITTEN, [{}, None, 1])}
    call = {"id": picks.likely(["call-1", "é"], ["", "x" * 257, None]), "type": picks.likely(["function"], ["x"])}
    return {**call, "function": picks.likely([function], _ODD)}


def _part(picks: Picks) -> Any:
    if picks.below(2):
        return {"type": picks.likely(["text"], ["image_url", 1]), "text": picks.likely(_TEXTS, [None, 1, []])}
    inline = picks.one_of(_HEADS) + b64encode(picks.take(1 + picks.below(40))).decode()
    image = {"url": picks.likely([inline, "https://host/a.png?b=%20", "http://host"], _ODD_URLS)}
    if picks.below(2):
        image["detail"] = picks.likely(["auto", "low", "high", None], ["all", 1, []])
    return {"type": "image_url", "image_url": picks.likely([image], _ODD)}
