"""OpenAI's protocol described. Requests are described by what checks them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from deployments.router.directory import Entry
from deployments.router.openapi.parts import (
    MAX_EXAMPLES,
    Json,
    closed,
    get_operation,
    name_parameter,
    or_null,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.protocols.openai.requests import (
    CHAT_REFUSED,
    COMPLETION_REFUSED,
    EMBEDDINGS_REFUSED,
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
)

__all__ = ["ERROR", "TAG", "openai_paths", "openai_schemas", "request_schema"]

TAG: Final = "openai"
ERROR: Final = "OpenAIError"
_TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "number"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NOTHING: Final[Json] = {"type": "null"}
_REASON: Final[Json] = {"enum": ["stop", "length", "tool_calls", "content_filter"]}
_REFUSED: Final = "Other fields are ignored; this one is known, and not supported."


def openai_paths(names: Sequence[str]) -> Json:
    """`names`: of workflows that there are."""
    name = name_parameter(names)
    owner = {**name_parameter(()), "name": "owner"}
    about = "One of them, by its name or an alias"
    models = get_operation(
        "listModels", TAG, "All models of this protocol that this key may use", ref("Models"), [], ERROR
    )
    one = get_operation("getModel", TAG, about, ref("Model"), [name], ERROR)
    of_owner = get_operation("getOwnersModel", TAG, about, ref("Model"), [owner, name_parameter(())], ERROR)
    return {
        "/v1/models": {"get": models},
        "/v1/models/{name}": {"get": one},
        "/v1/models/{owner}/{name}": {"get": of_owner},
        "/v1/chat/completions": {"post": _generating("chat", "What the assistant says next", "ChatCompletion")},
        "/v1/completions": {"post": _generating("complete", "How texts go on", "Completion")},
        "/v1/embeddings": {"post": _post("embed", "Where texts lie in a vector space", "Embeddings")},
    }


def _post(operation: str, summary: str, name: str) -> Json:
    return post_operation(operation, TAG, summary, ref(f"{name}Request"), ref(name), [], ERROR)


def _generating(operation: str, summary: str, name: str) -> Json:
    """Whole, or as a stream."""
    found = _post(operation, summary, name)
    end: Any = {"end": "at last `data: [DONE]`", "mark": "[DONE]"}
    streamed = stream_operation(operation, TAG, summary, ref(f"{name}Request"), ref(f"{name}Chunk"), [], ERROR, **end)
    whole, events = found["responses"]["200"], streamed["responses"]["200"]
    whole["content"] |= events["content"]
    whole["description"] = f"The whole answer or, with `stream`: {events['description']}"
    return found


# ---- schemas -----------------------------------------------------------------------------------------------------------


def openai_schemas(entries: Iterable[Entry]) -> Json:
    """`entries`: some of them are shown as examples."""
    cards = [entry.card for entry in entries if entry.card is not None]
    texts = [card.name for card in cards if card.kind == "generate"]
    vectors = [card.name for card in cards if card.kind == "embed"]
    model = {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT, "root": _TEXT}
    error = closed({"message": _TEXT, "type": _TEXT, "param": or_null(_TEXT), "code": _TEXT})
    return {
        ERROR: closed({"error": error}),
        "Model": closed({**model, "max_model_len": _COUNT}, model),
        "Models": closed({"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}}),
        **request_schema("ChatCompletionRequest", ChatRequest, CHAT_REFUSED, texts),
        **request_schema("CompletionRequest", CompletionRequest, COMPLETION_REFUSED, texts),
        **request_schema("EmbeddingsRequest", EmbeddingsRequest, EMBEDDINGS_REFUSED, vectors),
        **_chat_answers(),
        **_text_answers(),
        "Embeddings": _embeddings(),
        "CompletionUsage": closed(
            {
                "prompt_tokens": _COUNT,
                "completion_tokens": _COUNT,
                "total_tokens": _COUNT,
                "prompt_tokens_details": closed({"cached_tokens": _COUNT}),
                "completion_tokens_details": closed({"reasoning_tokens": _COUNT}),
            },
            ["prompt_tokens", "completion_tokens", "total_tokens"],
        ),
    }


def request_schema(
    name: str, kind: type[BaseModel], refused: Mapping[str, tuple[Any, ...]], models: Sequence[str]
) -> dict[str, Json]:
    """What a request's model takes; with what may stand in fields that are not supported."""
    schema = _bare(kind.model_json_schema(ref_template="#/components/schemas/{model}"))
    parts: dict[str, Json] = schema.pop("$defs", {})
    for field, allowed in refused.items():
        schema["properties"][field] = {"enum": [None, *allowed], "description": _REFUSED}
    named: Json = {**_TEXT, "description": "Its name, or an alias."}
    schema["properties"]["model"] = {**named, "examples": list(models[:MAX_EXAMPLES])} if models else named
    schema["required"] = ["model", *schema["required"]]
    return {**parts, name: schema}


