"""The model repository extension described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deployments.router.openapi.parts import Json, closed, name_parameter, or_null, post_operation, ref
from deployments.router.protocols.open_inference.description import ERROR, TAG

__all__ = ["repository_paths", "repository_schemas"]

_TEXT: Final[Json] = {"type": "string"}
_FLAG: Final[Json] = {"type": "boolean"}


def repository_paths(names: Sequence[str]) -> Json:
    """`names`: of models that there are."""
    one = "/v2/repository/models/{name}"
    load = "Set a model up again in every replica (operators)"
    unload = "Tear a model down in every replica, after its requests in flight (operators)"
    params = [name_parameter(names)]
    index = _post("repositoryIndex", "The models there are", "IndexRequest", "Index", [])
    index["parameters"] = []  # it waits for nobody, so there is no deadline to give
    return {
        "/v2/repository/index": {"post": index},
        f"{one}/load": {"post": _post("modelLoad", load, "LoadRequest", "Nothing", params)},
        f"{one}/unload": {"post": _post("modelUnload", unload, "UnloadRequest", "Nothing", params)},
    }


def _post(operation: str, summary: str, asked: str, answered: str, params: list[Json]) -> Json:
    found = post_operation(operation, TAG, summary, ref(asked), ref(answered), params, ERROR)
    found["requestBody"]["required"] = False
    return found


def repository_schemas() -> Json:
    states = {"enum": ["READY", "LOADING", "UNAVAILABLE"]}
    model = closed({"name": _TEXT, "version": _TEXT, "state": states, "reason": _TEXT})
    return {
        "IndexRequest": closed(
            {"ready": {**_FLAG, "description": "Whether only models that can answer are listed."}}, []
        ),
        "Index": {"type": "array", "items": model},
        "LoadRequest": closed({"parameters": or_null(closed({}))}, []),
        "UnloadRequest": closed({"parameters": or_null(closed({"unload_dependents": _FLAG}, []))}, []),
        "Nothing": closed({}),
    }
