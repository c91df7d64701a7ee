"""Hugging Face's inference API described: one route, and what each task is asked and answers there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from deployments.router.openapi.parts import (
    Json,
    closed,
    name_parameter,
    or_null,
    post_operation,
    ref,
    stream_operation,
)
from deployments.router.protocols.audio import audio_content
from deployments.router.protocols.huggingface.requests import OPTIONS
from deployments.router.protocols.huggingface.singles import SINGLES, Single
from deployments.router.protocols.huggingface.speech import PARAMETERS as SPEECH_PARAMETERS
from deployments.router.protocols.huggingface.tasks import FORMS, TRUNCATION, Form
from deployments.router.protocols.huggingface.vectors import PARAMETERS
from workflows.types.embed import Embed
from workflows.types.exchange import Exchange
from workflows.types.speech import Speak
from workflows.types.tasks import Decoding

__all__ = ["TAG", "hugging_face_paths", "hugging_face_schemas"]

TAG: Final = "hugging face"
_ERROR: Final = "HuggingFaceError"
_TEXT: Final[Json] = {"type": "string"}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT, "minItems": 1}
_NUMBER: Final[Json] = {"type": "number"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_FLAG: Final[Json] = {"type": "boolean"}
_PLACE: Final[Json] = {"score": _NUMBER, "word": _TEXT, "start": _COUNT, "end": _COUNT}
_ANSWERS: Final[dict[str, Json]] = {
    "fill-mask": closed({"score": _NUMBER, "token": _COUNT, "token_str": _TEXT, "sequence": _TEXT}),
    "question-answering": closed({"answer": _TEXT, "score": _NUMBER, "start": _COUNT, "end": _COUNT}),
    "summarization": closed({"summary_text": _TEXT}),
    "text-classification": closed({"label": _TEXT, "score": _NUMBER}),
    "token-classification": {
        "anyOf": [closed({"entity_group": _TEXT, **_PLACE}), closed({"entity": _TEXT, "index": _COUNT, **_PLACE})]
    },
    "translation": closed({"translation_text": _TEXT}),
    "zero-shot-classification": closed({"label": _TEXT, "score": _NUMBER}),
}
_OBJECTS: Final[Json] = {"type": "array", "items": {"type": "object"}}
# Of a picture, a recording or a table; each task's fields are in the schema of its workflow.
_ABOUT_ONE: Final[Json] = {
    "anyOf": [_OBJECTS, {"type": "object"}, {"type": "array", "items": {"type": ["number", "string"]}}]
}


def hugging_face_paths(names: Sequence[str]) -> Json:
    """`names`: of workflows that there are."""
    base, parameters = "/hf/{name}", [name_parameter(names)]
    answers = ("ChatCompletion", "ChatCompletionChunk")
    chat = _either("hfChat", "What the assistant says next", "TgiChatCompletionRequest", answers, parameters)
    return {
        base: {"post": _task("hfTask", parameters)},
        f"{base}/": {"post": _task("hfTaskSlash", parameters)},
        f"{base}/v1/chat/completions": {"post": chat},
    }


def hugging_face_schemas() -> Json:
    """With those of other protocols that these refer to: TGI's, and OpenAI's chat."""
    said = closed({"error": _TEXT, "error_type": _TEXT, "estimated_time": _NUMBER}, ["error", "error_type"])
    schemas: Json = {_ERROR: said, "HfOptions": closed(dict.fromkeys(sorted(OPTIONS), _FLAG), [])}
    asked, answered = [_asked_for_text(), _asked_for_vectors(), _asked_for_speech()], [ref("HfTexts"), ref("HfVectors")]
    schemas["HfTexts"] = {"type": "array", "items": ref("TgiAnswer"), "minItems": 1, "maxItems": 1}
    numbers: Json = {"type": "array", "items": _NUMBER}
    schemas["HfVectors"] = {"anyOf": [numbers, {"type": "array", "items": numbers}]}
    for task, form in FORMS.items():
        name = "Hf" + "".join(part.capitalize() for part in task.split("-"))
        schemas[f"{name}Request"] = _asked(form)
        one, whole = _ANSWERS[task], {"type": "array", "items": ref(name)}
        schemas[name] = one
        asked.append(ref(f"{name}Request"))
        answered += [ref(name)] if task == "question-answering" else []
        answered += [whole, {"type": "array", "items": whole}]
    schemas["HfSingleRequest"] = {"anyOf": [_asked_about_one(single) for single in SINGLES.values()]}
    asked.append(ref("HfSingleRequest"))
    schemas["HfSingle"] = _ABOUT_ONE
    answered.append(ref("HfSingle"))
    return {**schemas, "HfRequest": {"anyOf": asked}, "HfAnswer": {"anyOf": answered}}


# ---- routes ------------------------------------------------------------------------------------------------------------


def _task(operation: str, parameters: list[Json]) -> Json:
    summary = "What the workflow's task is: classes, words, answers, new text, vectors, speech"
    found = _either(operation, summary, "HfRequest", ("HfAnswer", "TgiEvent"), parameters)
    pictures = {f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("jpeg", "png", "webp")}
    found["responses"]["200"]["content"] |= {**audio_content(), **pictures}
    return found


def _either(operation: str, summary: str, asked: str, answers: tuple[str, str], parameters: list[Json]) -> Json:
    """Whole, or as a stream: `answers` are the schemas of both."""
    whole, event = map(ref, answers)
    found = post_operation(operation, TAG, summary, ref(asked), whole, parameters, _ERROR)
    streamed = stream_operation(operation, TAG, summary, ref(asked), event, parameters, _ERROR, end="see there")
    found["responses"]["200"]["content"] |= streamed["responses"]["200"]["content"]
    found["responses"]["200"]["description"] = (
        "The whole answer, or its events as the protocol has them that it is from."
    )
    return found


# ---- requests ----------------------------------------------------------------------------------------------------------


def _asked(form: Form) -> Json:
    required = [name for name in form.sources if name not in form.optional]
    single: list[Json] = [_TEXT] if len(required) == 1 else []
    if len(form.sources) > 1:
        single.append(closed(dict.fromkeys(form.sources, _TEXT), required))
    fields, needed = _fields(form.asks)
    parameters: Json = {name: fields[name] for name in sorted(form.parameters) if name in fields}
    if "truncation" in form.parameters:
        parameters["truncation"] = {"enum": list(TRUNCATION)}
    if "generate_parameters" in form.parameters:
        decoding, _ = _fields(Decoding)
        length: Json = {"type": "integer", "minimum": 1}
        more: Json = {"max_length": length, "min_length": length, "do_sample": {"const": False}}
        parameters["generate_parameters"] = closed({**decoding, **more}, [])
    needed = [name for name in needed if name in form.parameters]
    inputs: Json = {"anyOf": [*single, {"type": "array", "items": {"anyOf": single}, "minItems": 1}]}
    body: Json = {"inputs": inputs, "parameters": closed(parameters, needed)}
    return closed({**body, **_always()}, ["inputs", *(["parameters"] if needed else [])])


def _asked_about_one(single: Single) -> Json:
    """A file's base64 or a text, or an object of what the task is about; some stands beside it."""
    fields, needed = _fields(single.asks)
    parameters: Json = {name: fields[name] for name in sorted(single.parameters)}
    if {"width", "height"} <= single.parameters:
        parameters["target_size"] = closed({side: fields[side] for side in ("width", "height")}, [])
    wanted = [name for name in needed if name in single.parameters]
    beside: Json = {name: fields[ours] for name, ours in (single.beside or {}).items()}
    body: Json = {**beside, "parameters": closed(parameters, wanted), **_always()}
    if not single.sources:
        return closed(body, list(beside))
    if "" in single.sources:
        body["inputs"] = fields[single.sources[""]]
    else:
        body["inputs"] = closed({name: fields[ours] for name, ours in single.sources.items()})
    return closed(body, ["inputs", *beside, *(["parameters"] if wanted else [])])