def _bare(schema: Any) -> Any:
    """Without the titles and defaults that pydantic gives to everything."""
    if isinstance(schema, dict):
        return {key: _bare(part) for key, part in schema.items() if key not in {"title", "default"}}
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


def _answers(kind: str, choice: Json, usage: Json) -> Json:
    """`usage`: whether it is there, and in what form."""
    said: Json = {"id": _TEXT, "object": {"const": kind}, "created": _COUNT, "model": _TEXT}
    said |= {"system_fingerprint": _TEXT, "choices": {"type": "array", "items": choice}}
    return closed({**said, "usage": usage}, said)


def _chat_answers() -> dict[str, Json]:
    token: Json = {"token": _TEXT, "logprob": _NUMBER, "bytes": or_null({"type": "array", "items": _COUNT})}
    tokens = closed({**token, "top_logprobs": {"type": "array", "items": closed(token)}})
    logprobs = or_null(closed({"content": {"type": "array", "items": tokens}, "refusal": _NOTHING}))
    message: Json = {"role": {"const": "assistant"}, "content": _TEXT, "refusal": _NOTHING}
    function = {"name": _TEXT, "arguments": _TEXT}
    call: Json = {"id": _TEXT, "type": {"const": "function"}, "function": closed(function)}
    piece_of_call: Json = {**call, "index": _COUNT, "function": closed(function, ["arguments"])}
    calls: Json = {"type": "array", "items": closed(call)}
    pieces: Json = {"type": "array", "items": closed(piece_of_call, ["index", "function"])}
    said: Json = {"index": _COUNT, "logprobs": logprobs}
    usage = ref("CompletionUsage")
    whole_message = {**message, "content": or_null(_TEXT), "tool_calls": calls}
    whole = closed({**said, "message": closed(whole_message, message), "finish_reason": _REASON})
    piece = closed({**said, "delta": closed({**message, "tool_calls": pieces}, []), "finish_reason": or_null(_REASON)})
    return {
        "ChatCompletion": _answers("chat.completion", whole, usage),
        "ChatCompletionChunk": _answers("chat.completion.chunk", piece, or_null(usage)),
    }


def _text_answers() -> dict[str, Json]:
    columns = {
        "tokens": _TEXT,
        "token_logprobs": _NUMBER,
        "top_logprobs": {"type": "object", "additionalProperties": _NUMBER},
        "text_offset": _COUNT,
    }
    logprobs = or_null(closed({name: {"type": "array", "items": item} for name, item in columns.items()}))
    said: Json = {"index": _COUNT, "text": _TEXT, "logprobs": logprobs}
    usage = ref("CompletionUsage")
    return {
        "Completion": _answers("text_completion", closed({**said, "finish_reason": _REASON}), usage),
        "CompletionChunk": _answers(
            "text_completion", closed({**said, "finish_reason": or_null(_REASON)}), or_null(usage)
        ),
    }


def _embeddings() -> Json:
    vector = {"anyOf": [{"type": "array", "items": _NUMBER}, {"type": "string", "contentEncoding": "base64"}]}
    each = closed({"object": {"const": "embedding"}, "index": _COUNT, "embedding": vector})
    usage = closed({"prompt_tokens": _COUNT, "total_tokens": _COUNT})
    data = {"type": "array", "items": each}
    return closed({"object": {"const": "list"}, "data": data, "model": _TEXT, "usage": usage})
