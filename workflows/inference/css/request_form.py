"""Requests in the predecessor's form, `{provider, endpoint, model, params}`, and what they mean in ours. Asks nobody.

Neither provider nor key nor address is chosen by a request: the first is compared with what is deployed, a key is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workflows.errors import InvalidInput, Unsupported
from workflows.inference.css.providers import PROVIDERS, Endpoint, ProviderName
from workflows.types.text import MAX_MESSAGES, Sampling

__all__ = ["has_request_form", "read_request_form"]

_ENDPOINTS: Final[Mapping[str, tuple[Endpoint, ...]]] = {
    "completions": ("chat", "completions"),
    "embeddings": ("embeddings",),
}
MAX_EXTRAS: Final = 32
Name = Annotated[str, Field(max_length=256)]


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    role: Name
    content: str


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    messages: Annotated[list[_Turn], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    input: str | None = None


class _Form(BaseModel):
    """`stream` says nothing that the way of calling would not say."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    provider: Name
    endpoint: Name
    model: Name
    api_keys: dict[str, str | None] | None = None
    params: _Params
    stream: bool = False
    extra_args: Annotated[dict[Name, Any], Field(max_length=MAX_EXTRAS)] | None = None


def has_request_form(given: object) -> bool:
    """Whether it is meant as such a request: it need not be a right one."""
    return isinstance(given, Mapping) and "provider" in given and "params" in given


def read_request_form(given: Any, provider: ProviderName, endpoint: Endpoint) -> dict[str, Any]:
    """The plain input that it means, for this deployment. Raises InvalidInput naming the field."""
    form = _checked(given)
    names = {provider, *PROVIDERS[provider].old_names}
    if form.provider.lower() not in {name.lower() for name in names}:
        raise InvalidInput(f"provider: what is deployed here asks {provider}", param="provider")
    if endpoint not in _ENDPOINTS.get(form.endpoint.lower(), ()):
        raise InvalidInput("endpoint: what is deployed here has another one", param="endpoint")
    if any((form.api_keys or {}).values()):
        raise Unsupported("api_keys: the key is the operator's", param="api_keys")
    asks_text = endpoint != "embeddings"
    wanted, other = ("messages", "input") if asks_text else ("input", "messages")
    if getattr(form.params, wanted) is None or getattr(form.params, other) is not None:
        raise InvalidInput(f"params: this endpoint needs {wanted}, and nothing else", param="params")
    said = {"model": form.model, **_extras(form.extra_args or {}, asks_text=asks_text)}
    if not asks_text:
        return {**said, "text": form.params.input}
    return {**said, "messages": [turn.model_dump() for turn in form.params.messages or ()]}


def _checked(given: Any) -> _Form:
    try:
        return _Form.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # A part of a path below these is a name that the caller chose, of any length.
    place = first["loc"][:1] if first["loc"][:1] in {("api_keys",), ("extra_args",)} else first["loc"]
    param = ".".join(map(str, place))[:64] if first["type"] != "extra_forbidden" else None
    raise InvalidInput(f"{param}: {first['msg']}" if param else "a field of the request is not known", param=param)


def _extras(extras: Mapping[str, Any], *, asks_text: bool) -> dict[str, Any]:
    """What was put over the request's body: how tokens are chosen, or the length of a vector, and nothing else."""
    allowed = Sampling.model_fields.keys() if asks_text else {"dimensions"}
    if not extras.keys() <= allowed:
        raise Unsupported(f"extra_args: only {', '.join(sorted(allowed))}", param="extra_args")
    if not asks_text:
        return dict(extras)
    sampling: dict[str, Any] = {"max_tokens": None, **extras}
    if isinstance(sampling.get("stop"), str):
        sampling["stop"] = [sampling["stop"]]
    return {"sampling": sampling}
