"""Replicas that die, setups that fail, batches with a poisoned member: the others never pay."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from ray import serve
from ray.serve.schema import ApplicationStatus
from ray.util.state import list_actors

from tests.ray.cluster import Cluster, states
from tests.ray.load import Load
from tests.waiting import until

Deploy = Callable[..., Any]


async def test_one_poisoned_request_of_64_fails_alone(default_system: Cluster, deployed: Deploy) -> None:
    deployed("doubler", "tests.ray.sample_workflows.Doubler")
    until(lambda: states(default_system).get("doubler") == "ready", seconds=20, what=lambda: "doubler ready")
    async with httpx.AsyncClient(base_url=default_system.url, timeout=60) as http:
        answers = await asyncio.gather(
            *(http.post("/v1/workflows/doubler/inference", json=number) for number in range(64))
        )
    assert [a.json() if a.status_code == 200 else a.json()["error"]["code"] for a in answers] == [
        "internal" if number == 13 else 2 * number for number in range(64)
    ]
    assert "matrix" not in answers[13].text


async def test_a_killed_replica_costs_nobody_an_answer(default_system: Cluster, deployed: Deploy) -> None:
    where = deployed("placed", "tests.ray.sample_workflows.Placed")
    deployed("doubler", "tests.ray.sample_workflows.Doubler")
    until(lambda: states(default_system).get("doubler") == "ready", seconds=20, what=lambda: "doubler ready")
    victim = _pid_of("doubler")

    async with Load(default_system.url) as load:
        load.unary("doubler", 21, 42)
        load.unary("placed", 1, None)
        await load.answers(100)
        os.kill(victim, signal.SIGKILL)
        await load.answers(50, "placed")  # the router and the others are up all the while
        until(lambda: _pid_of("doubler") not in (0, victim), seconds=60, what=lambda: "a new replica")
        await load.answers(100, "doubler")

    # A doubled number may be asked for twice: every lost request was answered by the next replica, in its deadline.
    assert load.failures == []
    assert where is not None


def test_a_setup_that_fails_is_told_with_its_reason_and_the_others_answer(http: httpx.Client, deployed: Deploy) -> None:
    with contextlib.suppress(RuntimeError):  # serve.run says so, too
        deployed("refuses", "tests.ray.sample_workflows.RefusesToStart")

    def entry() -> dict[str, Any]:
        found: list[dict[str, Any]] = [
            w for w in http.get("/v1/workflows").json()["workflows"] if w["name"] == "refuses"
        ]
        return found[0] if found else {}

    until(lambda: entry().get("state") == "failed", seconds=60, what=lambda: str(entry()))
    assert entry()["reason"] == "RuntimeError: the weights are upside down"  # nobody needs a key: all are operators
    refused = http.post("/v1/workflows/refuses/inference", json=1)
    assert "upside down" not in refused.text
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert http.post("/v1/workflows/text-embedding/inference", json={"text": "still here"}).status_code == 200


def test_a_reader_who_leaves_ends_the_stream_in_the_replica(
    default_system: Cluster, deployed: Deploy, tmp_path: Path
) -> None:
    gate, closed = tmp_path / "gate", tmp_path / "closed"
    os.mkfifo(gate)
    deployed("gated", "tests.ray.sample_workflows.GatedStream", {"gate": str(gate), "closed": str(closed)})
    until(lambda: states(default_system).get("gated") == "ready", seconds=20, what=lambda: "gated ready")

    with httpx.stream("POST", f"{default_system.url}/v1/workflows/gated/stream", json=5, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"  # out before the rest can have been computed: that waits at the gate
        gate.write_bytes(b"go")
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert closed.exists()

    closed.unlink()
    with httpx.stream("POST", f"{default_system.url}/v1/workflows/gated/stream", json=5, timeout=60) as answer:
        assert next(answer.iter_lines()) == "data: 0"
    gate.write_bytes(b"go")
    until(closed.exists, seconds=20, what=lambda: "the workflow's finally")


def _pid_of(application: str, deployment: str = "WorkflowDeployment") -> int:
    """The process of an application's one running replica, 0 if there is none."""
    found = list_actors(
        filters=[("class_name", "=", f"ServeReplica:{application}:{deployment}"), ("state", "=", "ALIVE")]
    )
    return int(found[0].pid or 0) if found else 0


def test_a_wrong_file_ends_nothing_that_works(default_system: Cluster, http: httpx.Client) -> None:
    """Serve kills a replica whose `reconfigure` raises: ours goes on as it was, and says so in its log."""
    config = default_system.config()
    apps = {app["name"]: app for app in config["applications"]}
    apps["router"]["deployments"][0]["user_config"] = {"max_qeue": 5}
    apps["digits-onnx"]["deployments"][0]["user_config"] = {"batchin": {}}
    apps["digits-torch"]["args"]["options"]["wieghts"] = "x"
    image = {"inputs": {"image": {"dtype": "float32", "shape": [1, 64], "data": [1.0] * 64}}}
    router, digits = _pid_of("router", "Router"), _pid_of("digits-onnx")

    default_system.deploy(config)
    until(lambda: _reason(http, "digits-torch") != "", seconds=60, what=lambda: "the wrong option is told")
    until(lambda: _settled("router") and _settled("digits-onnx"), seconds=60, what=lambda: "the new settings arrived")

    assert "wieghts: unknown key" in _reason(http, "digits-torch")
    for name in ("digits-onnx", "digits-torch"):
        assert http.post(f"/v1/workflows/{name}/inference", json=image).status_code == 200
    assert (router, digits) == (_pid_of("router", "Router"), _pid_of("digits-onnx"))
    default_system.deploy(default_system.config())
    until(lambda: _reason(http, "digits-torch") == "", seconds=60, what=lambda: "the default system again")


def _reason(http: httpx.Client, name: str) -> str:
    return str(http.get(f"/v1/workflows/{name}").json()["reason"])


def _settled(application: str) -> bool:
    return serve.status().applications[application].status == ApplicationStatus.RUNNING
