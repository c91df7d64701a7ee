"""What the descriptions of all protocols are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

__all__ = [
    "Json",
    "closed",
    "errors",
    "get_operation",
    "json_response",
    "name_parameter",
    "or_null",
    "post_operation",
    "ref",
    "stream_operation",
]

Json = dict[str, Any]

_MEANINGS: Final = {
    "400": "Not a valid request: its HTTP, its JSON, or its input.",
    "401": "A valid API key is needed.",
    "403": "This needs an operator's API key, or callers from elsewhere need one.",
    "404": "There is no such workflow, or not for this API key.",
    "408": "The request did not arrive in time.",
    "409": "It contradicts a request that came before.",
    "413": "The body is too large.",
    "414": "The URL is too long.",
    "415": "The body is not application/json, or compressed.",
    "421": "This server does not answer to that host name.",
    "422": "Not a valid request: its HTTP, its JSON, or its input.",
    "424": "The model failed, or gave an output that cannot be passed on.",
    "429": "The rate limit is used up; see Retry-After.",
    "431": "The request headers are too large.",
    "500": "A fault of the server, or an output that cannot be passed on.",
    "502": "A remote model failed.",
    "503": "Overloaded, or not ready yet; see Retry-After.",
    "504": "The deadline has passed.",
}
MAX_EXAMPLES: Final = 16
_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
_DEADLINE: Final[Json] = {
    "name": "x-deadline-s",
    "in": "header",
    "description": "Seconds after which the answer is of no use any more; may only shorten the server's own limit.",
    "schema": {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,6}(\.[0-9]{1,6})?$"},
    "examples": {"two and a half": {"value": "2.5"}},
}
_OF_A_POST: Final = tuple(status for status in _MEANINGS if status not in ("422", "424"))
_OF_A_GET: Final = ("400", "401", "403", "404", "408", "414", "421", "431", "500", "503")


def get_operation(
    operation: str,
    tag: str,
    summary: str,
    answer: Json,
    parameters: list[Json] | None = None,
    error: str = "NativeError",
) -> Json:
    return {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "parameters": parameters or [],
        "responses": {"200": json_response("OK", answer), **errors(_OF_A_GET, error)},
    }


def post_operation(
    operation: str,
    tag: str,
    summary: str,
    asked: Json,
    answer: Json,
    parameters: list[Json] | None = None,
    error: str = "NativeError",
) -> Json:
    return {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "parameters": [*(parameters or []), _DEADLINE],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": json_response("OK", answer), **errors(_OF_A_POST, error)},
    }


def stream_operation(
    operation: str,
    tag: str,
    summary: str,
    asked: Json,
    chunk: Json,
    parameters: list[Json] | None = None,
    error: str = "NativeError",
    *,
    end: str,
    mark: str | None = None,
) -> Json:
    """Events whose data is JSON.

    Args:
        end: What the last event of a whole stream is, in words.
        mark: What it is, where that is no JSON.
    """
    post = post_operation(operation, tag, summary, asked, {}, parameters, error)
    said = {"anyOf": [chunk, ref(error)]}
    data: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
    if mark is not None:
        data = {"anyOf": [{"const": mark}, data]}
    event: Json = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    post["responses"]["200"] = {
        "description": f"Events `data: {{...}}`; {end}. An error after the first chunk is an event with `error` in it, "
        "and then the stream has no such end. The schema is that of one event.",
        "content": {"text/event-stream": {"schema": event}},
    }
    return post


def json_response(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def errors(statuses: Iterable[str], schema: str) -> Json:
    return {status: json_response(_MEANINGS[status], ref(schema)) for status in statuses}


def name_parameter(names: Sequence[str]) -> Json:
    """A workflow's name in a path; some of these are shown as examples."""
    found: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "pattern": _NAME}}
    if names:
        found["examples"] = {name: {"value": name} for name in names[:MAX_EXAMPLES]}
    return found


def or_null(schema: Json) -> Json:
    """What may be left out, and then may be `null` as well."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: Json, required: Iterable[str] | None = None) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
