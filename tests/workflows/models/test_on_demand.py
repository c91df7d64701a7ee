"""Requests that name their model: only what is allowed, each answered by its own, within a budget, and never mixed up."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from tests.workflows.models.fake_hub import FakeHub, File
from tests.workflows.models.graphs import adds, big
from tests.workflows.torch_models import Affine
from workflows.batch import run_batch
from workflows.context import CallContext
from workflows.errors import InvalidInput, ModelNotFound, NotReady, WorkflowError
from workflows.inference.on_demand import ModelsOnDemand, NamedRequest, OnDemand
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.models.ref import parse_ref
from workflows.models.sources import ModelSources
from workflows.testing import check_workflow
from workflows.types import Tensors, TensorsResult

ACME = "huggingface/acme"


@pytest.fixture
def serve(hub: FakeHub, settings: dict[str, Any], tmp_path: Path) -> Any:
    """A workflow whose own model adds nothing, while `acme/m<n>` adds n."""
    for number in range(1, 6):
        hub.push(f"acme/m{number}", {"model.onnx": adds(number)})
    (tmp_path / "default.onnx").write_bytes(adds(0))
    made = []

    def run(**options: Any) -> ONNXInferenceWorkflow:
        own = {name: options.pop(name) for name in ("batch", "warm_up") if name in options}
        on_demand = OnDemand.model_validate({"allowed": [f"{ACME}/*"], "wait_s": 30, **options})
        workflow = ONNXInferenceWorkflow(
            str(tmp_path / "default.onnx"),
            sources=ModelSources.model_validate(settings),
            on_demand=on_demand,
            **own,
        ).setup()
        made.append(workflow)
        return workflow

    yield run
    for workflow in made:
        workflow.teardown()


def ask(number: int, rows: int = 1, **more: Any) -> Tensors:
    parameters = {"model": f"{ACME}/m{number}"} if number else {}
    return Tensors(inputs={"x": np.zeros(rows, np.float32)}, parameters={**parameters, **more})


def said(answer: TensorsResult | WorkflowError) -> float:
    assert isinstance(answer, TensorsResult), answer
    values = set(answer.outputs["y"].tolist())
    assert len(values) == 1
    return float(values.pop())


def memory(workflow: ONNXInferenceWorkflow) -> Any:
    assert workflow._others is not None
    return workflow._others.memory


def test_a_request_is_answered_by_the_model_it_names(serve: Any, hub: FakeHub) -> None:
    workflow = serve()
    assert [said(workflow.inference(ask(number))) for number in (0, 1, 2, 1, 0)] == [0, 1, 2, 1, 0]
    asked = len(hub.seen)
    mixed = [ask(number, rows) for number, rows in [(0, 1), (1, 2), (0, 3), (2, 1), (1, 1), (1, 5)]]
    assert [said(answer) for answer in workflow.inference_batch(mixed)] == [0, 1, 0, 2, 1, 1]
    assert len(hub.seen) == asked
    assert workflow.inference_batch([ask(1, 2), ask(1, 3)])[1].outputs["y"].shape == (3,)
    assert workflow.card("w").signature.inputs[0].name == "x"


def test_a_batch_has_one_model(serve: Any) -> None:
    workflow = serve()
    assert len({workflow.bucket(ask(number)) for number in range(6)}) == 6
    assert workflow.bucket(ask(1, 2)) == workflow.bucket(ask(1, 7))
    for odd in (7, None, ["a"], {"a": 1}):
        hash(workflow.bucket(ask(0, model=odd)))
    executions: list[Any] = []
    run_batch(workflow, [ask(1), ask(2), ask(1), ask(1, 4)], [CallContext()] * 4, executions)
    assert sorted(execution.members for execution in executions) == [[0, 2, 3], [1]]


NOT_ALLOWED = [
    *(
        "huggingface/other/m1",
        f"{ACME}/m1@main",
        "local/acme/m1",
        "s3/acme/m1",
        "../../etc/passwd",
        "/etc/passwd",
        "",
        "m1",
    ),
    *(f"{ACME}/m1:../x", f"{ACME}/m1\0", "x" * 100_000, "default.onnx"),
]


def test_what_is_not_allowed_is_not_found_by_nobody_asked(serve: Any, hub: FakeHub) -> None:
    workflow = serve(memory_bytes=2 * len(adds(1)))
    for number in (1, 2):
        workflow.inference(ask(number))
    held, asked = memory(workflow).held(), len(hub.seen)
    for name in NOT_ALLOWED:
        with pytest.raises(ModelNotFound) as caught:
            workflow.inference(ask(0, model=name))
        assert (caught.value.message, caught.value.param) == ("model not found", "parameters.model")
    assert (memory(workflow).held(), len(hub.seen)) == (held, asked)


def test_what_is_allowed_and_absent_is_the_same_answer_and_puts_nothing_out(serve: Any, hub: FakeHub) -> None:
    workflow = serve(memory_bytes=2 * len(adds(1)))
    for number in (1, 2):
        workflow.inference(ask(number))
    for _ in range(3):
        with pytest.raises(ModelNotFound) as caught:
            workflow.inference(ask(99))
        assert (caught.value.message, caught.value.param) == ("model not found", "parameters.model")
    assert hub.count("m99") == 1
    assert len(memory(workflow).held()) == 2


def test_parameters_are_checked(serve: Any, tmp_path: Path) -> None:
    workflow = serve()
    for parameters, param in (
        ({"model": 7}, "model"),
        ({"modell": "x"}, "modell"),
        ({"model": f"{ACME}/m1", "x": 1}, "x"),
    ):
        with pytest.raises(InvalidInput) as caught:
            workflow.inference(Tensors(inputs={"x": np.zeros(1, np.float32)}, parameters=parameters))
        assert caught.value.param == f"parameters.{param}"
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(Tensors(inputs={"z": np.zeros(1, np.float32)}, parameters={"model": f"{ACME}/m1"}))
    plain = ONNXInferenceWorkflow(str(tmp_path / "default.onnx")).setup()
    with pytest.raises(InvalidInput, match="unknown"):
        plain.inference(ask(1))


@pytest.mark.parametrize("wrong", [{"allowed": []}, {"allowed": ["*"]}, {"allowed": ["huggingface/a/b"], "memory": 1}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OnDemand.model_validate(wrong)


def test_who_comes_while_a_model_is_loading_is_told_when_to_come_back(serve: Any, hub: FakeHub) -> None:
    file = File(adds(8), hold_after=10)
    hub.push("acme/m8", {"model.onnx": file})
    workflow = serve(wait_s=0)
    for _ in range(3):
        with pytest.raises(NotReady) as caught:
            workflow.inference(ask(8))
        assert caught.value.retryable
        assert said(workflow.inference(ask(0))) == 0
    file.go.set()
    held = memory(workflow)
    with held._changed:
        assert held._changed.wait_for(lambda: len(held._entries) == 1, 10)
    assert said(workflow.inference(ask(8))) == 8
    assert hub.count("/api/models/acme/m8") == 1


def test_ids_that_lead_nowhere_cost_a_part_of_the_time_only(tmp_path: Path) -> None:
    seconds, gate = [0.0], threading.Event()
    (tmp_path / "m.onnx").write_bytes(adds(1))

    def another(model: str) -> ONNXInferenceWorkflow:
        if "good" in model:
            return ONNXInferenceWorkflow(str(tmp_path / "m.onnx"))
        if "slow" in model:
            gate.wait(30)
        seconds[0] += 2
        raise ModelNotFound()

    options = OnDemand(allowed=["huggingface/*/*"], wait_s=600)
    others = ModelsOnDemand(options, None, another, on_gpu=False, clock=lambda: seconds[0])

    def prepare(name: str) -> NamedRequest:
        return others.prepare(parse_ref(f"{ACME}/{name}"), ask(0))

    assert prepare("good").ref.name == "good"
    with pytest.raises(ModelNotFound):
        prepare("absent")  # which takes until 2
    for now in (2.0, 9.9):
        seconds[0] = now
        with pytest.raises(NotReady):  # while it is looked for: nobody waits
            prepare("slow")
        assert prepare("good").ref.name == "good"
    seconds[0] = 10.0
    gate.set()
    with pytest.raises(ModelNotFound):
        prepare("slow")
    others.close()


def test_what_must_not_be_loaded_says_why(serve: Any, hub: FakeHub) -> None:
    hub.push("acme/m9", {"model.onnx": b"\x80\x04no graph"})
    workflow = serve()
    with pytest.raises(InvalidInput, match="a pickle: it may run code") as caught:
        workflow.inference(ask(9))
    assert caught.value.param == "parameters.model"


def test_a_model_that_went_between_check_and_run_is_loaded_again(serve: Any) -> None:
    workflow = serve(memory_bytes=len(adds(1)))
    prepared = [workflow.do_preprocessing(ask(1)), workflow.do_preprocessing(ask(1, 2))]
    workflow.inference(ask(2))
    assert [str(ref) for ref in memory(workflow).held()] == [f"{ACME}/m2"]
    assert [outcome["y"].tolist() for outcome in workflow.do_run_batch(prepared)] == [[1], [1, 1]]


def test_torn_down_and_set_up_again(serve: Any) -> None:
    workflow = serve()
    assert said(workflow.inference(ask(1))) == 1
    held = memory(workflow)
    workflow.teardown()
    assert held.held() == []
    assert said(workflow.setup().inference(ask(1))) == 1


def test_who_names_the_workflows_own_model_needs_no_other(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push("acme/m1", {"model.onnx": adds(1)})
    workflow = ONNXInferenceWorkflow(
        f"{ACME}/m1", sources=ModelSources.model_validate(settings), on_demand=OnDemand(allowed=["huggingface/other/*"])
    ).setup()
    assert said(workflow.inference(ask(1))) == 1
    mixed = workflow.inference_batch([ask(1, 2), ask(0, 2), ask(2)])
    assert [said(answer) for answer in mixed[:2]] == [1, 1]
    assert isinstance(mixed[2], ModelNotFound)
    assert memory(workflow).held() == []
    workflow.teardown()


def test_an_on_demand_workflow_behaves_like_every_other(serve: Any) -> None:
    workflow = serve()
    workflow.teardown()
    check_workflow(workflow, ask(1, 3))


def test_weights_of_one_module(hub: FakeHub, settings: dict[str, Any], tmp_path: Path) -> None:
    modules = []
    for seed in range(3):
        torch.manual_seed(seed)
        modules.append(Affine().eval())
        hub.push(f"acme/a{seed}", {"model.safetensors": safetensors.torch.save(modules[-1].state_dict())})
    safetensors.torch.save_file(modules[0].state_dict(), tmp_path / "own.safetensors")
    workflow = TorchInferenceWorkflow(
        module="tests.workflows.torch_models:Affine",
        weights=str(tmp_path / "own.safetensors"),
        sources=ModelSources.model_validate(settings),
        on_demand=OnDemand(allowed=[f"{ACME}/a*:model.safetensors"], wait_s=30),
    ).setup()
    x = np.ones((2, 4), np.float32)
    for seed, module in enumerate(modules):
        parameters = {"model": f"{ACME}/a{seed}:model.safetensors"} if seed else {}
        (answer,) = workflow.inference(Tensors(inputs={"x": x}, parameters=parameters)).outputs.values()
        np.testing.assert_allclose(answer, module(torch.from_numpy(x)).detach().numpy(), rtol=1e-5)
    assert workflow._others is not None
    assert workflow._others.memory.used.host == 2 * (4 * 3 + 3) * 4
    workflow.teardown()


def test_five_models_in_the_memory_of_two_and_a_half(serve: Any, hub: FakeHub) -> None:
    """The same as of the memory alone, with graphs of 1 MB, through the workflow and from 16 threads."""
    for number in range(1, 6):
        hub.push(f"acme/m{number}", {"model.onnx": big(number, 1 << 20)})
    workflow = serve(memory_bytes=5 << 19, warm_up=False, batch=False)
    chance = random.Random(4)
    wanted = chance.choices(range(6), weights=[4, 8, 4, 2, 1, 1], k=500)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda number: said(workflow.inference(ask(number))), wanted))
    assert answers == wanted
    statistics = memory(workflow).statistics
    assert statistics.peak.host < 4 << 20
    # Of 400 requests for five models; how many exactly depends on how the threads take turns.
    assert 5 <= statistics.loads < 300
    assert len(memory(workflow).held()) == 2
