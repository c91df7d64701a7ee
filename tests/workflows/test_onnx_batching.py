"""Several requests to an ONNX graph: run together where their rows are independent, and never mixed up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import QuantType, quantize_dynamic
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier

from workflows import Resources, Tensors, TensorsResult, WorkflowError, demo
from workflows.errors import InvalidInput
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.onnx_file import quantises_by_batch
from workflows.tensors import Array
from workflows.testing import check_workflow

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
# Every row says how many rows ran together with it: merging made visible.
CENSUS = """<int64[1] one = {1}, int64[1] zero = {0}> {
    s = Shape(x)  n = Slice(s,zero,one)  here = Expand(n,n)  y = Neg(x) }"""


def load(folder: Path, graph: str, **options: Any) -> ONNXInferenceWorkflow:
    onnx.save(onnx.parser.parse_model(HEADER + graph), folder / "model.onnx")
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(folder), **options)
    workflow.resources = Resources()
    return workflow.setup()


def rows(count: int, start: float = 0.0, width: int = 2) -> Tensors:
    return Tensors(inputs={"x": (start + np.arange(count * width, dtype=np.float32)).reshape(count, width)})


def answers(outcomes: Sequence[TensorsResult | WorkflowError], name: str) -> list[Any]:
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, TensorsResult), outcome
        found.append(outcome.outputs[name].tolist())
    return found


def test_requests_of_different_rows_run_together_and_come_apart_exactly(tmp_path: Path) -> None:
    workflow = load(tmp_path, f"g (float[N,2] x) => (float[N,2] y, int64[N] here) {CENSUS}", batch=True)
    requests = [rows(7), rows(1, 50), rows(3, 90)]
    outcomes = workflow.inference_batch(requests)
    assert answers(outcomes, "here") == [[11] * 7, [11], [11] * 3]
    assert answers(outcomes, "y") == [(-request.inputs["x"]).tolist() for request in requests]


@pytest.mark.parametrize(
    ("signature", "together"),
    [
        ("g (float[N,2] x) => (float[N,2] y, int64[N] here)", True),
        ("g (float[,2] x) => (float[,2] y, int64[] here)", True),
        ("g (float[N,2] x) => (float[N,2] y, int64[Addoutput_dim_0] here)", True),
        ("g (float[N,2] x) => (float[N,2] y, int64[M] here)", False),
        ("g (float[2,2] x) => (float[2,2] y, int64[2] here)", False),
    ],
    ids=["named", "unnamed", "named by an exporter", "output named otherwise", "fixed"],
)
def test_the_signature_says_whether_requests_may_run_together(tmp_path: Path, signature: str, together: bool) -> None:
    signature = signature.replace("[,", "[?,").replace("[]", "[?]")
    if not together:
        with pytest.raises(InvalidInput, match="free leading axis") as caught:
            load(tmp_path, f"{signature} {CENSUS}", batch=True)
        assert caught.value.param == "batch"
    workflow = load(tmp_path, f"{signature} {CENSUS}", batch=True if together else None)
    assert answers(workflow.inference_batch([rows(2), rows(2)]), "here") == [[4 if together else 2] * 2] * 2
    assert workflow.limits.max_size == (32 if together else 1)
    assert (workflow.card("w").batching is not None) == together


def test_the_warm_up_finds_outputs_that_depend_on_the_whole_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = load(tmp_path, f"g (float[N,2] x) => (float[N,2] y, int64[N] here) {CENSUS}")
    assert "here depend on the whole batch" in caplog.text
    assert answers(workflow.inference_batch([rows(2), rows(1)]), "here") == [[2, 2], [1]]
    only_y = Tensors(inputs=rows(1).inputs, outputs=["y"])
    assert answers(workflow.inference_batch([only_y, only_y]), "y") == [[[0, -1]], [[0, -1]]]


def test_rows_that_are_normalised_over_the_batch_are_not_merged(tmp_path: Path) -> None:
    workflow = load(tmp_path, "g (float[N,2] x) => (float[N,2] y) { y = Softmax<axis=0>(x) }")
    assert workflow.limits.max_size == 1
    assert answers(workflow.inference_batch([rows(1), rows(1, 5)]), "y") == [[[1, 1]], [[1, 1]]]


def test_an_output_that_does_not_follow_the_rows_makes_requests_run_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Keeps the rows above zero: how many those are stands in no signature.
    graph = """g (float[?] x) => (float[?] y) <float zero = {0}> { k = Greater(x,zero) y = Compress(x,k) }"""
    workflow = load(tmp_path, graph, batch=True)
    requests = [Tensors(inputs={"x": np.array(values, np.float32)}) for values in ([1, -1], [2, 3], [-4])]
    for _ in range(2):
        assert answers(workflow.inference_batch(requests), "y") == [[1], [2, 3], []]
    assert caplog.text.count("does not follow the rows") == 1
    assert workflow.limits.max_size == 1


def test_a_constant_output_that_happens_to_be_as_long_is_not_cut(tmp_path: Path) -> None:
    graph = "g (float[N,2] x) => (float[N,2] y, float[4] c) <float[4] k = {1,2,3,4}> { y = Neg(x) c = Identity(k) }"
    workflow = load(tmp_path, graph)
    assert answers(workflow.inference_batch([rows(2), rows(2)]), "c") == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("warm_up", [True, False])
def test_inputs_whose_leading_axes_are_not_the_same_rows_run_alone(tmp_path: Path, warm_up: bool) -> None:
    graph = """g (float[N,2] x, float[K,2] w) => (float[N,2] y) <int64[1] k = {0}> {
        sum = ReduceSum<keepdims=0>(w,k)  y = Add(x,sum) }"""
    workflow = load(tmp_path, graph, warm_up=warm_up, warm_up_sizes={"K": 5})
    request = Tensors(inputs={"x": np.zeros((2, 2), np.float32), "w": np.ones((2, 2), np.float32)})
    assert answers(workflow.inference_batch([request, request]), "y") == [[[2, 2], [2, 2]]] * 2


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_table_of_all_rows_against_all_rows_is_not_merged(tmp_path: Path, warm_up: bool) -> None:
    graph = "g (float[N,2] x) => (float[N,N] y) { t = Transpose(x)  y = MatMul(x,t) }"
    workflow = load(tmp_path, graph, warm_up=warm_up)
    assert answers(workflow.inference_batch([rows(1), rows(2)]), "y") == [[[1]], [[1, 3], [3, 13]]]


def test_an_optional_input_is_not_taken_for_rows(tmp_path: Path) -> None:
    graph = """g (float[N,2] x, optional(float[K]) o) => (float[N,2] y) {
        given = OptionalHasElement(o)
        sum = If (given) <
            then_branch = with () => (float s) { e = OptionalGetElement(o)  s = ReduceSum<keepdims=0>(e) },
            else_branch = without () => (float s) { s = Constant<value_float=1.0>() }>
        y = Add(x,sum) }"""
    workflow = load(tmp_path, graph)
    # As many rows as `o` is long, so that it could be joined like x.
    x = np.zeros((2, 2), np.float32)
    given, left_out = Tensors(inputs={"x": x, "o": np.array([5, 6], np.float32)}), Tensors(inputs={"x": x})
    outcomes = workflow.inference_batch([given, left_out, given, left_out])
    assert answers(outcomes, "y") == [[[11, 11], [11, 11]], [[1, 1], [1, 1]]] * 2
    assert workflow.limits.max_size > 1


def test_shapes_and_selections_that_differ_are_bucketed(tmp_path: Path) -> None:
    graph = "g (float[N,F] x) => (float[N] y, float[N,F] z) <int64[1] k = {1}> { y = ReduceSum<keepdims=0>(x,k) z = Neg(x) }"
    workflow = load(tmp_path, graph)
    narrow, wide = rows(2, width=2), rows(1, width=3)
    only_z = Tensors(inputs=narrow.inputs, outputs=["z"])
    outcomes = workflow.inference_batch([narrow, wide, only_z, wide, narrow])
    buckets = [workflow.load_of(request).bucket for request in (narrow, wide, only_z)]
    assert len(set(buckets)) == 3
    assert workflow.load_of(rows(9)).bucket == buckets[0]
    assert workflow.load_of(rows(9)).cost == 9
    assert isinstance(outcomes[2], TensorsResult)
    assert list(outcomes[2].outputs) == ["z"]
    assert answers([*outcomes[:2], *outcomes[3:]], "y") == [[1, 5], [3], [3], [1, 5]]


def test_a_poisoned_request_fails_alone(tmp_path: Path) -> None:
    workflow = load(
        tmp_path, "g (int64[N] x) => (float[N] y) <float[3] table = {10,20,30}> { y = Gather(table,x) }", max_batch=64
    )
    requests = [Tensors(inputs={"x": np.array([i % 3, 2])}) for i in range(64)]
    requests[41] = Tensors(inputs={"x": np.array([0, 99])})
    outcomes = workflow.inference_batch(requests)
    refused = outcomes.pop(41)
    assert isinstance(refused, InvalidInput)
    assert refused.message == "the model refused this input"
    expected = [[10.0 * (i % 3 + 1), 30.0] for i in range(64) if i != 41]
    assert answers(outcomes, "y") == expected


def test_at_most_max_rows_run_together(tmp_path: Path) -> None:
    workflow = load(
        tmp_path, f"g (float[N,2] x) => (float[N,2] y, int64[N] here) {CENSUS}", batch=True, max_rows=4, max_batch=3
    )
    outcomes = workflow.inference_batch([rows(3), rows(2), rows(2), rows(9), rows(1), rows(1), rows(1), rows(1)])
    assert [here[0] for here in answers(outcomes, "here")] == [3, 4, 4, 9, 3, 3, 3, 1]


@pytest.fixture(scope="module")
def gather_rows(tmp_path_factory: pytest.TempPathFactory) -> ONNXInferenceWorkflow:
    graph = "g (float[N,2] x) => (float[N,2] y) <float[2] k = {3, 5}> { y = Mul(x,k) }"
    return load(tmp_path_factory.mktemp("graph"), graph)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_any_mix_of_row_counts_none_included(gather_rows: ONNXInferenceWorkflow, counts: list[int]) -> None:
    requests = [rows(count, 10 * index) for index, count in enumerate(counts)]
    expected = [(request.inputs["x"] * [3, 5]).tolist() for request in requests]
    assert answers(gather_rows.inference_batch(requests), "y") == expected


# ---- what joins at all -------------------------------------------------------------------------------------------------


def save_quantised_digits(folder: Path) -> None:
    source = Path(demo.__file__).parent / "digits.onnx"
    quantize_dynamic(source, folder / "model.onnx", weight_type=QuantType.QInt8)


def test_a_quantised_model_answers_the_same_next_to_a_loud_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_quantised_digits(tmp_path)
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    assert "quantises with one scale for all rows" in caplog.text
    assert workflow.limits.max_size == 1
    digit = Tensors(inputs={"image": np.random.default_rng(0).integers(0, 17, (1, 64)).astype(np.float32)})
    loud = Tensors(inputs={"image": np.full((1, 64), 1e4, np.float32)})
    expected = workflow.inference(digit).outputs["logits"].tolist()
    assert answers(workflow.inference_batch([digit, loud]), "logits")[0] == expected


def test_the_operator_may_join_a_quantised_model(tmp_path: Path) -> None:
    save_quantised_digits(tmp_path)
    assert ONNXInferenceWorkflow("model.onnx", root=str(tmp_path), batch=True).setup().limits.max_size == 32


def test_quantising_is_found_in_both_file_formats(tmp_path: Path) -> None:
    save_quantised_digits(tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    assert quantises_by_batch(str(tmp_path / "model.onnx"))
    assert quantises_by_batch(str(tmp_path / "model.ort"))
    assert not quantises_by_batch(str(Path(demo.__file__).parent / "digits.onnx"))


# One scale for the whole tensor, by hand: no operator's name tells.
BY_HAND = """g (float[N,2] x) => (float[N,2] y) <float top = {127}> {
    a = Abs(x)  most = ReduceMax<keepdims=0>(a)  scale = Div(most,top)
    q = Div(x,scale)  r = Round(q)  y = Mul(r,scale) }"""


def test_a_model_that_quantises_by_hand_is_found_by_the_probe(tmp_path: Path) -> None:
    workflow = load(tmp_path, BY_HAND)
    assert workflow.limits.max_size == 1
    quiet, loud = rows(1, 1), rows(1, 1e4)
    alone = workflow.inference(quiet).outputs["y"].tolist()
    assert answers(workflow.inference_batch([quiet, loud]), "y")[0] == alone


def test_outputs_outside_the_default_are_probed_too(tmp_path: Path) -> None:
    graph = "g (float[N,2] x) => (float[N,2] y, float[N,2] z) { y = Neg(x) z = Softmax<axis=0>(x) }"
    workflow = load(tmp_path, graph, outputs=["y"])
    assert workflow.limits.max_size == 32
    for wanted in (["z"], ["z", "y"]):
        asked = [Tensors(inputs=rows(1, start).inputs, outputs=wanted) for start in (0, 5)]
        assert answers(workflow.inference_batch(asked), "z") == [[[1, 1]]] * 2


PLAIN = "g (float[N,2] x) => (float[N,2] y) { y = Neg(x) }"


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 32),
        ({"batch": True}, 32),
        ({"batch": False}, 1),
        ({"warm_up": False}, 1),
        ({"warm_up": False, "batch": True}, 32),
    ],
)
def test_without_proof_only_the_operator_joins(tmp_path: Path, options: dict[str, Any], most: int) -> None:
    assert load(tmp_path, PLAIN, **options).limits.max_size == most


def test_a_model_that_refuses_made_up_rows_runs_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A row of ones is out of range; the zeros of the warm-up are not.
    graph = "g (int64[N] x) => (float[N] y) <float[1] k = {7}> { y = Gather(k,x) }"
    workflow = load(tmp_path, graph)
    assert workflow.limits.max_size == 1
    assert "refuses rows that are made up; see the option batch" in caplog.text
    assert load(tmp_path, graph, batch=True).limits.max_size == 32


def test_what_was_found_out_while_running_is_never_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = """g (float[?] x) => (float[?] y, float[?] z) <float zero = {0}> {
        k = Greater(x,zero)  y = Compress(x,k)  z = Neg(x) }"""
    workflow = load(tmp_path, graph, batch=True, outputs=["z"])
    request = [Tensors(inputs={"x": np.array([1, -1], np.float32)}, outputs=["y"])] * 2
    assert answers(workflow.inference_batch(request), "y") == [[1]] * 2
    workflow._selections.clear()  # what too many selections do
    assert answers(workflow.inference_batch(request), "y") == [[1]] * 2
    assert caplog.text.count("does not follow the rows") == 1
    assert workflow.limits.max_size == 32  # z still joins


# ---- scikit-learn's exports ------------------------------------------------------------------------------------------


def classifier(folder: Path, names: Sequence[Any]) -> tuple[LogisticRegression, Array]:
    random = np.random.default_rng(0)
    points = random.normal(size=(60, 3)).astype(np.float32)
    labels = np.array(names)[(points[:, 0] > 0).astype(int) + (points[:, 1] > 0)]
    model = LogisticRegression().fit(points, labels)
    (folder / "model.onnx").write_bytes(to_onnx(model, points[:1]).SerializeToString())
    return model, points


@pytest.mark.parametrize("names", [[5, 7, 9], ["red", "green", "blue"]], ids=["int labels", "text labels"])
def test_a_scikit_learn_classifier_answers_labels_and_probabilities(tmp_path: Path, names: list[Any]) -> None:
    model, points = classifier(tmp_path, names)
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    parts = [points[:7], points[7:8], points[8:12]]
    for part, outcome in zip(parts, workflow.inference_batch([{"inputs": {"X": p}} for p in parts]), strict=True):
        assert isinstance(outcome, TensorsResult)
        assert list(outcome.outputs) == ["output_label", "output_probability", "output_probability.labels"]
        assert outcome.outputs["output_label"].tolist() == model.predict(part).tolist()
        assert outcome.outputs["output_probability.labels"].tolist() == model.classes_.tolist()
        np.testing.assert_allclose(outcome.outputs["output_probability"], model.predict_proba(part), atol=1e-5)
    assert workflow.limits.max_size > 1


def test_probabilities_and_their_labels_can_be_asked_for_separately(tmp_path: Path) -> None:
    _, points = classifier(tmp_path, ["a", "b", "c"])
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    for wanted in (
        ["output_probability"],
        ["output_probability.labels"],
        ["output_probability.labels", "output_label"],
    ):
        request = Tensors(inputs={"X": points[:2]}, outputs=wanted)
        for outcome in workflow.inference_batch([request, request]):
            assert isinstance(outcome, TensorsResult)
            assert list(outcome.outputs) == wanted
    signature = workflow.card("w").signature
    assert signature is not None
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.outputs] == [
        ("output_label", "string", [-1]),
        ("output_probability", "float32", [-1, -1]),
        ("output_probability.labels", "string", [-1]),
    ]


def test_one_target_of_several_can_be_asked_for(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(60, 3)).astype(np.float32)
    targets = (points[:, :2] > 0).astype(int)
    model = MultiOutputClassifier(LogisticRegression()).fit(points, targets)
    (tmp_path / "model.onnx").write_bytes(to_onnx(model, points[:1], options={"zipmap": False}).SerializeToString())
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    answer = workflow.inference(Tensors(inputs={"X": points}, outputs=["probabilities.1"])).outputs
    assert list(answer) == ["probabilities.1"]
    np.testing.assert_allclose(answer["probabilities.1"], model.predict_proba(points)[1], atol=1e-5)
    for wanted in (["probabilities.2"], ["probabilities.01"], ["label.0"], ["probabilities.1", "probabilities"]):
        with pytest.raises(InvalidInput) as caught:
            workflow.inference(Tensors(inputs={"X": points}, outputs=wanted))
        assert caught.value.param == "outputs"


def test_a_classifier_without_rows_answers_without_rows(tmp_path: Path) -> None:
    classifier(tmp_path, [1, 2, 3])
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup()
    empty, full = (
        Tensors(inputs={"X": np.zeros((0, 3), np.float32)}),
        Tensors(inputs={"X": np.zeros((2, 3), np.float32)}),
    )
    first, second = workflow.inference_batch([empty, full])
    assert answers([first, second], "output_label")[0] == []
    assert isinstance(second, TensorsResult)
    assert second.outputs["output_probability"].shape == (2, 3)


def test_a_classifier_keeps_the_contract(tmp_path: Path) -> None:
    _, points = classifier(tmp_path, ["a", "b", "c"])
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path))
    check_workflow(workflow, {"inputs": {"X": points[:2]}}, more=[{"inputs": {"X": points[5:6]}}])
