"""TorchInferenceWorkflow through its public face: answers, joined requests, and inputs that fail."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workflows.torch_models import (
    Affine,
    Fragile,
    Mean,
    Named,
    Odd,
    Quantised,
    Total,
    TwoInputs,
    Watched,
    X,
    affine,
    exported,
    of_class,
    of_file,
    pin,
    result,
    rows,
    scripted,
)
from workflows.card import TensorSpec
from workflows.errors import BadOutput, InvalidInput, WorkflowError
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.resources import Resources
from workflows.tensors import DTYPES, Array
from workflows.testing import check_workflow
from workflows.types import Tensors

# ---- the three sources -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["class", "torchscript", "exported"])
def same_model(request: pytest.FixtureRequest, tmp_path: Path) -> TorchInferenceWorkflow:
    torch.manual_seed(0)
    if request.param == "class":
        return of_class(tmp_path, Affine, inputs=X)
    if request.param == "torchscript":
        path = scripted(Affine(), tmp_path / "any.name")
        return of_file(path, inputs=X, sha256=pin(path).upper())
    path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(2, 4), dims=({0: torch.export.Dim("batch")},))
    return of_file(path, sha256=pin(path))


def test_every_source_conforms(same_model: TorchInferenceWorkflow) -> None:
    examples = [{"inputs": {"x": rows(count, seed=count)}} for count in (1, 7, 2)]
    check_workflow(same_model, examples[0], more=examples[1:])


def test_every_source_gives_the_same_answer_and_signature(same_model: TorchInferenceWorkflow) -> None:
    same_model.setup()
    x = rows(5)
    np.testing.assert_array_equal(result(same_model.inference(Tensors(inputs={"x": x}))), affine(x))
    signature = same_model.card("affine").signature
    assert signature is not None
    assert signature.inputs == X
    assert signature.outputs == [TensorSpec(name="output_0", dtype="float32", shape=[-1, 3])]


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ({"x": rows(2, 5)}, "x"),
        ({"x": rows(2)[0]}, "x"),
        ({"x": rows(2).astype(np.float64)}, "x"),
        ({"y": rows(2)}, "y"),
        ({"x": rows(2), "y": rows(2)}, "y"),
    ],
)
def test_what_the_signature_does_not_allow_is_refused_before_it_runs(
    same_model: TorchInferenceWorkflow, inputs: dict[str, Array], param: str
) -> None:
    same_model.setup()
    with pytest.raises(InvalidInput) as caught:
        same_model.inference(Tensors(inputs=inputs))
    assert caught.value.param == param
    assert caught.value.message != "the model refused this input"


def test_requests_run_together_and_are_cut_apart(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Watched, inputs=X, max_rows=10).setup()
    calls = calls_of(workflow)
    counts = [1, 7, 2, 3, 0, 4]
    requests = [Tensors(inputs={"x": rows(count, seed=count)}) for count in counts]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        expected = affine(request.inputs["x"])
        got = result(outcome)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert sorted(calls) == [0, 7, 10]


def calls_of(workflow: TorchInferenceWorkflow) -> list[int]:
    """The row counts of the calls to a `Watched` from now on."""
    assert workflow._program is not None
    calls: list[int] = workflow._program.module.calls
    calls.clear()
    return calls


# ---- one bad input -----------------------------------------------------------------------------------------------------


def test_the_culprit_alone_is_refused_without_the_librarys_words(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Watched, inputs=X).setup()
    requests = [Tensors(inputs={"x": rows(1, seed=seed)}) for seed in range(8)]
    requests[5].inputs["x"][0, 0] = 666
    outcomes = workflow.inference_batch(requests)
    for place, outcome in enumerate(outcomes):
        if place == 5:
            assert isinstance(outcome, InvalidInput)
            assert outcome.message == "the model refused this input"
        else:
            np.testing.assert_allclose(result(outcome), affine(requests[place].inputs["x"]), rtol=1e-5)
    with pytest.raises(InvalidInput, match=r"^the model refused this input$"):
        workflow.inference(requests[5])


def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Watched, {"room": 4}, inputs=X).setup()
    calls = calls_of(workflow)
    requests = [Tensors(inputs={"x": rows(2, seed=seed)}) for seed in range(8)]
    requests.append(Tensors(inputs={"x": rows(5)}))
    outcomes = workflow.inference_batch(requests)
    for request, outcome in zip(requests[:-1], outcomes, strict=False):
        np.testing.assert_allclose(result(outcome), affine(request.inputs["x"]), rtol=1e-5)
    assert max(calls) == 21
    assert isinstance(outcomes[-1], WorkflowError)
    assert outcomes[-1].message == "the model ran out of memory on this input"
    assert not isinstance(outcomes[-1], InvalidInput)


# ---- joining -----------------------------------------------------------------------------------------------------------


def test_rows_that_depend_on_each_other_are_not_joined(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Mean, inputs=X).setup()
    assert workflow.limits.max_size == 1
    requests = [Tensors(inputs={"x": rows(2, seed=seed)}) for seed in range(3)]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        x = request.inputs["x"]
        np.testing.assert_allclose(result(outcome), x - x.mean(0), rtol=1e-5, atol=1e-6)


def test_a_quantised_model_answers_the_same_next_to_a_loud_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = of_class(tmp_path, Quantised, inputs=X).setup()
    assert "output_0 depend on the whole batch" in caplog.text
    assert workflow.limits.max_size == 1
    quiet, loud = Tensors(inputs={"x": rows(1)}), Tensors(inputs={"x": rows(1) * np.float32(1e4)})
    alone = result(workflow.inference(quiet))
    np.testing.assert_array_equal(result(workflow.inference_batch([quiet, loud])[0]), alone)


def test_torchs_own_dynamic_quantisation_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old, and still what people have
        layers = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(4, 3))
        path = scripted(torch.ao.quantization.quantize_dynamic(layers, {torch.nn.Linear}), tmp_path / "x.pt")
        inputs = [TensorSpec(name="input", dtype="float32", shape=[-1, 4])]
        workflow = of_file(path, sha256=pin(path), inputs=inputs).setup()
    assert workflow.limits.max_size == 1


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 32), ({"warm_up": False}, 1), ({"warm_up": False, "batch": True}, 32), ({"batch": False}, 1)],
)
def test_without_proof_only_the_operator_joins(tmp_path: Path, options: dict[str, Any], most: int) -> None:
    assert of_class(tmp_path, Affine, inputs=X, **options).setup().limits.max_size == most


def test_a_model_that_refuses_made_up_rows_runs_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The two rows of zeros fit, and no more.
    workflow = of_class(tmp_path, Watched, {"room": 2}, inputs=X).setup()
    assert workflow.limits.max_size == 1
    assert "refuses rows that are made up; see the option batch" in caplog.text


def test_a_device_that_fails_in_the_probe_fails_setup(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Fragile, inputs=X)
    with pytest.raises(WorkflowError, match="option batch spares them"):
        workflow.setup()
    assert not workflow.is_setup
    assert of_class(tmp_path, Fragile, inputs=X, batch=True).setup().limits.max_size == 32


def test_a_program_without_room_for_one_row_is_probed_with_two(tmp_path: Path) -> None:
    dims = ({0: torch.export.Dim("batch", min=2, max=64)},)
    path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(3, 4), dims=dims)
    assert of_file(path, sha256=pin(path)).setup().limits.max_size == 32


def test_an_answer_for_all_rows_together_is_not_cut(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Total, batch=True).setup()
    requests = [Tensors(inputs={"x": rows(2, seed=seed)}) for seed in range(3)]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        np.testing.assert_allclose(result(outcome), request.inputs["x"].sum(0), rtol=1e-5)
    assert workflow.limits.max_size == 1


@pytest.mark.parametrize(("more", "together"), [({}, False), ({"batch": True}, True), ({"batch": False}, False)])
def test_without_a_signature_only_the_operator_can_say_that_rows_are_independent(
    tmp_path: Path, more: dict[str, Any], together: bool
) -> None:
    workflow = of_class(tmp_path, Watched, **more).setup()
    calls = calls_of(workflow)
    requests = [Tensors(inputs={"x": rows(1, seed=seed)}) for seed in range(3)]
    outcomes = workflow.inference_batch(requests)
    np.testing.assert_allclose(result(outcomes[2]), affine(requests[2].inputs["x"]), rtol=1e-5)
    assert calls == ([3] if together else [1, 1, 1])


def test_different_shapes_are_not_mixed(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("b"), 1: torch.export.Dim("n")}
    path = exported(
        TwoInputs(),
        tmp_path / "x.pt2",
        torch.zeros(2, 3),
        dims={"left": free, "right": free},
        right=torch.zeros(2, 3),
    )
    workflow = of_file(path, sha256=pin(path)).setup()
    requests = [Tensors(inputs={"left": rows(2, width), "right": rows(2, width, 9)}) for width in (3, 5, 3, 8)]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        np.testing.assert_array_equal(result(outcome, "sum"), request.inputs["left"] + request.inputs["right"])
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(Tensors(inputs={"left": rows(2, 3), "right": rows(2, 4)}))
    assert caught.value.param == "right"


def test_an_exported_program_without_free_leading_axis_runs_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(2, 4))
    workflow = of_file(path, sha256=pin(path)).setup()
    assert workflow.limits.max_size == 1
    requests = [Tensors(inputs={"x": rows(2, seed=seed)}) for seed in range(3)]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        np.testing.assert_array_equal(result(outcome), affine(request.inputs["x"]))
    with pytest.raises(InvalidInput):
        workflow.inference(Tensors(inputs={"x": rows(3)}))


def test_an_exported_programs_own_bounds_limit_the_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dims = ({0: torch.export.Dim("batch", min=1, max=6)},)
    path = exported(Affine(), tmp_path / "x.pt2", torch.zeros(2, 4), dims=dims)
    workflow = of_file(path, sha256=pin(path)).setup()
    assert workflow.limits.max_cost == 6
    requests = [Tensors(inputs={"x": rows(2, seed=seed)}) for seed in range(5)]
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        np.testing.assert_allclose(result(outcome), affine(request.inputs["x"]), rtol=1e-5)
    with pytest.raises(InvalidInput, match="refused"):
        workflow.inference(Tensors(inputs={"x": rows(7)}))


# ---- inputs and outputs ------------------------------------------------------------------------------------------------


def test_several_inputs_by_name_and_outputs_by_choice(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, TwoInputs).setup()
    left, right = rows(2), rows(2, seed=1)
    whole = workflow.inference(Tensors(inputs={"right": right, "left": left}))
    assert list(whole.outputs) == ["sum", "difference"]
    np.testing.assert_array_equal(whole.outputs["difference"], left - right)
    chosen = workflow.inference(Tensors(inputs={"left": left, "right": right}, outputs=["difference"]))
    assert list(chosen.outputs) == ["difference"]
    scaled = workflow.inference(Tensors(inputs={"left": left, "right": right, "scale": np.array(2, np.float32)}))
    np.testing.assert_array_equal(scaled.outputs["sum"], 2 * left + right)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (Tensors(inputs={"left": rows(1)}), "right"),
        (Tensors(inputs={"left": rows(1), "right": rows(1), "self": rows(1)}), "self"),
        (Tensors(inputs={"left": rows(1), "right": np.array(["a"])}), "right"),
        (Tensors(inputs={"left": rows(1), "right": rows(1).astype(">f4")}), "right"),
        (Tensors(inputs={"left": rows(1), "right": rows(1)}, outputs=["sum", "sum"]), "outputs"),
        (Tensors(inputs={"left": rows(1), "right": rows(1)}, outputs=["product"]), "outputs"),
        (Tensors(inputs={"left": rows(1), "right": rows(1)}, parameters={"a": 1}), "parameters.a"),
    ],
)
def test_bad_requests_name_the_field(tmp_path: Path, request_: Tensors, param: str) -> None:
    workflow = of_class(tmp_path, TwoInputs).setup()
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(request_)
    assert caught.value.param == param


def test_inputs_by_position_and_names_for_a_tuple(tmp_path: Path) -> None:
    workflow = of_class(
        tmp_path, Odd, {"kind": "tuple"}, input_names=["anything"], output_names=["same", "best"]
    ).setup()
    answer = workflow.inference(Tensors(inputs={"anything": rows(3)}, outputs=["best"]))
    np.testing.assert_array_equal(answer.outputs["best"], rows(3).argmax(-1))


@pytest.mark.parametrize("names", [None, ["b"], ["b", "a"]])
@pytest.mark.parametrize("kind", ["dict", "ordered"])
@pytest.mark.parametrize("source", ["class", "exported"])
def test_the_card_and_the_answers_name_the_same_members_of_a_mapping(
    tmp_path: Path, source: str, kind: str, names: list[str] | None
) -> None:
    if source == "class":
        workflow = of_class(tmp_path, Named, {"kind": kind}, inputs=X, output_names=names)
    else:
        dims = ({0: torch.export.Dim("batch")},)
        path = exported(Named(kind), tmp_path / "x.pt2", torch.zeros(2, 4), dims=dims)
        workflow = of_file(path, sha256=pin(path), output_names=names)
    workflow.setup()
    signature = workflow.card("named").signature
    assert signature is not None
    expected = names or ["a", "b"]
    assert signature.outputs == [TensorSpec(name=name, dtype="float32", shape=[-1, 4]) for name in expected]
    whole = workflow.inference(Tensors(inputs={"x": rows(3)})).outputs
    assert list(whole) == expected
    np.testing.assert_array_equal(whole["b"], -rows(3))
    for name in expected:
        assert list(workflow.inference(Tensors(inputs={"x": rows(3)}, outputs=[name])).outputs) == [name]
    if names == ["b"]:
        with pytest.raises(InvalidInput, match="output 'a' is unknown"):
            workflow.inference(Tensors(inputs={"x": rows(3)}, outputs=["a"]))


@pytest.mark.parametrize("source", ["class", "exported"])
def test_members_that_are_no_tensors_can_be_left_out(tmp_path: Path, source: str) -> None:
    def made(**more: Any) -> TorchInferenceWorkflow:
        if source == "class":
            return of_class(tmp_path, Named, {"extra": True}, inputs=X, **more)
        path = exported(Named(extra=True), tmp_path / "x.pt2", torch.zeros(2, 4))
        return of_file(path, sha256=pin(path), **more)

    answer = made(output_names=["a", "b"]).setup().inference(Tensors(inputs={"x": rows(2)}))
    assert list(answer.outputs) == ["a", "b"]
    with pytest.raises(WorkflowError):
        made().setup()
    with pytest.raises(WorkflowError):
        made(output_names=["absent"]).setup()


def test_only_the_outputs_asked_for_need_be_tensors(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Named, {"extra": True}).setup()
    assert list(workflow.inference(Tensors(inputs={"x": rows(2)}, outputs=["b"])).outputs) == ["b"]
    with pytest.raises(BadOutput):
        workflow.inference(Tensors(inputs={"x": rows(2)}))


def test_outputs_become_what_numpy_has(tmp_path: Path) -> None:
    x = rows(2, 2)
    coarse = of_class(tmp_path, Odd, {"kind": "eight bits"}).setup().inference(Tensors(inputs={"x": x}))
    assert result(coarse).dtype == np.float32
    np.testing.assert_allclose(result(coarse), x, rtol=0.07)
    nan = of_class(tmp_path, Odd, {"kind": "nan"}).setup().inference(Tensors(inputs={"x": x}))
    assert np.isnan(result(nan)).all()
    number = of_class(tmp_path, Odd, {"kind": "number"}).setup().inference(Tensors(inputs={"x": x}))
    assert result(number, "output_1") == 3
    with pytest.raises(BadOutput):
        of_class(tmp_path, Odd, {"kind": "text"}).setup().inference(Tensors(inputs={"x": x}))
    with pytest.raises(BadOutput, match="gave 2 outputs, and 1 are named"):
        of_class(tmp_path, Odd, {"kind": "tuple"}, output_names=["a"]).setup().inference(Tensors(inputs={"x": x}))


def test_neither_inputs_nor_weights_can_be_changed_through_an_answer(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Odd, {"kind": "own_weights"}).setup()
    request = Tensors(inputs={"x": rows(1)})
    result(workflow.inference(request))[:] = 7
    np.testing.assert_array_equal(result(workflow.inference(request)), [1, 1])
    x = rows(2)
    x.flags.writeable = False
    writing = of_class(tmp_path, Odd, {"kind": "writes"}).setup()
    np.testing.assert_array_equal(result(writing.inference(Tensors(inputs={"x": x}))), x + 1)
    np.testing.assert_array_equal(x, rows(2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path: Path, dtype: str) -> None:
    workflow = of_class(tmp_path, Affine, inputs=X, dtype=dtype).setup()
    answer = result(workflow.inference(Tensors(inputs={"x": rows(3)})))
    assert answer.dtype == DTYPES[dtype]
    np.testing.assert_allclose(answer.astype(np.float32), affine(rows(3)), atol=0.03)


def test_a_compiled_module_gives_the_same(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Affine, inputs=X, compile_backend="eager").setup()
    np.testing.assert_allclose(result(workflow.inference(Tensors(inputs={"x": rows(5)}))), affine(rows(5)), rtol=1e-5)


def test_threads_follow_the_resources(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        workflow = of_class(tmp_path, Affine)
        workflow.resources = Resources(cpus=3.5)
        workflow.setup()
        assert torch.get_num_threads() == 3
        of_class(tmp_path, Affine, threads=2).setup()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
