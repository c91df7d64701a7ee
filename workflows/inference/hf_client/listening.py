"""One call's view of our transport, in the place of the HTTP client that `huggingface_hub` would make.

It keeps the head of the answer, which the library throws away, and tells errors apart before the library can: that would put
addresses and the server's own words into its exceptions, remember parameters for all callers, and ask again by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from workflows.inference.tgi_failures import failure_of_answer
from workflows.remote.failures import FailureKind, UpstreamFailure

if TYPE_CHECKING:
    import httpx2

__all__ = ["Listening"]


class Listening:
    """See above. Has what the library calls: `post` and `stream`.

    Attributes:
        headers: Of the answer, by lower-case names; empty before there is one.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.headers: Mapping[str, str] = {}

    async def post(self, url: str, **given: Any) -> httpx2.Response:
        response = await self._http.post(url, **_ours(given))
        self._heard(response, response.content)
        return response

    @asynccontextmanager
    async def stream(self, method: str, url: str, **given: Any) -> AsyncGenerator[httpx2.Response]:
        async with self._http.stream(method, url, **_ours(given)) as response:
            good = response.is_success
            self._heard(response, b"" if good else await response.aread())
            kind = self.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise UpstreamFailure(FailureKind.MALFORMED, detail="no stream of events")
            yield response

    def _heard(self, response: httpx2.Response, body: bytes) -> None:
        """Raises UpstreamFailure for an error."""
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        if not response.is_success:
            raise failure_of_answer(response.status_code, self.headers, body)


def _ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without the time that the library would wait, which is forever, and without its cookies."""
    asked: dict[str, Any] = {"headers": given.get("headers")}
    if given.get("data") is not None:
        asked["content"] = bytes(given["data"])
    else:
        asked["json"] = given.get("json")
    return asked
