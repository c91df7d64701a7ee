"""Any ONNX graph as a workflow on onnxruntime: what it takes and gives is what the graph says of itself.

Knows onnxruntime sessions. What a signature means stands in `graph_signature`, how answers are cut in `merging`.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from pydantic import Field

from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Signature
from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.inference.graph_signature import GraphSignature, Input, Selection, read_signature
from workflows.inference.merging import bucket_of, cost_of, merge, rows_of
from workflows.inference.onnx_runtime import choose_providers, fault_of
from workflows.inference.onnx_values import named_arrays
from workflows.models.local import resolve
from workflows.tensors import DTYPES, Array
from workflows.types import Tensors, TensorsResult

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["ONNXInferenceWorkflow"]

log = logging.getLogger(__name__)

MAX_SELECTIONS: Final = 256
PROBE_ROWS: Final = 3


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request. `joins`: its arrays share a leading axis with rows, and nothing optional is among them."""

    feeds: dict[str, Array]
    selection: Selection
    joins: bool


class ONNXInferenceWorkflow(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Run an ONNX model.

    Inputs are tensors by the graph's names; optional ones, and initializers that the graph lets callers override, may be
    left out. Nothing is cast. Maps and sequences, as scikit-learn exports give them, are answered as tensors: see
    `graph_signature.Output`.

    Requests run together only where the graph's shapes say that their rows are independent (a free leading axis on every
    required input and wanted output) and the warm-up did not disprove it; otherwise each runs alone, as it came.

    Args:
        model: Path of the `.onnx` (or `.ort`) file under `root`; see `workflows.models.local.resolve`.
        root: A directory or `package:name`; None is the working directory.
        outputs: What a request gets that does not say; None is all.
        providers: onnxruntime's execution providers, best first; None is CUDA where `resources` has a GPU. CPU is added.
        threads: Threads within one operator; None takes `resources.threads`.
        session_options: onnxruntime's session configuration entries, for example
            `{"session.intra_op.allow_spinning": "0"}`.
        warm_up: Run the model at setup on zeros, which must succeed, and then on a few rows alone and together.
        warm_up_sizes: Sizes of the graph's named dimensions in the warm-up; 1 for those not said.
        max_batch: Requests that may run together.
        max_rows: Rows that may run together; None is unlimited.
    """

    retry_safe = True
    _session: onnxruntime.InferenceSession | None = None

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        outputs: list[str] | None = None,
        providers: list[str] | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        session_options: dict[str, str] | None = None,
        warm_up: bool = True,
        warm_up_sizes: dict[str, Annotated[int, Field(ge=1)]] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=4096)] = 32,
        max_rows: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        self._model = model
        self._root = root
        self._default_outputs = outputs
        self._wanted_providers = providers
        self._threads = threads
        self._session_options = dict(session_options or {})
        self._warm_up = warm_up
        self._warm_up_sizes = dict(warm_up_sizes or {})
        self._batching = Batching(max_size=max_batch, max_cost=max_rows)

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        _model_file(self._model, self._root)

    def do_setup(self) -> None:
        """Load the graph. Raises ModelNotFound, or InvalidInput naming the option that does not fit machine or model."""
        import onnxruntime

        path = _model_file(self._model, self._root)
        providers = choose_providers(self.resources, onnxruntime.get_available_providers(), self._wanted_providers)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or self.resources.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in self._session_options.items():
            options.add_session_config_entry(key, value)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as cause:
            raise WorkflowError(f"{self._model[:64]!r} is not an ONNX model that this onnxruntime can load") from cause
        missing = {name for name, _ in providers} - set(session.get_providers())
        if missing:
            log.warning("model %s runs without %s: onnxruntime could not start it", self._model, ", ".join(missing))
        self._quiet = onnxruntime.RunOptions()
        self._quiet.log_severity_level = 4  # a refused input is the caller's to hear of, not the log's
        self._graph: GraphSignature = read_signature(
            session.get_inputs(), session.get_outputs(), session.get_overridable_initializers()
        )
        self._required = {spec.name for spec in self._graph.required}
        self._whole_batch: frozenset[str] = frozenset()
        self._selections: dict[tuple[str, ...], Selection] = {}
        self._default = self._graph.select(self._default_outputs)
        self._session = session

    def do_warm_up(self) -> None:
        """Run on zeros, then find out which outputs depend on the company that a row keeps."""
        if not self._warm_up:
            return
        try:
            self._run(self._sample(_zeros), self._default)
        except WorkflowError as cause:
            raise WorkflowError(
                "the model failed on its warm-up input of zeros: give warm_up_sizes, or turn warm_up off"
            ) from cause
        if self._default.mergeable and self._batching.max_size > 1:
            self._doubt(self._default)

    def do_teardown(self) -> None:
        self._session = None

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Tensors) -> _Request:
        """Check a request against the graph. Raises InvalidInput whose `param` is the tensor's name."""
        for key in input_data.parameters:
            raise InvalidInput(f"parameter {key[:64]!r} is unknown", param=f"parameters.{key[:64]}")
        selection = self._default if input_data.outputs is None else self._select(tuple(input_data.outputs))
        feeds = self._graph.check(input_data.inputs)
        joins = selection.mergeable and feeds.keys() == self._required and bool(rows_of(feeds))
        return _Request(feeds, selection, joins)

    def do_run_batch(self, batch: list[_Request]) -> list[dict[str, Array] | WorkflowError]:
        """Run what can be joined as one. One request alone is exactly one run of the graph on its own arrays."""
        joining = [request for request in batch if request.joins]
        if len(joining) < 2:
            return [self._alone(request) for request in batch]
        together = self._together(joining)
        if together is None:
            return [self._alone(request) for request in batch]
        parts = iter(together)
        return [next(parts) if request.joins else self._alone(request) for request in batch]

    def do_postprocessing(self, input_data: Tensors, output_data: dict[str, Array]) -> TensorsResult:
        return TensorsResult(outputs=output_data)

    def cost(self, input_data: Tensors) -> float:
        """Rows."""
        return cost_of(input_data.inputs)

    def bucket(self, input_data: Tensors) -> Hashable:
        """Names, dtypes, trailing shapes and the outputs asked for."""
        return bucket_of(input_data.inputs), input_data.outputs and tuple(input_data.outputs)

    @property
    def limits(self) -> Batching:
        """One by one where the graph does not allow requests to be joined."""
        if self._session is not None and not self._default.mergeable:
            return Batching(max_size=1)
        return self._batching

    def signature(self) -> Signature | None:
        return None if self._session is None else self._graph.for_card(self._default.wanted)

    # ---- the graph -------------------------------------------------------------------------------------------------

    def _run(self, feeds: Mapping[str, Array], selection: Selection) -> dict[str, Array]:
        assert self._session is not None
        try:
            values = self._session.run(selection.fetch, feeds, self._quiet)
        except Exception as cause:
            fault = fault_of(type(cause).__name__, str(cause))
            if fault is None:
                raise
            raise fault from cause
        return named_arrays(values, selection)

    def _alone(self, request: _Request) -> dict[str, Array] | WorkflowError:
        try:
            return self._run(request.feeds, request.selection)
        except WorkflowError as error:
            return error

    def _together(self, requests: list[_Request]) -> list[dict[str, Array]] | None:
        """All requests in one run; None where they cannot be joined, or the answer cannot be cut apart."""
        selection = requests[0].selection
        merged = merge([request.feeds for request in requests])
        if merged is None or not selection.mergeable:
            return None
        outputs = self._run(merged.inputs, selection)
        parts = merged.split(outputs, selection.shared)
        if parts is None:
            log.warning("model %s: an output does not follow the rows; requests run one by one now", self._model)
            selection.mergeable = False
        return parts

    def _select(self, wanted: tuple[str, ...]) -> Selection:
        found = self._selections.get(wanted)
        if found is None:
            found = self._graph.select(wanted, self._whole_batch)
            if len(self._selections) >= MAX_SELECTIONS:  # callers choose the keys
                self._selections.clear()
            self._selections[wanted] = found
        return found

    def _doubt(self, selection: Selection) -> None:
        """Compare rows run alone with the same rows run together; whatever differs is never merged.

        Proves nothing where the model refuses made-up values: then the declared shapes have the last word.
        """
        sample = self._sample(_varied, PROBE_ROWS)
        rows = [{name: array[i : i + 1] for name, array in sample.items()} for i in range(PROBE_ROWS)]
        try:
            alone = [self._run(row, selection) for row in rows]
        except WorkflowError:
            return
        try:
            together = self._run(sample, selection)
        except WorkflowError:
            together = {}
        mixed = {
            output.name
            for output in selection.outputs
            if not _same_rows(together.get(output.names[0]), [answer.get(output.names[0]) for answer in alone])
        }
        if mixed:
            log.warning("model %s: %s depend on the whole batch; no merging", self._model, ", ".join(sorted(mixed)))
            self._whole_batch = frozenset(mixed)
            self._default = self._graph.select(self._default_outputs, self._whole_batch)

    def _sample(self, fill: Callable[[Input, tuple[int, ...]], Array], rows: int | None = None) -> dict[str, Array]:
        return {spec.name: fill(spec, spec.sample_shape(self._warm_up_sizes, rows)) for spec in self._graph.required}


