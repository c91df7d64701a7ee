"""The model repository over HTTP: what there is, and models that are unloaded and loaded by an operator."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from deployments.router.keys import Keys, mint_key
from tests.router.router_front import Front, ScriptedClient, Visit
from tests.router.test_in_process import serving
from workflows.base import BaseInferenceWorkflow
from workflows.card import Card
from workflows.errors import NotReady

ONE = "/v2/repository/models/m"


class Counting(BaseInferenceWorkflow[str, str]):
    """Counts its lives."""

    def __init__(self) -> None:
        self.lives = 0
        self.torn_down = 0

    def do_setup(self) -> None:
        self.lives += 1

    def do_run_model(self, preprocessed_data: str) -> str:
        return f"{preprocessed_data} in life {self.lives}"

    def do_teardown(self) -> None:
        self.torn_down += 1


async def bare(front: Front, path: str, body: bytes = b"") -> httpx.Response:
    """As Triton's clients post: no media type, and often no body."""
    return await front.request("POST", path, content=body)


async def test_the_index_says_what_there_is_and_how_it_is() -> None:
    front = Front()
    front.add("a")
    front.add("b", state="loading", with_card=False)
    front.add("c", state="failed", reason="out of memory", with_card=False)
    front.add("d", state="unloaded")
    models = [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "b", "version": "1", "state": "LOADING", "reason": ""},
        {"name": "c", "version": "1", "state": "UNAVAILABLE", "reason": "out of memory"},
        {"name": "d", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]
    for body in (b"", b"{}", b'{"ready": false}'):
        assert (await bare(front, "/v2/repository/index", body)).json() == models
    assert (await bare(front, "/v2/repository/index", b'{"ready": true}')).json() == models[:1]


async def test_a_model_is_unloaded_and_loaded_again() -> None:
    workflow = Counting()
    async with serving(("m", workflow)) as front:
        ask = "/v1/workflows/m/inference"
        assert (await front.post(ask, "a")).json() == "a in life 1"
        assert (await bare(front, f"{ONE}/unload", b'{"parameters": {"unload_dependents": false}}')).json() == {}
        assert (workflow.is_setup, workflow.torn_down) == (False, 1)
        refused = await front.post(ask, "b")
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "m is unloaded")
        (model,) = (await bare(front, "/v2/repository/index")).json()
        assert (model["state"], model["reason"]) == ("UNAVAILABLE", "unloaded")
        assert (await front.get("/v2/models/m/ready")).status_code == 503
        assert (await bare(front, f"{ONE}/load", b"{}")).json() == {}
        assert (await front.post(ask, "c")).json() == "c in life 2"
        assert (await front.get("/v2/models/m/ready")).status_code == 200


async def test_only_operators_load_and_unload_and_only_what_they_may_use() -> None:
    (operator, one), (user, two) = mint_key("op", "operator", ["m"]), mint_key("me")
    front = Front(Keys([one, two]))
    front.add("m", _Told())
    front.add("other", _Told())
    for path in (f"{ONE}/load", f"{ONE}/unload"):
        answer = await front.request("POST", path, headers={"x-api-key": user})
        assert (answer.status_code, answer.json()) == (403, {"error": "this needs an operator's API key"})
        answer = await front.request("POST", path, headers={"x-api-key": operator})
        assert answer.status_code == 200
    for name in ("other", "nowhere"):
        answer = await front.request("POST", f"/v2/repository/models/{name}/unload", headers={"x-api-key": operator})
        assert (answer.status_code, answer.json()) == (404, {"error": "model not found"})
    index = await front.request("POST", "/v2/repository/index", headers={"x-api-key": operator})
    assert [model["name"] for model in index.json()] == ["m"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            "load",
            b'{"parameters": {"config": "{}"}}',
            "'config' cannot be loaded: models and their configuration come with serve deploy",
        ),
        (
            "load",
            b'{"parameters": {"file:1/model.onnx": "AAAA"}}',
            "'file:1/model.onnx' cannot be loaded: models and their configuration come with serve deploy",
        ),
        ("load", b'{"more": 1}', "the body has an unknown field 'more'"),
        ("load", b"[]", "the body must be a JSON object"),
        ("unload", b'{"parameters": {"unload_dependents": 1}}', "unload_dependents must be true or false"),
        ("unload", b'{"parameters": {"now": true}}', "unknown parameter 'now'"),
        ("unload", b"{", "the body is not valid JSON in UTF-8, from character 1 on"),
    ],
)
async def test_what_is_refused_changes_nothing(path: str, body: bytes, message: str) -> None:
    front, client = Front(), _Told()
    front.add("m", client)
    answer = await bare(front, f"{ONE}/{path}", body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})
    assert not client.told


async def test_a_setup_that_fails_says_why() -> None:
    front = Front()
    front.add("m", _Told(NotReady("m is unloaded: no such file", retry_after_s=None)))
    answer = await bare(front, f"{ONE}/load")
    assert (answer.status_code, answer.json()) == (503, {"error": "m is unloaded: no such file"})


async def test_whoever_asked_may_leave() -> None:
    front, client = Front(), _Told()
    client.gate.clear()
    front.add("m", client)
    visit = Visit(front.app, "POST", f"{ONE}/unload", {})
    task = visit.start()
    async with asyncio.timeout(5):
        await client.asked.wait()
        visit.leave()
        await task
    assert client.cancelled
    assert front.lines.last["code"] == "cancelled"


class _Told(ScriptedClient):
    """Notes what it is told, and answers when the gate is open."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.told: list[str] = []
        self.error = error
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = False

    async def card(self) -> Card:
        return Card(name="m", summary="", kind="json", input_schema={}, output_schema={})

    async def load(self, timeout_s: float) -> list[Any]:
        return await self._do("load")

    async def unload(self, timeout_s: float) -> list[Any]:
        return await self._do("unload")

    async def _do(self, what: str) -> list[Any]:
        self.told.append(what)
        self.asked.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return []
