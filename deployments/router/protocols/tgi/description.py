"""Text Generation Inference described: the routes of any workflow that generates text, and those at the root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    errors,
    get_operation,
    json_response,
    name_parameter,
    or_null,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.protocols.tgi.parameters import Parameters

__all__ = ["TAG", "tgi_paths", "tgi_root_paths", "tgi_schemas"]

TAG: Final = "text generation inference"
ERROR: Final = "TgiError"
_OWN_ERRORS: Final = ("422", "424")
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NULL: Final[Json] = {"type": "null"}
_END: Final = "the last one has `generated_text`"


def tgi_paths(names: Sequence[str]) -> Json:
    """`names`: of workflows that generate text."""
    base, params = "/tgi/{name}", [name_parameter(names)]
    health = get_operation("tgiHealth", TAG, "Whether it can answer", {}, params, ERROR)
    health["responses"] |= _health_responses()
    return {
        base: {"post": _compat("tgiCompat", params)},
        f"{base}/": {"post": _compat("tgiCompatSlash", params)},
        **_paths("tgi", base, params),
        f"{base}/health": {"get": health},
        f"{base}/v1/chat/completions": {
            "post": _openai("Chat", "What the assistant says next", "ChatCompletion", params)
        },
        f"{base}/v1/completions": {"post": _openai("Complete", "How texts go on", "Completion", params)},
    }


def tgi_root_paths() -> Json:
    """Of the one workflow at the root."""
    health = get_operation("tgiRootHealth", TAG, "Whether router and workflow can answer", {}, [], ERROR)
    responses = {**errors(("400", "408", "414", "431", "500"), ERROR), **_health_responses()}
    return {
        "/": {"post": _compat("tgiRootCompat", [])},
        **_paths("tgiRoot", "", []),
        "/health": {"get": {**health, "security": [{}], "responses": responses}},
    }


def _paths(prefix: str, base: str, params: list[Json]) -> Json:
    whole = post_operation(
        f"{prefix}Generate", TAG, "Text in, text out", _asked({"enum": [False, None]}), ref("TgiAnswer"), params, ERROR
    )
    stream = stream_operation(
        f"{prefix}GenerateStream",
        TAG,
        "Text in, text out, token by token",
        _asked(or_null({"type": "boolean"})),
        ref("TgiEvent"),
        params,
        ERROR,
        end=_END,
    )
    info = get_operation(f"{prefix}Info", TAG, "What the model takes", ref("TgiInfo"), params, ERROR)
    return {
        f"{base}/generate": {"post": _with_own_errors(whole)},
        f"{base}/generate_stream": {"post": _with_own_errors(stream)},
        f"{base}/info": {"get": _with_own_errors(info)},
    }


def _compat(operation: str, params: list[Json]) -> Json:
    """What answers in either way, as the body says."""
    asked = _asked(or_null({"type": "boolean"}))
    summary = "Text in, text out, token by token if `stream` is true"
    answer: Json = {"type": "array", "items": ref("TgiAnswer"), "minItems": 1, "maxItems": 1}
    post = post_operation(operation, TAG, summary, asked, answer, params, ERROR)
    stream = stream_operation(operation, TAG, summary, asked, ref("TgiEvent"), params, ERROR, end=_END)
    post["responses"]["200"]["content"] |= stream["responses"]["200"]["content"]
    return _with_own_errors(post)


def _openai(operation: str, summary: str, name: str, params: list[Json]) -> Json:
    """OpenAI's requests and answers, with this protocol's errors; `model` may be anything."""
    end: Any = {"end": "at last `data: [DONE]`", "mark": "[DONE]"}
    said = (f"tgi{operation}", TAG, summary, ref(f"Tgi{name}Request"))
    post = post_operation(*said, ref(name), params, ERROR)
    stream = stream_operation(*said, ref(f"{name}Chunk"), params, ERROR, **end)
    post["responses"]["200"]["content"] |= stream["responses"]["200"]["content"]
    return _with_own_errors(post)


def _with_own_errors(operation: Json) -> Json:
    operation["responses"] |= errors(_OWN_ERRORS, ERROR)
    return operation


def _health_responses() -> Json:
    unwell = closed({"error": _TEXT, "error_type": _TEXT})
    return {"200": {"description": "OK"}, "503": json_response("Not ready, or draining.", unwell)}


def _asked(stream: Json) -> Json:
    """A request, with these choices for `stream`."""
    return closed(
        {
            "inputs": {"type": "string", "minLength": 1},
            "parameters": or_null(ref("TgiParameters")),
            "stream": stream,
            "add_special_tokens": {"enum": [True, None]},
        },
        ["inputs"],
    )


# ---- schemas -----------------------------------------------------------------------------------------------------------


def tgi_schemas(openai: Json) -> Json:
    """`openai`: the schemas of that protocol."""
    token = _token()
    tokens: Json = {"type": "array", "items": token}
    ended: Json = {
        "finish_reason": {"enum": ["length", "eos_token", "stop_sequence"]},
        "generated_tokens": _COUNT,
        "seed": or_null(_COUNT),
    }
    details: Json = {**ended, "prefill": {"type": "array", "maxItems": 0}, "tokens": tokens}
    event: Json = {
        "index": {"type": "integer", "minimum": 1},
        "token": _token(known=False),
        "top_tokens": tokens,
        "generated_text": or_null(_TEXT),
        "details": or_null(closed({**ended, "input_length": _COUNT})),
    }
    return {
        ERROR: closed({"error": _TEXT, "error_type": _TEXT}),
        "TgiParameters": _parameters(),
        "TgiAnswer": closed(
            {
                "generated_text": _TEXT,
                "details": closed({**details, "top_tokens": {"type": "array", "items": tokens}}, details),
            },
            ["generated_text"],
        ),
        "TgiEvent": closed(event, [name for name in event if name != "top_tokens"]),
        "TgiInfo": _info(),
        **{f"Tgi{name}": _without_model(openai[name]) for name in ("ChatCompletionRequest", "CompletionRequest")},
    }


def _without_model(request: Json) -> Json:
    """The path has named it already."""
    properties = {**request["properties"], "model": or_null(request["properties"]["model"])}
    return {
        **request,
        "properties": properties,
        "required": [name for name in request["required"] if name != "model"],
    }


def _parameters() -> Json:
    schema: dict[str, Any] = Parameters.model_json_schema()
    for about in ("title", "description"):
        del schema[about]
    for field in schema["properties"].values():
        del field["title"]
    return schema


def _token(*, known: bool = True) -> Json:
    """`known`: whether its id and chance are."""
    said = (lambda schema: schema) if known else or_null
    number: Json = {"type": "number"}
    return closed({"id": said(_COUNT), "text": _TEXT, "logprob": said(number), "special": {"type": "boolean"}})


def _info() -> Json:
    texts = ("model_id", "model_pipeline_tag", "router", "version")
    counts = ("max_concurrent_requests", "max_best_of", "max_stop_sequences", "max_batch_size", "max_client_batch_size")
    sizes = ("max_input_length", "max_input_tokens", "max_total_tokens")
    nothing = ("model_sha", "sha", "docker_label")
    return closed(
        {
            **dict.fromkeys(texts, _TEXT),
            **dict.fromkeys(counts, _COUNT),
            **dict.fromkeys(sizes, or_null(_COUNT)),
            **dict.fromkeys(nothing, _NULL),
        }
    )
