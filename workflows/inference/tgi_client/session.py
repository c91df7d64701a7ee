"""What the `text-generation` package takes for aiohttp's session: our transport, which is one for all calls.

The package opens a session for each call, waits in it as it likes, and loses the status and the head of every answer. Here a
call's answer is looked at before the package sees it, and its lines are those that our transport lets through.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from workflows.inference.tgi_failures import failure_of_answer
from workflows.remote.failures import FailureKind, UpstreamFailure

if TYPE_CHECKING:
    import httpx2

__all__ = ["Call", "Session"]

_DONE: Final = "[DONE]"
_EVENTS: Final = "text/event-stream"


class Call:
    """One call: it stands where the package has headers for its session, and so finds its way there.

    Attributes:
        headers: Of the answer, by lower-case names; empty before there is one.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http
        self.headers: Mapping[str, str] = {}


class Session:
    """As far as the package uses one."""

    def __init__(self, headers: Call, cookies: Any = None, timeout: Any = None) -> None:
        self._call = headers

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        """The transport stays open: it is not the session's."""

    def post(self, url: str, json: Mapping[str, Any]) -> AbstractAsyncContextManager[_Answer]:
        return self._post(url, json)

    @asynccontextmanager
    async def _post(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[_Answer]:
        """Raises UpstreamFailure for an answer that is none."""
        call = self._call
        async with call.http.stream("POST", url, json=body, headers={"user-agent": "infernet-serve"}) as response:
            call.headers = {name.lower(): value for name, value in response.headers.items()}
            if not response.is_success:
                raise failure_of_answer(response.status_code, call.headers, await response.aread())
            if body.get("stream") and not call.headers.get("content-type", "").startswith(_EVENTS):
                raise UpstreamFailure(FailureKind.MALFORMED, detail="no stream of events")
            yield _Answer(response)


class _Answer:
    """As far as the package uses one; it is a good one, and `content` gives its lines until the mark of the end, if any."""

    status: Final = 200

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def json(self) -> Any:
        return json.loads(await self._response.aread())

    @property
    def content(self) -> AsyncIterator[bytes]:
        return self._lines()

    async def _lines(self) -> AsyncGenerator[bytes]:
        async for line in self._response.aiter_lines():
            field, _, value = line.partition(":")
            if field == "data" and value.strip() == _DONE:
                return
            if line:
                yield f"{line}\n".encode()
