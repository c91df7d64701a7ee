"""The `text-generation` package's client, as an instance of its module that is ours alone.

What is put in the place of its names changes nothing for anybody else who uses the package: its session, which is our
transport, and its types, which deprecate themselves at every call, refuse what servers take, and lose what they tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final

from workflows.errors import InvalidInput
from workflows.inference.tgi_client.session import Session
from workflows.inference.tgi_wire import TgiAnswer, TgiEvent

__all__ = ["Body", "own_client"]

_MODULE: Final = "text_generation.client"
# A number of tokens that is not said is a number of the server's; `null` is as many as there is room for.
_KEPT: Final = "max_new_tokens"


class Body:
    """A request's body, which the package asks for its `dict`."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def dict(self) -> Mapping[str, Any]:
        body = dict(self._fields)
        if isinstance(body.get("parameters"), dict):
            said = body["parameters"].items()
            body["parameters"] = {name: value for name, value in said if value is not None or name == _KEPT}
        return body


def own_client() -> Any:
    """The class `AsyncClient`. Raises InvalidInput, for the operator, where the package is not installed."""
    try:
        spec = find_spec(_MODULE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.loader is None:
        raise InvalidInput("needs the package text-generation: pip install --no-deps text-generation==0.7.0")
    module: ModuleType = module_from_spec(spec)
    spec.loader.exec_module(module)
    ours: Mapping[str, Any] = {
        "ClientSession": Session,
        "Parameters": dict,
        "Request": Body,
        "Response": TgiAnswer,
        "StreamResponse": TgiEvent,
        "ChatComplete": dict,
        "ChatCompletionChunk": dict,
    }
    for name, replacement in ours.items():
        assert hasattr(module, name), name
        setattr(module, name, replacement)
    return module.AsyncClient