def _asked_for_vectors() -> Json:
    fields, _ = _fields(Embed)
    parameters: Json = {name: fields[name] for name in PARAMETERS if name in fields}
    parameters["encoding_format"] = {"const": "float"}
    sentences = closed({"source_sentence": _TEXT, "sentences": _TEXTS})
    inputs: Json = {"anyOf": [_TEXT, _TEXTS, sentences]}
    return closed({"inputs": inputs, "parameters": closed(parameters, []), **parameters, **_always()}, ["inputs"])


def _asked_for_speech() -> Json:
    fields, _ = _fields(Speak)
    parameters: Json = {name: fields[name] for name in SPEECH_PARAMETERS}
    return closed({"inputs": fields["text"], "parameters": closed(parameters, []), **_always()}, ["inputs"])


def _asked_for_text() -> Json:
    inputs: Json = {"type": "string", "minLength": 1}
    body: Json = {"inputs": inputs, "parameters": or_null(ref("TgiParameters")), "stream": or_null(_FLAG)}
    return closed({**_always(), **body}, ["inputs"])


def _always() -> Json:
    return {"options": or_null(ref("HfOptions")), "stream": {"enum": [False, None]}}


def _fields(kind: type[Exchange]) -> tuple[Json, list[str]]:
    """A type's own fields, and which of them must be there."""
    schema: dict[str, Any] = kind.model_json_schema()
    fields = {
        name: {key: value for key, value in said.items() if key != "title"}
        for name, said in schema["properties"].items()
    }
    return fields, schema.get("required", [])
