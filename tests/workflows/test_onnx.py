"""One request to an ONNX graph: checked against the graph's own signature, answered bitwise as onnxruntime does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from workflows import Resources, Tensors, TensorsResult
from workflows.errors import BadOutput, InvalidInput, ModelNotFound, NotReady, Unsupported, WorkflowError
from workflows.inference.graph_signature import Output, Selection
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.onnx_runtime import CPU, CUDA, Optimization, choose_providers, fault_of
from workflows.inference.onnx_values import named_arrays
from workflows.tensors import DTYPES, Array
from workflows.testing import check_workflow

HEADER = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>'
TWO_BY_TWO = (
    "g (float[N,2] a, float[N,2] b) => (float[N,2] sum, float[N,2] product) { sum = Add(a,b) product = Mul(a,b) }"
)


def f32(values: Any) -> Array:
    return np.array(values, dtype=np.float32)


ZEROS = f32([[0, 0]])


def load(folder: Path, graph: str, **options: Any) -> ONNXInferenceWorkflow:
    onnx.save(onnx.parser.parse_model(HEADER + graph), folder / "model.onnx")
    workflow = ONNXInferenceWorkflow("model.onnx", root=str(folder), **options)
    workflow.resources = Resources()
    return workflow.setup()


def direct(folder: Path, inputs: dict[str, Array]) -> list[Any]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=[CPU])
    found: list[Any] = session.run(None, inputs)
    return found


def test_one_request_is_bitwise_what_onnxruntime_gives(tmp_path: Path) -> None:
    graph = "g (float[N,64] x) => (float[N,32] y) <float[64,32] w> { h = MatMul(x,w) y = Softmax(h) }"
    model = onnx.parser.parse_model(HEADER + graph)
    random = np.random.default_rng(1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(64, 32)).astype(np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx")
    x = random.normal(size=(7, 64)).astype(np.float32)
    answer = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path)).setup().inference({"inputs": {"x": x}})
    assert isinstance(answer, TensorsResult)
    assert answer.outputs["y"].tobytes() == direct(tmp_path, {"x": x})[0].tobytes()


def test_several_inputs_and_outputs_in_the_order_asked_for(tmp_path: Path) -> None:
    workflow = load(tmp_path, TWO_BY_TWO)
    inputs = {"b": f32([[3, 4]]), "a": f32([[1, 2]])}
    everything = workflow.inference(Tensors(inputs=inputs)).outputs
    assert list(everything) == ["sum", "product"]
    assert everything["product"].tolist() == [[3, 8]]
    assert list(workflow.inference(Tensors(inputs=inputs, outputs=["product", "sum"])).outputs) == ["product", "sum"]
    assert list(workflow.inference(Tensors(inputs=inputs, outputs=["product"])).outputs) == ["product"]


def test_the_operator_chooses_what_a_request_gets_that_does_not_say(tmp_path: Path) -> None:
    workflow = load(tmp_path, TWO_BY_TWO, outputs=["product"])
    inputs = {"a": ZEROS, "b": ZEROS}
    assert list(workflow.inference(Tensors(inputs=inputs)).outputs) == ["product"]
    assert list(workflow.inference(Tensors(inputs=inputs, outputs=["sum"])).outputs) == ["sum"]
    signature = workflow.card("w").signature
    assert signature is not None
    assert [spec.name for spec in signature.outputs] == ["product"]
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.inputs] == [
        ("a", "float32", [-1, 2]),
        ("b", "float32", [-1, 2]),
    ]


@pytest.mark.parametrize(
    ("request_", "param", "says"),
    [
        ({"inputs": {"a": ZEROS}}, "b", "input 'b' is missing"),
        ({"inputs": {"a": ZEROS, "b": ZEROS, "c": ZEROS}}, "c", "input 'c' is unknown; the model takes 'a', 'b'"),
        ({"inputs": {"a": ZEROS, "b": ZEROS.astype(np.float64)}}, "b", "dtype float32 is needed, got float64"),
        ({"inputs": {"a": ZEROS, "b": ZEROS.astype(np.int64)}}, "b", "dtype float32 is needed, got int64"),
        ({"inputs": {"a": ZEROS, "b": np.array([["1", "2"]])}}, "b", "dtype float32 is needed, got string"),
        ({"inputs": {"a": ZEROS, "b": ZEROS.astype(">f4")}}, "b", "got float32 in another byte order"),
        ({"inputs": {"a": ZEROS, "b": ZEROS[0]}}, "b", "2 dimensions are needed, got 1"),
        ({"inputs": {"a": ZEROS, "b": np.zeros((1, 3), np.float32)}}, "b", "axis 1 must be 2 long, got 3"),
        ({"inputs": {"a": ZEROS, "b": np.zeros((2, 2), np.float32)}}, "b", "axis 0 must be 1 long like the other axes"),
        ({"inputs": {"a": ZEROS, "b": ZEROS}, "outputs": ["sum", "c"]}, "outputs", "output 'c' is unknown"),
        ({"inputs": {"a": ZEROS, "b": ZEROS}, "outputs": ["sum", "sum"]}, "outputs", "asked for twice"),
        ({"inputs": {"a": ZEROS, "b": ZEROS}, "parameters": {"top_k": 1}}, "parameters.top_k", "'top_k' is unknown"),
        ({"inputs": {"a": ZEROS, "\n" * 999: ZEROS}}, "\n" * 64, "is unknown"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, request_: dict[str, Any], param: str, says: str
) -> None:
    workflow = load(tmp_path, TWO_BY_TWO)
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(request_)
    assert caught.value.param == param
    assert says in caught.value.message


ELEMENTS = {"float32": "float", "float64": "double"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_in_and_comes_out_as_it_was(tmp_path: Path, dtype: str) -> None:
    element = ELEMENTS.get(dtype, dtype)
    workflow = load(tmp_path, f"g ({element}[N] x) => ({element}[N] y) {{ y = Identity(x) }}")
    data = {"bool": [True, False], "string": ["ä", ""]}.get(dtype, [0, 1])
    answer = workflow.inference({"inputs": {"x": {"dtype": dtype, "shape": [2], "data": data}}}).outputs["y"]
    assert answer.dtype == DTYPES[dtype]
    assert answer.tolist() == data


@pytest.mark.parametrize("text", [np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array(["ab", b"c"], object)])
def test_text_is_taken_in_every_form_that_numpy_has(tmp_path: Path, text: Array) -> None:
    workflow = load(tmp_path, "g (string[N] x) => (string[N] y) { y = Identity(x) }")
    assert workflow.inference(Tensors(inputs={"x": text})).outputs["y"].tolist() == ["ab", "c"]


@pytest.mark.parametrize("text", [np.array([b"\xff"]), np.array(["\ud800"])])
def test_text_that_is_not_unicode_is_refused(tmp_path: Path, text: Array) -> None:
    workflow = load(tmp_path, "g (string[N] x) => (string[N] y) { y = Identity(x) }")
    with pytest.raises(InvalidInput, match="not text") as caught:
        workflow.inference(Tensors(inputs={"x": text}))
    assert caught.value.param == "x"


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    workflow = load(tmp_path, "g (float[N,2] x, float[2] w = {1, 2}) => (float[N,2] y) { y = Mul(x,w) }")
    x = np.ones((2, 2), np.float32)
    default = workflow.inference(Tensors(inputs={"x": x}))
    assert default.outputs["y"].tolist() == [[1, 2], [1, 2]]
    given = Tensors(inputs={"x": x, "w": f32([5, 6])})
    # As many rows as w is long, and company: w must not be taken for rows.
    for outcome in workflow.inference_batch([given, given]):
        assert isinstance(outcome, TensorsResult)
        assert outcome.outputs["y"].tolist() == [[5, 6], [5, 6]]
    with pytest.raises(InvalidInput, match="axis 0 must be 2 long"):
        workflow.inference(Tensors(inputs={"x": x, "w": f32([5])}))


def test_sequences_are_answered_in_parts(tmp_path: Path) -> None:
    graph = "g (float[N,2] x) => (seq(float[M,2]) y, float[N,2] z) { y = SplitToSequence<axis=0>(x) z = Neg(x) }"
    workflow = load(tmp_path, graph)
    x = f32([[1, 2], [3, 4]])
    outputs = workflow.inference(Tensors(inputs={"x": x}, outputs=["z", "y"])).outputs
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "z": [[-1, -2], [-3, -4]],
        "y.0": [[1, 2]],
        "y.1": [[3, 4]],
    }
    assert list(outputs) == ["z", "y.0", "y.1"]
    assert workflow.limits.max_size == 1


def test_maps_whose_labels_differ_are_a_bad_output() -> None:
    output = Output("p", "maps", "float32", labels="string")
    selection = Selection(("p",), (output,), True, frozenset(), ["p"])
    with pytest.raises(BadOutput, match="different labels"):
        named_arrays([[{"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}]], selection)


def test_one_map_becomes_values_and_labels() -> None:
    output = Output("p", "map", "float64", labels="int64")
    selection = Selection(("p.labels", "p"), (output,), True, frozenset({"p.labels"}), ["p"])
    answer = named_arrays([{3: 0.25, 9: 0.75}], selection)
    assert {name: array.tolist() for name, array in answer.items()} == {"p.labels": [3, 9], "p": [0.25, 0.75]}
    assert list(answer) == ["p.labels", "p"]


def test_a_fixed_batch_axis_takes_exactly_that_many_rows(tmp_path: Path) -> None:
    workflow = load(tmp_path, "g (float[2,2] x) => (float[2,2] y) { y = Neg(x) }")
    assert workflow.limits.max_size == 1
    good = Tensors(inputs={"x": np.ones((2, 2), np.float32)})
    first, second, third = workflow.inference_batch([good, Tensors(inputs={"x": ZEROS}), good])
    assert isinstance(second, InvalidInput)
    for outcome in (first, third):
        assert isinstance(outcome, TensorsResult)
        assert outcome.outputs["y"].tolist() == [[-1, -1], [-1, -1]]


def test_what_the_model_refuses_while_it_runs_is_the_callers_without_library_text(tmp_path: Path) -> None:
    workflow = load(tmp_path, "g (int64[N] i) => (float[N] y) <float[3] table = {1,2,3}> { y = Gather(table,i) }")
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(Tensors(inputs={"i": np.array([7])}))
    assert caught.value.message == "the model refused this input"
    assert caught.value.__cause__ is not None


def test_the_warm_up_decides_whether_setup_succeeds(tmp_path: Path) -> None:
    graph = "g (float[N,F] x) => (float[N,3] y) <int64[2] k = {-1,3}> { y = Reshape(x,k) }"
    with pytest.raises(WorkflowError, match="warm_up_sizes"):
        load(tmp_path, graph)
    assert load(tmp_path, graph, warm_up=False).is_setup
    workflow = load(tmp_path, graph, warm_up_sizes={"F": 3})
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(InvalidInput, match="refused"):
        workflow.inference(Tensors(inputs={"x": x}))


def test_unnamed_axes_get_their_warm_up_size_by_input_and_axis(tmp_path: Path) -> None:
    graph = "g (float[?,?] x) => (float[?,3] y) <int64[2] k = {-1,3}> { y = Reshape(x,k) }"
    with pytest.raises(WorkflowError, match=r"warm_up_sizes \(x.0, x.1\)"):
        load(tmp_path, graph)
    assert load(tmp_path, graph, warm_up_sizes={"x.1": 3}).limits.max_size > 1
    with pytest.raises(InvalidInput, match=r"no free axis is called 'x.2'; there are 'x.0', 'x.1'") as caught:
        load(tmp_path, graph, warm_up_sizes={"x.2": 3})
    assert caught.value.param == "warm_up_sizes"


def test_a_graph_without_inputs_can_be_asked(tmp_path: Path) -> None:
    workflow = load(tmp_path, "g () => (float[2] y) { y = Constant<value_floats=[1.0, 2.0]>() }")
    for outcome in workflow.inference_batch([Tensors(inputs={})] * 2):
        assert isinstance(outcome, TensorsResult)
        assert outcome.outputs["y"].tolist() == [1, 2]
    with pytest.raises(InvalidInput, match="input 'x' is unknown"):
        workflow.inference(Tensors(inputs={"x": ZEROS}))


def test_no_outputs_at_all_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidInput, match="at least one") as caught:
        ONNXInferenceWorkflow("model.onnx", outputs=[])
    assert caught.value.param == "outputs"


def test_the_sessions_own_options_are_typed(tmp_path: Path) -> None:
    workflow = load(
        tmp_path,
        TWO_BY_TWO,
        threads=3,
        graph_optimization="off",
        execution="parallel",
        inter_op_threads=2,
        memory_pattern=False,
        memory_arena=False,
        session_options={"session.intra_op.allow_spinning": "0"},
    )
    assert workflow._session is not None
    options = workflow._session.get_session_options()
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert not options.enable_mem_pattern
    assert not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("level", get_args(Optimization))
def test_every_level_of_optimisation_is_onnxruntimes(tmp_path: Path, level: Any) -> None:
    session = load(tmp_path, TWO_BY_TWO, graph_optimization=level)._session
    assert session is not None
    name = session.get_session_options().graph_optimization_level.name
    assert name == "ORT_" + {"off": "DISABLE_ALL"}.get(level, f"ENABLE_{level.upper()}")


def test_a_gpu_that_this_onnxruntime_cannot_use_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    onnx.save(onnx.parser.parse_model(HEADER + TWO_BY_TWO), tmp_path / "model.onnx")
    for providers, said in (([CPU], False), (None, CUDA not in onnxruntime.get_available_providers())):
        workflow = ONNXInferenceWorkflow("model.onnx", root=str(tmp_path), providers=providers)
        workflow.resources = ONE_GPU
        workflow.setup()
        assert ("a GPU was given" in caplog.text) == said


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"outputs": ["nope"]}, InvalidInput, "output 'nope' is unknown"),
        ({"providers": ["NoSuchProvider"]}, InvalidInput, "has no 'NoSuchProvider'"),
        ({"session_options": {"session.x": "y" * 9999}}, InvalidInput, "'session.x' is no session entry"),
        ({"session_options": {"session.load_model_format": "ORT"}}, WorkflowError, "not an ONNX model"),
    ],
)
def test_options_that_do_not_fit_fail_setup_and_say_which(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        load(tmp_path, TWO_BY_TWO, **options)


def test_only_regular_files_inside_the_root_that_hold_onnx_are_loaded(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "garbage.onnx").write_bytes(b"\x80\x04not a graph")
    (root / "folder.onnx").mkdir()
    os.mkfifo(root / "fifo.onnx")
    (tmp_path / "outside.onnx").write_bytes(b"")
    (root / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    for name in (
        "absent.onnx",
        "folder.onnx",
        "fifo.onnx",
        "link.onnx",
        "../outside.onnx",
        str(tmp_path / "outside.onnx"),
    ):
        with pytest.raises(ModelNotFound):
            ONNXInferenceWorkflow(name, root=str(root)).setup()
    with pytest.raises(WorkflowError, match="not an ONNX model") as caught:
        ONNXInferenceWorkflow("garbage.onnx", root=str(root)).setup()
    assert str(root) not in caught.value.message


def test_a_graph_that_takes_no_tensors_is_refused_at_setup(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="input 's'"):
        load(tmp_path, "g (seq(float[N]) s) => (int64 n) { n = SequenceLength(s) }")


def test_an_output_that_numpy_cannot_hold_is_served_around(tmp_path: Path) -> None:
    graph = "g (float[N] x) => (float[N] y, float8e5m2[N] z) { y = Neg(x) z = Cast<to=19>(x) }"
    with pytest.raises(Unsupported, match="output 'z'"):
        load(tmp_path, graph)
    workflow = load(tmp_path, graph, outputs=["y"])
    with pytest.raises(Unsupported):
        workflow.inference(Tensors(inputs={"x": np.ones(1, np.float32)}, outputs=["z"]))


def test_after_teardown_it_is_not_ready_and_can_be_set_up_again(tmp_path: Path) -> None:
    workflow = load(tmp_path, TWO_BY_TWO)
    workflow.teardown()
    assert workflow.card("w").signature is None
    with pytest.raises(NotReady):
        workflow.inference({"inputs": {"a": ZEROS, "b": ZEROS}})
    assert workflow.setup().inference({"inputs": {"a": ZEROS, "b": ZEROS}}).outputs["sum"].shape == (1, 2)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    workflow = load(tmp_path, TWO_BY_TWO)
    workflow.teardown()
    ones = np.ones((3, 2), np.float32)
    check_workflow(workflow, {"inputs": {"a": ZEROS, "b": ZEROS}}, more=[{"inputs": {"a": ones, "b": ones}}])


ONE_GPU = Resources(gpu_ids=("GPU-7",), gpu_ordinals=(0,))
HALF_A_GPU = Resources(gpu_ids=("GPU-7",), gpu_ordinals=(0,), gpu_fraction=0.5)


@pytest.mark.parametrize(
    ("resources", "available", "wanted", "expected"),
    [
        (Resources(), [CUDA, CPU], None, [(CPU, {})]),
        (ONE_GPU, [CUDA, CPU], None, [(CUDA, {"device_id": "0"}), (CPU, {})]),
        (ONE_GPU, [CPU], None, [(CPU, {})]),
        (
            HALF_A_GPU,
            [CUDA, CPU],
            None,
            [(CUDA, {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}), (CPU, {})],
        ),
        (ONE_GPU, [CUDA, CPU], [CPU], [(CPU, {})]),
        (
            ONE_GPU,
            ["DnnlExecutionProvider", CPU],
            ["DnnlExecutionProvider"],
            [("DnnlExecutionProvider", {}), (CPU, {})],
        ),
    ],
)
def test_providers_follow_the_devices_that_were_given(
    resources: Resources, available: list[str], wanted: list[str] | None, expected: list[Any]
) -> None:
    assert choose_providers(resources, available, wanted) == expected


@pytest.mark.parametrize(("available", "says"), [([CUDA, CPU], "given none"), ([CPU], "has no")])
def test_cuda_is_never_used_without_a_gpu(available: list[str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        choose_providers(Resources(), available, [CUDA])
    assert caught.value.param == "providers"


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("InvalidArgument", "Gather: idx=7 must be within bounds", "invalid"),
        ("Fail", "Reshape: /src/core/providers/cuda/reshape.cc cannot be reshaped", "invalid"),
        ("Fail", "bfc_arena.cc: Failed to allocate memory for requested buffer", "internal"),
        ("RuntimeException", "CUDA failure 2: out of memory", "internal"),
        ("Fail", "CUDA failure 700: an illegal memory access", None),
        ("EPFail", "the provider died", None),
        ("KeyError", "a fault of ours", None),
    ],
)
def test_a_failed_run_is_blamed_on_the_right_one(kind: str, text: str, code: str | None) -> None:
    fault = fault_of(kind, text)
    assert (fault and fault.code) == code
    assert fault is None or text not in fault.message
