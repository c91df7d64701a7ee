"""Who offers models over an API, and what each of them takes: one row for each. Sends nothing.

A row says by which name a provider takes what a caller may ask. What is not in it, the provider does not have: it is refused
by its name, and never left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

__all__ = [
    "ENDPOINTS",
    "OLDER_ANTHROPIC",
    "PROVIDERS",
    "Changes",
    "Endpoint",
    "ParameterName",
    "Provider",
    "ProviderName",
    "Takes",
    "UsageInStreams",
    "takes",
]

Endpoint = Literal["chat", "completions", "embeddings", "speech"]
ENDPOINTS: Final[tuple[Endpoint, ...]] = ("chat", "completions", "embeddings", "speech")
ProviderName = Literal[
    "anthropic",
    "azure",
    "deepseek",
    "gemini",
    "gooseai",
    "groq",
    "mistral",
    "openai",
    "openai-compatible",
    "perplexity",
    "together",
    "xai",
]
ParameterName = Literal[
    "dimensions",
    "frequency_penalty",
    "include_stop",
    "logit_bias",
    "max_tokens",
    "min_p",
    "min_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_tokens",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tokens",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "truncate",
    "typical_p",
]
"""What a request may ask beside its text, as the exchange types call it."""
UsageInStreams = Literal["asked", "told", "untold"]
"""Whether a stream tells its usage where that is asked for, by itself, or never: then it is counted here."""

OLDER_ANTHROPIC: Final = "2023-06-01"
"""The version of Anthropic's API up to which it takes `temperature`, `top_p` and `top_k`: newer ones answer 400."""


@dataclass(frozen=True, slots=True)
class Takes:
    """What one endpoint of a provider takes.

    Attributes:
        path: Below the base URL; `{model}` stands for the model.
        parameters: What may be asked, and how the provider calls it; None is left out without a word, because the operator
            has said so.
        most_stops: Stop strings that it takes at once.
        most_logprobs: The largest `top_logprobs`.
        logprobs: How it is asked for them: with a flag and a number, or with the number alone.
        max_temperature: The largest that it takes.
        usage: See `UsageInStreams`.
        formats: Kinds of `response_format` beside text.
        images: Kinds of images in messages.
        base64: Whether it gives vectors as base64, which is a third of their size as JSON.
        tells_stop: Whether an answer says which stop string ended it.
        hidden_in_total: Whether tokens of reasoning are in its total alone, and not among those of the completion.
    """

    path: str
    parameters: Mapping[str, str | None]
    most_stops: int = 16
    most_logprobs: int = 20
    logprobs: Literal["flag", "number"] = "flag"
    max_temperature: float = 2.0
    usage: UsageInStreams = "asked"
    formats: frozenset[str] = frozenset({"json_object", "json_schema"})
    images: frozenset[str] = frozenset({"image", "remote_image"})
    base64: bool = False
    tells_stop: bool = False
    hidden_in_total: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """One row.

    Attributes:
        sdk: Whose library speaks to it.
        base_url: None where the operator has to say it.
        needs_key: Whether it answers nobody without one.
        api_versions: Whether the operator may say a version of its API; `azure` does not work without.
        old_names: What it was called in requests of the predecessor's form.
    """

    sdk: Literal["openai", "azure", "anthropic"]
    base_url: str | None
    endpoints: Mapping[Endpoint, Takes]
    needs_key: bool = True
    api_versions: bool = False
    old_names: tuple[str, ...] = ()


def _same(*names: ParameterName, **others: str) -> Mapping[str, str | None]:
    return {**{name: name for name in names}, **others}


_TOOLS: Final[tuple[ParameterName, ...]] = ("tools", "parallel_tool_calls")
_NO_IMAGES: Final[frozenset[str]] = frozenset()
_DATA_ONLY: Final = frozenset({"image"})

_OPENAI_CHAT: Final = Takes(
    "/chat/completions",
    _same(
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop"),
        *(*_TOOLS, "response_format", "top_logprobs"),
        max_tokens="max_completion_tokens",
    ),
    most_stops=4,
)
_OPENAI_COMPLETIONS: Final = Takes(
    "/completions",
    _same(
        *("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop"),
        "top_logprobs",
        prompt_tokens="prompt",
    ),
    most_stops=4,
    most_logprobs=5,
    logprobs="number",
)
_OPENAI_EMBEDDINGS: Final = Takes("/embeddings", _same("dimensions", tokens="input"), base64=True)
_OPENAI_SPEECH: Final = Takes("/audio/speech", {})
_OPENAI: Final[Mapping[Endpoint, Takes]] = {
    "chat": _OPENAI_CHAT,
    "completions": _OPENAI_COMPLETIONS,
    "embeddings": _OPENAI_EMBEDDINGS,
    "speech": _OPENAI_SPEECH,
}
_COMPATIBLE: Final[Mapping[Endpoint, Takes]] = {
    "chat": replace(_OPENAI_CHAT, parameters={**_OPENAI_CHAT.parameters, "max_tokens": "max_tokens"}, most_stops=16),
    "completions": replace(_OPENAI_COMPLETIONS, most_stops=16, most_logprobs=20),
    "embeddings": replace(_OPENAI_EMBEDDINGS, base64=False),
    "speech": _OPENAI_SPEECH,
}
_ANTHROPIC_CHAT: Final = Takes(
    "/v1/messages",
    _same("max_tokens", *_TOOLS, "response_format", stop="stop_sequences"),
    usage="told",
    formats=frozenset({"json_schema"}),
    tells_stop=True,
)

