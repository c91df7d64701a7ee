"""ONNX graphs that take or give bfloat16: every bit comes through, alone and joined, whatever else they take and give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.bits import EVERY_BFLOAT16
from workflows import Resources, Tensors, TensorsResult
from workflows.errors import InvalidInput, Unsupported, WorkflowError
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.tensors import BFLOAT16, Array, widened
from workflows.testing import check_workflow

HEADER = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>'
SAME = "g (bfloat16[N,4] x) => (bfloat16[N,4] y) { y = Identity(x) }"
TWICE = (
    "g (bfloat16[N,4] x, float[N,4] more) => (bfloat16[N,4] y, float[N,4] wide)"
    " { w = Cast<to=1>(x) wide = Add(w, more) t = Add(wide, wide) y = Cast<to=16>(t) }"
)


def made(folder: Path, graph: str, **options: Any) -> ONNXInferenceWorkflow:
    onnx.save(onnx.parser.parse_model(HEADER + graph), folder / "model.onnx")
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(folder), **options)
    workflow.resources = Resources()
    return workflow


def outputs(outcome: TensorsResult | WorkflowError) -> dict[str, Array]:
    assert isinstance(outcome, TensorsResult)
    return outcome.outputs


def drawn(rows: int, seed: int = 0) -> Array:
    """Finite numbers of all sizes that a float32 sum does not overflow."""
    bits = np.random.default_rng(seed).integers(0, 0x7000, (rows, 4), dtype=np.uint16)
    return bits.view(BFLOAT16)


@pytest.mark.parametrize("opset", [13, 16, 21])
def test_every_bit_comes_through(tmp_path: Path, opset: int) -> None:
    onnx.save(onnx.parser.parse_model(HEADER.replace("21", str(opset)) + SAME), tmp_path / "model.onnx")
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    x = EVERY_BFLOAT16.reshape(-1, 4)
    for sent in (x, np.asfortranarray(x), x[::2], x[:0]):
        answer = outputs(workflow.inference(Tensors(inputs={"x": sent})))["y"]
        assert (answer.dtype, answer.shape, answer.tobytes()) == (BFLOAT16, sent.shape, sent.tobytes())
        assert answer.flags.writeable
    signature = workflow.card("w").signature
    assert signature is not None
    assert [(spec.dtype, spec.shape) for spec in (*signature.inputs, *signature.outputs)] == [("bfloat16", [-1, 4])] * 2


def test_a_scalar_and_an_array_that_nobody_may_write_to(tmp_path: Path) -> None:
    workflow = made(tmp_path, "g (bfloat16 x) => (bfloat16 y) { y = Identity(x) }").setup()
    x = np.array(1.5, BFLOAT16)
    x.flags.writeable = False
    answer = outputs(workflow.inference(Tensors(inputs={"x": x})))["y"]
    assert (answer.shape, answer.item()) == ((), 1.5)


def test_an_input_that_is_given_out_is_not_shared(tmp_path: Path) -> None:
    graph = "g (bfloat16[N] x, float[N] z) => (bfloat16[N] x, float[N] z, bfloat16[N] y) { y = Identity(x) }"
    workflow = made(tmp_path, graph, warm_up=False).setup()
    x, z = np.ones(2, BFLOAT16), np.ones(2, np.float32)
    answer = outputs(workflow.inference(Tensors(inputs={"x": x, "z": z})))
    for array in answer.values():
        array[:] = 7
    assert (x.tolist(), z.tolist()) == ([1, 1], [1, 1])


def test_a_graph_conforms_and_joins_bit_by_bit(tmp_path: Path) -> None:
    requests = [
        Tensors(inputs={"x": drawn(count, count), "more": widened(drawn(count, count + 9))}) for count in (1, 5, 2, 9)
    ]
    check_workflow(made(tmp_path, TWICE), requests[0], more=requests[1:], rtol=0, atol=0)
    workflow = made(tmp_path, TWICE, max_batch=4).setup()
    assert workflow.limits.max_size == 4  # the probe has seen that rows are independent
    for request, outcome in zip(requests, workflow.inference_batch(requests), strict=True):
        wide = widened(request.inputs["x"]) + request.inputs["more"]
        assert outputs(outcome)["wide"].tobytes() == wide.tobytes()
        assert outputs(outcome)["y"].tobytes() == (wide + wide).astype(BFLOAT16).tobytes()


def test_outputs_are_chosen_like_any_others(tmp_path: Path) -> None:
    workflow = made(tmp_path, TWICE).setup()
    inputs = {"x": drawn(2), "more": np.zeros((2, 4), np.float32)}
    for names in (["wide"], ["y"], ["y", "wide"]):
        assert list(outputs(workflow.inference(Tensors(inputs=inputs, outputs=names)))) == names


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 4), np.float32), "dtype bfloat16 is needed, got float32"),
        (np.zeros((1, 4), np.float16), "dtype bfloat16 is needed, got float16"),
        (np.zeros((1, 4), np.uint16), "dtype bfloat16 is needed, got uint16"),
        (np.zeros((1, 3), BFLOAT16), "axis 1 must be 4 long, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, x: Array, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        made(tmp_path, SAME).setup().inference(Tensors(inputs={"x": x}))
    assert caught.value.param == "x"


def test_a_bfloat16_is_not_taken_for_another_format(tmp_path: Path) -> None:
    workflow = made(tmp_path, "g (float[N] x) => (float[N] y) { y = Identity(x) }").setup()
    with pytest.raises(InvalidInput, match="dtype float32 is needed, got bfloat16"):
        workflow.inference(Tensors(inputs={"x": np.zeros(2, BFLOAT16)}))


def test_beside_text_it_goes_in_but_not_out(tmp_path: Path) -> None:
    graph = (
        "g (bfloat16[N] x, string[N] text) => (float[N] wide, string[N] said, bfloat16[N] y)"
        " { wide = Cast<to=1>(x) said = Identity(text) y = Identity(x) }"
    )
    with pytest.raises(Unsupported, match="output 'y' has a type that cannot be given"):
        made(tmp_path, graph).setup()
    workflow = made(tmp_path, graph, outputs=["wide", "said"]).setup()
    inputs = {"x": np.array([1.5, -2], BFLOAT16), "text": np.array(["a", "ä"], object)}
    answer = outputs(workflow.inference(Tensors(inputs=inputs)))
    assert (answer["wide"].tolist(), answer["said"].tolist()) == ([1.5, -2], ["a", "ä"])
    with pytest.raises(Unsupported):
        workflow.inference(Tensors(inputs=inputs, outputs=["y"]))


def test_text_comes_out_beside_it(tmp_path: Path) -> None:
    graph = "g (bfloat16[N] x) => (string[N] said, bfloat16[N] y) { w = Cast<to=1>(x) said = Cast<to=8>(w) y = Identity(x) }"
    answer = outputs(made(tmp_path, graph).setup().inference(Tensors(inputs={"x": np.array([1.5], BFLOAT16)})))
    assert (answer["said"].tolist(), answer["y"].tolist()) == (["1.5"], [1.5])


def test_beside_a_sequence_it_goes_in_but_not_out(tmp_path: Path) -> None:
    graph = (
        "g (bfloat16[N] x) => (seq(float[N]) parts, bfloat16[N] y)"
        " { w = Cast<to=1>(x) parts = SequenceConstruct(w, w) y = Identity(x) }"
    )
    with pytest.raises(Unsupported, match="output 'y'"):
        made(tmp_path, graph).setup()
    workflow = made(tmp_path, graph, outputs=["parts"]).setup()
    answer = outputs(workflow.inference(Tensors(inputs={"x": np.array([1.5], BFLOAT16)})))
    assert {name: array.tolist() for name, array in answer.items()} == {"parts.0": [1.5], "parts.1": [1.5]}


def test_an_operator_that_the_cpu_has_not_in_this_format_is_named_at_setup(tmp_path: Path) -> None:
    with pytest.raises(
        WorkflowError, match="an operator that this onnxruntime cannot run, or not in the number format"
    ):
        made(tmp_path, "g (bfloat16[N] x) => (bfloat16[N] y) { y = Add(x, x) }").setup()