def _model_file(model: str, root: str | None) -> str:
    path: Path = resolve(model, root)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelNotFound(f"model {model[:64]!r} is not a regular file")
    return str(path)


def _zeros(spec: Input, shape: tuple[int, ...]) -> Array:
    return np.full(shape, "", dtype=object) if spec.dtype == "string" else np.zeros(shape, DTYPES[spec.dtype])


def _varied(spec: Input, shape: tuple[int, ...]) -> Array:
    """Different rows, the same every time: fractions in float tensors, 0 and 1 in those of integers."""
    array = _zeros(spec, shape)
    if array.dtype.kind == "f":
        return np.random.default_rng(0).random(shape).astype(array.dtype)
    if array.dtype.kind in "biu":
        array[1::2] = 1
    return array


def _same_rows(together: Array | None, alone: list[Array | None]) -> bool:
    parts: Iterator[Array] = (part for part in alone if part is not None and part.ndim)
    rows = list(parts)
    if together is None or len(rows) < len(alone) or {part.shape[0] for part in rows} != {1}:
        return False
    expected = np.concatenate(rows)
    if together.shape != expected.shape or together.dtype.kind != "f":
        return together.shape == expected.shape and bool((together == expected).all())
    scale = np.abs(expected[np.isfinite(expected)], dtype=np.float64).max(initial=0.0)
    return bool(np.allclose(together, expected, rtol=1e-2, atol=1e-2 * scale, equal_nan=True))
