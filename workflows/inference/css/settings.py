"""Whether what an operator says of an upstream can work, as far as that can be told without asking it."""

from __future__ import annotations

from collections.abc import Sequence

from workflows.errors import InvalidInput
from workflows.inference.css.providers import PROVIDERS, Changes, Endpoint, ProviderName, Takes, takes
from workflows.inference.css.speech import OPENAI_VOICES
from workflows.remote.address import address
from workflows.remote.secret import SecretRef

__all__ = ["address_of", "taken", "voices_of"]


def taken(provider: ProviderName, endpoint: Endpoint, api_version: str | None, changes: Changes) -> Takes:
    """What this endpoint of the provider takes. Raises InvalidInput naming the option that is wrong."""
    row = PROVIDERS[provider]
    if api_version is not None and not row.api_versions:
        raise InvalidInput(f"api_version: {provider} has no versions to choose from", param="api_version")
    if api_version is None and row.sdk == "azure":
        raise InvalidInput("api_version: azure needs one, 2024-10-21 for example", param="api_version")
    found = takes(provider, endpoint, api_version, changes)
    if found is None:
        there = ", ".join(row.endpoints)
        raise InvalidInput(f"endpoint: {provider} has no {endpoint}, only {there}", param="endpoint")
    return found


def address_of(provider: ProviderName, base_url: str | None, key: SecretRef | None) -> str:
    """Where the provider is asked. Raises InvalidInput naming the option that is wrong."""
    row = PROVIDERS[provider]
    url = row.base_url if base_url is None else base_url
    if url is None:
        raise InvalidInput(f"base_url: {provider} is somewhere else for everybody: say where", param="base_url")
    if key is None and row.needs_key:
        raise InvalidInput(f"key: {provider} answers nobody without a key: say where it stands", param="key")
    return address("base_url", url, key)


def voices_of(provider: ProviderName, voices: list[str] | None) -> Sequence[str]:
    """Raises InvalidInput where nobody says which there are."""
    if voices is None and PROVIDERS[provider].base_url is None and provider != "azure":
        raise InvalidInput("voices: which does the server have?", param="voices")
    return voices or OPENAI_VOICES