PROVIDERS: Final[Mapping[ProviderName, Provider]] = {
    "openai": Provider("openai", "https://api.openai.com/v1", _OPENAI, old_names=("OPENAI",)),
    "azure": Provider("azure", None, _OPENAI, api_versions=True),
    "openai-compatible": Provider("openai", None, _COMPATIBLE, needs_key=False),
    "anthropic": Provider("anthropic", "https://api.anthropic.com", {"chat": _ANTHROPIC_CHAT}, api_versions=True),
    "gemini": Provider(
        "openai",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        {
            "chat": Takes(
                "/chat/completions",
                _same("max_tokens", "temperature", "top_p", "stop", "tools", "response_format"),
                most_stops=5,
                images=_DATA_ONLY,
                hidden_in_total=True,
            ),
            "embeddings": Takes("/embeddings", _same("dimensions")),
        },
    ),
    "mistral": Provider(
        "openai",
        "https://api.mistral.ai/v1",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("max_tokens", "temperature", "top_p", "stop", "presence_penalty", "frequency_penalty"),
                    *(*_TOOLS, "response_format"),
                    seed="random_seed",
                ),
                max_temperature=1.5,
                usage="told",
            ),
            "embeddings": Takes("/embeddings", _same(dimensions="output_dimension")),
        },
    ),
    "perplexity": Provider(
        "openai",
        "https://api.perplexity.ai",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("max_tokens", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty"),
                    "response_format",
                ),
                usage="told",
                formats=frozenset({"json_schema"}),
            )
        },
        old_names=("PERPLEXITYAI",),
    ),
    "groq": Provider(
        "openai",
        "https://api.groq.com/openai/v1",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("temperature", "top_p", "seed", "stop", *_TOOLS, "response_format"),
                    max_tokens="max_completion_tokens",
                ),
                most_stops=4,
            )
        },
    ),
    "together": Provider(
        "openai",
        "https://api.together.xyz/v1",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
                    *("frequency_penalty", "logit_bias", "seed", "stop", "tools", "response_format", "top_logprobs"),
                ),
                logprobs="number",
                usage="told",
            ),
            "completions": Takes(
                "/completions",
                _same(
                    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
                    *("frequency_penalty", "logit_bias", "seed", "stop", "top_logprobs"),
                ),
                logprobs="number",
                usage="told",
            ),
            "embeddings": Takes("/embeddings", {}),
        },
    ),
    "deepseek": Provider(
        "openai",
        "https://api.deepseek.com",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "stop"),
                    *("tools", "response_format", "top_logprobs"),
                ),
                formats=frozenset({"json_object"}),
                images=_NO_IMAGES,
            )
        },
    ),
    "xai": Provider(
        "openai",
        "https://api.x.ai/v1",
        {
            "chat": Takes(
                "/chat/completions",
                _same(
                    *("temperature", "top_p", "seed", "stop", *_TOOLS, "response_format", "top_logprobs"),
                    max_tokens="max_completion_tokens",
                ),
                most_logprobs=8,
                hidden_in_total=True,
            )
        },
    ),
    "gooseai": Provider(
        "openai",
        "https://api.goose.ai/v1",
        {
            "completions": Takes(
                "/engines/{model}/completions",
                _same(
                    *("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "typical_p", "repetition_penalty"),
                    *("presence_penalty", "frequency_penalty", "logit_bias", "stop", "top_logprobs"),
                ),
                logprobs="number",
                usage="untold",
            )
        },
        old_names=("GOOSEAI",),
    ),
}


@dataclass(frozen=True, slots=True)
class Changes:
    """What an operator says instead of a row, of a model that is not like its provider's others.

    Attributes:
        parameters: How the provider calls them; `refused` and `dropped` are no names: the first is as if it had them not,
            the second leaves them out without telling the caller.
        usage: None is as the row has it.
    """

    parameters: Mapping[ParameterName, str] = field(default_factory=dict)
    usage: UsageInStreams | None = None


def takes(provider: ProviderName, endpoint: Endpoint, api_version: str | None, changes: Changes) -> Takes | None:
    """What this endpoint takes; None where the provider has none such."""
    row = PROVIDERS[provider].endpoints.get(endpoint)
    if row is None:
        return None
    parameters = dict(row.parameters)
    limits: dict[str, Any] = {}
    if provider == "anthropic" and api_version == OLDER_ANTHROPIC:
        parameters |= _same("temperature", "top_p", "top_k")
        limits["max_temperature"] = 1.0
    for name, said in changes.parameters.items():
        if said == "refused":
            parameters.pop(name, None)
        else:
            parameters[name] = None if said == "dropped" else said
    return replace(row, parameters=parameters, usage=changes.usage or row.usage, **limits)
