"""The least that a workflow asking a remote model can be: what the contract is run by to test the mechanism itself.

It asks with httpx2 alone, for JSON or lines of it, so that no SDK's behaviour is taken for ours.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tests.workflows.remote.contract_upstream import ANSWER, Dialect
from workflows.async_base import AsyncInferenceWorkflow
from workflows.remote.clock import Clock
from workflows.remote.failures import FailureKind, UpstreamFailure, of_status
from workflows.remote.policy import UpstreamPolicy
from workflows.remote.secret import SecretRef
from workflows.remote.transport import http_client
from workflows.remote.upstream import Attempt, Upstream

__all__ = ["PLAIN", "PlainRemote", "Text"]


class Text(BaseModel):
    text: str


class PlainRemote(AsyncInferenceWorkflow[Text, Text, Text]):
    def __init__(self, url: str, policy: UpstreamPolicy, clock: Clock, key: Path) -> None:
        self._url = url
        self._policy = policy
        self._clock = clock
        self._key = SecretRef(file=str(key))

    async def do_setup(self) -> None:
        self._client = http_client(self._policy, self._url, key=self._key.read(), clock=self._clock)
        self.upstream = Upstream("plain", self._policy, clock=self._clock, draw=lambda: 0.5)

    async def do_run_model(self, preprocessed_data: Text) -> Text:
        async def ask(attempt: Attempt) -> Text:
            response = await self._client.post(self._url, content=preprocessed_data.model_dump_json())
            if response.status_code != 200:
                raise of_status(response.status_code, response.headers)
            return Text.model_validate(response.json())

        return await self.upstream.ask(ask)

    async def do_stream(self, preprocessed_data: Text) -> AsyncGenerator[Text]:
        async def ask(attempt: Attempt) -> AsyncGenerator[Text]:
            async with self._client.stream("POST", self._url, content=preprocessed_data.model_dump_json()) as response:
                if response.status_code != 200:
                    raise of_status(response.status_code, response.headers)
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return
                    if line.startswith("data: "):
                        told = json.loads(line[6:])
                        if "error" in told:
                            raise UpstreamFailure(FailureKind.FAILED, detail="it says so in its stream")
                        yield Text.model_validate(told)
            raise UpstreamFailure(FailureKind.CUT, detail="no end mark")

        async for chunk in self.upstream.stream(ask):
            yield chunk

    async def do_teardown(self) -> None:
        await self._client.aclose()


def _make(url: str, policy: Mapping[str, Any], clock: Clock, key: Path) -> PlainRemote:
    return PlainRemote(url, UpstreamPolicy.model_validate(policy), clock, key)


PLAIN = Dialect(
    make=_make,
    ask=lambda prompt: Text(text=prompt),
    text=lambda answer: str(answer.text),
    whole=json.dumps({"text": ANSWER}).encode(),
    events=[
        *(b"data: %b\n\n" % json.dumps({"text": part}).encode() for part in (ANSWER[:5], ANSWER[5:])),
        b"data: [DONE]\n\n",
    ],
    error_event=b'data: {"error": "the canary of the prompt 55aa"}\n\n',
)
