"""The way to one upstream of `huggingface_hub`'s client: our transport, and a client for each call that uses it.

The library never has the key: it gets a word in its place, by which it finds out where to send, and the transport puts the
key in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from workflows.inference.hf_client.listening import Listening
from workflows.inference.tgi_failures import readable

if TYPE_CHECKING:
    import httpx2

__all__ = ["OF_A_PROVIDER", "OF_THE_HUB", "Connection"]

# Words in the key's place. Whether it begins with hf_ decides whether a provider is asked by way of Hugging Face.
OF_THE_HUB: Final = "hf_"
OF_A_PROVIDER: Final = "key"


class Connection:
    """Makes clients.

    Args:
        make: `AsyncInferenceClient`, with the provider and the rest that is the same for all calls.
        http: Our transport. Closed here.
        address: Where everything is sent, instead of to a provider.
    """

    def __init__(self, make: Callable[..., Any], http: httpx2.AsyncClient, address: str | None) -> None:
        self._make = make
        self._http = http
        self._address = address

    @asynccontextmanager
    async def client(self, model: str | None) -> AsyncGenerator[tuple[Any, Listening]]:
        """A client for one attempt, which says of an answer that cannot be read that it cannot be read: as UpstreamFailure.

        Leaving it ends its stream, and gives its connection back.
        """
        heard = Listening(self._http)
        client = self._make(model=self._address or model)
        # What the library's own `_get_async_client` would make once, and keep.
        client._async_client = heard
        with readable():
            async with client:
                yield client, heard

    async def aclose(self) -> None:
        await self._http.aclose()
