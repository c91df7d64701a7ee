"""A request that names its model, through the router and both protocols of tensors: the answer, and who is told what."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments.building import build_workflow
from deployments.config import WorkflowArgs
from tests.router.test_in_process import serving
from tests.workflows.models.fake_hub import FakeHub, File
from tests.workflows.models.graphs import adds
from workflows.inference.onnx import ONNXInferenceWorkflow

ACME = "huggingface/acme"


@pytest.fixture
def configured(hub: FakeHub, settings: dict[str, Any], tmp_path: Path) -> Any:
    """As from a config file: a workflow that adds nothing, beside models of a hub."""
    (tmp_path / "own.onnx").write_bytes(adds(0))

    def build(wait_s: float) -> ONNXInferenceWorkflow:
        options: dict[str, Any] = {
            "model": "own.onnx",
            "root": str(tmp_path),
            "sources": {**settings, "cache": str(settings["cache"])},
            "on_demand": {"allowed": [f"{ACME}/*"], "wait_s": wait_s},
        }
        built = build_workflow(WorkflowArgs(workflow="workflows:ONNXInferenceWorkflow", options=options))
        assert isinstance(built, ONNXInferenceWorkflow)
        return built

    return build


async def ask(house: Any, name: str | None) -> tuple[Any, Any]:
    """The native protocol's answer and that of the Open Inference Protocol, at the same time."""
    parameters = {} if name is None else {"model": name}
    native = {"inputs": {"x": {"dtype": "float32", "shape": [1], "data": [0]}}, "parameters": parameters}
    oip = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}], "parameters": parameters}
    return await asyncio.gather(
        house.post("/v1/workflows/adds/inference", native), house.post("/v2/models/adds/infer", oip)
    )


async def test_both_protocols_can_name_a_model(hub: FakeHub, configured: Any) -> None:
    for number in (1, 2):
        hub.push(f"acme/m{number}", {"model.onnx": adds(number)})
    workflow = configured(wait_s=30)
    wanted = [0, 1, 2, 1, 0, 2]
    async with serving(("adds", workflow)) as house:
        answers = await asyncio.gather(*(ask(house, f"{ACME}/m{number}" if number else None) for number in wanted))
        asked = len(hub.seen)
        refused = await ask(house, "huggingface/other/m1")
        assert len(hub.seen) == asked
        absent = await ask(house, f"{ACME}/m9")
        assert workflow.batch_limits.max_size > 1
    for number, (native, oip) in zip(wanted, answers, strict=True):
        assert native.json()["outputs"]["y"]["data"] == oip.json()["outputs"][0]["data"] == [number]
    assert [answer.status_code for answer in (*refused, *absent)] == [404] * 4
    assert refused[0].json()["error"]["message"] == absent[0].json()["error"]["message"] == "model not found"


async def test_who_asks_for_a_model_that_is_loading_is_told_to_come_back(hub: FakeHub, configured: Any) -> None:
    file = File(adds(3), hold_after=10)
    hub.push("acme/m3", {"model.onnx": file})
    async with serving(("adds", configured(wait_s=0))) as house:
        for answer in await ask(house, f"{ACME}/m3"):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert [answer.status_code for answer in await ask(house, None)] == [200, 200]
        file.go.set()


async def test_while_a_model_is_loaded_others_answer(hub: FakeHub, configured: Any) -> None:
    file = File(adds(4), hold_after=10)
    hub.push("acme/m4", {"model.onnx": file})
    hub.push("acme/m5", {"model.onnx": adds(5)})
    async with serving(("adds", configured(wait_s=30))) as house:
        await ask(house, f"{ACME}/m5")
        loading = asyncio.create_task(ask(house, f"{ACME}/m4"))
        await asyncio.to_thread(file.reached.wait)
        for name, number in ((None, 0), (f"{ACME}/m5", 5)):
            native, oip = await ask(house, name)
            assert native.json()["outputs"]["y"]["data"] == oip.json()["outputs"][0]["data"] == [number]
        assert not loading.done()
        file.go.set()
        native, oip = await loading
    assert native.json()["outputs"]["y"]["data"] == oip.json()["outputs"][0]["data"] == [4]
