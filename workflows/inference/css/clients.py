"""The providers' own libraries, as far as they are used: a JSON body goes to a path, JSON or events come back.

Their retries are off, and their keys are none: both are the business of `workflows.remote`. What they take from the
environment by themselves (an organization, headers, traces of what is asked) would go to any upstream, and is undone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

from workflows.inference.css.providers import OLDER_ANTHROPIC
from workflows.remote.failures import FailureKind, UpstreamFailure

if TYPE_CHECKING:
    import httpx2

__all__ = ["Client", "anthropic_client", "key_header", "openai_client"]

_NO_KEY: Final = "none"
"""What the libraries want in a key's place; it is not sent."""
_EVENTS: Final = "text/event-stream"


class Client:
    """One provider, by its library's client.

    Args:
        sdk: AsyncOpenAI, AsyncAzureOpenAI or AsyncAnthropic.
        stream: The same library's AsyncStream.
        raw: httpx2.Response: what the library gives where it is not to read an answer.
    """

    def __init__(self, sdk: Any, stream: Any, raw: Any = None) -> None:
        self._sdk = sdk
        self._stream = stream
        self._raw = raw

    async def ask(self, path: str, body: Mapping[str, Any]) -> object:
        """The JSON of an answer, or its text if it is none. Raises what the library does."""
        answer: object = await self._sdk.post(path, cast_to=object, body=body)
        return answer

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[object]:
        """The JSON of each event until they end, in whatever way. Raises what the library does, and UpstreamFailure."""
        stream = await self._sdk.post(
            path, cast_to=object, body={**body, "stream": True}, stream=True, stream_cls=self._stream[object]
        )
        try:
            if not stream.response.headers.get("content-type", "").lower().startswith(_EVENTS):
                raise UpstreamFailure(FailureKind.MALFORMED, detail="no stream, though one was asked for")
            async for event in stream:
                yield event
        finally:
            await stream.close()

    async def bytes(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes]:
        """The bytes of an answer as they come. Raises as `events` does."""
        options = {"headers": {"accept": "application/octet-stream"}}
        answer = await self._sdk.post(
            path, cast_to=self._raw, body=body, options=options, stream=True, stream_cls=self._stream[object]
        )
        try:
            if answer.headers.get("content-type", "").lower().startswith((_EVENTS, "application/json", "text/")):
                raise UpstreamFailure(FailureKind.MALFORMED, detail="no file, though one was asked for")
            async for part in answer.aiter_bytes():
                yield part
        finally:
            await answer.aclose()

    async def close(self) -> None:
        await self._sdk.close()


def openai_client(
    openai: Any, raw: type[httpx2.Response], http: httpx2.AsyncClient, base_url: str, api_version: str | None
) -> Client:
    """For OpenAI and those who follow it; with a version of the API, for Azure."""
    common = {"api_key": _NO_KEY, "max_retries": 0, "http_client": http, "timeout": None}
    if api_version is None:
        sdk = openai.AsyncOpenAI(base_url=base_url, **common)
    else:
        sdk = openai.AsyncAzureOpenAI(azure_endpoint=base_url, api_version=api_version, **common)
    sdk.organization = sdk.project = None
    sdk._custom_headers = {}
    return Client(sdk, openai.AsyncStream, raw)


def anthropic_client(anthropic: Any, http: httpx2.AsyncClient, base_url: str, api_version: str | None) -> Client:
    sdk = anthropic.AsyncAnthropic(
        api_key=_NO_KEY, base_url=base_url, max_retries=0, http_client=http, timeout=None, open_telemetry=False
    )
    sdk._custom_headers = {} if api_version is None else {"anthropic-version": api_version}
    return Client(sdk, anthropic.AsyncStream)


def key_header(sdk: str, api_version: str | None) -> tuple[str, str]:
    """The header that takes the key, and what stands before it there."""
    if sdk == "azure":
        return "api-key", ""
    if sdk == "anthropic" and api_version == OLDER_ANTHROPIC:
        return "x-api-key", ""
    return "authorization", "Bearer "
