"""The statistics extension over HTTP: real runs of a real workflow, counted."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.router.keys import Keys, mint_key
from deployments.statistics import Statistics
from tests.router.router_front import Front, ScriptedClient, Visit
from tests.router.test_in_process import Doubling, Spelling, serving
from workflows.errors import DeadlineExceeded, WorkflowError

TIMES = {
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
}


def tensor(*values: int) -> dict[str, Any]:
    return {"inputs": {"x": {"dtype": "int64", "shape": [len(values)], "data": list(values)}}}


async def of(front: Front, path: str) -> dict[str, dict[str, Any]]:
    answer = await front.get(path)
    assert answer.status_code == 200, answer.text
    return {model["name"]: model for model in answer.json()["model_stats"]}


async def test_runs_items_and_failures_are_counted() -> None:
    async with serving(("m", Doubling()), ("s", Spelling())) as front:
        before = await of(front, "/v2/models/m/stats")
        assert (before["m"]["inference_count"], before["m"]["last_inference"]) == (0, 0)
        path = "/v1/workflows/m/inference"
        await front.post(path, tensor(1))
        await front.post(path, [tensor(2), tensor(3), tensor(13)])  # thirteen fails in the model
        await front.post(path, {"inputs": {}})  # and this before it
        await front.post("/v1/workflows/s/stream", "abc")
        for where in ("/v2/models/m/stats", "/v2/models/m/versions/1/stats", "/v2/models/stats"):
            found = (await of(front, where))["m"]
            assert (found["version"], found["inference_count"]) == ("1", 3)
            assert set(found["inference_stats"]) == TIMES
            assert found["inference_stats"]["success"]["count"] == 3
            assert found["inference_stats"]["fail"]["count"] >= 1
            assert found["inference_stats"]["compute_infer"]["count"] >= 3
            assert found["inference_stats"]["compute_infer"]["ns"] > 0
            assert found["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
            assert 2 <= found["execution_count"] <= 4
            assert found["last_inference"] > 1_700_000_000_000
            assert sum(batch["compute_infer"]["count"] for batch in found["batch_stats"]) == found["execution_count"]
        streams = (await of(front, "/v2/models/stats"))["s"]
        assert (streams["inference_count"], streams["execution_count"]) == (1, 1)


class Asked(ScriptedClient):
    """Fails when told to, and else has no answer; knows how often it was asked in vain."""

    def __init__(self, failure: WorkflowError | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.asked = asyncio.Event()
        self.left = 0

    async def statistics(self) -> Statistics:
        self.asked.set()
        if self.failure is not None:
            raise self.failure
        try:
            await asyncio.Event().wait()
        finally:
            self.left += 1
        raise AssertionError


class Idle(ScriptedClient):
    async def statistics(self) -> Statistics:
        return Statistics()


async def test_a_model_whose_replicas_do_not_say_is_left_out_of_all_and_says_why_itself() -> None:
    front = Front()
    front.add("failing", Asked(DeadlineExceeded("a replica did not answer in time")))
    front.add("idle", Idle())
    assert list(await of(front, "/v2/models/stats")) == ["idle"]
    answer = await front.get("/v2/models/failing/stats")
    assert (answer.status_code, answer.json()) == (504, {"error": "a replica did not answer in time"})
    assert (await front.get("/v2/models/nowhere/stats")).status_code == 404
    assert (await front.get("/v2/models/failing/versions/2/stats")).status_code == 404


async def test_nobody_is_asked_any_longer_for_who_leaves() -> None:
    front = Front()
    models = [Asked(), Asked()]
    front.add("a", models[0])
    front.add("b", models[1])
    visit = Visit(front.app, "GET", "/v2/models/stats")
    request = visit.start()
    for model in models:
        await model.asked.wait()
    visit.leave()
    await request
    assert [model.left for model in models] == [1, 1]


async def test_who_may_not_use_a_model_learns_nothing_of_it() -> None:
    secret, key = mint_key("me", workflows=["mine"])
    front = Front(Keys([key]))
    front.add("mine", Idle())
    front.add("other", Idle())
    headers = {"x-api-key": secret}
    answer = await front.get("/v2/models/stats", headers=headers)
    assert [model["name"] for model in answer.json()["model_stats"]] == ["mine"]
    assert (await front.get("/v2/models/other/stats", headers=headers)).status_code == 404
