"""Any ONNX graph as a workflow on onnxruntime: what it takes and gives is what the graph says of itself.

Knows onnxruntime sessions. How requests are checked and joined stands in `tensor_model`, what a signature means in
`graph_signature`.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.inference.graph_signature import Selection, read_signature
from workflows.inference.on_demand import OnDemand
from workflows.inference.onnx_bfloat16 import givable, has_bfloat16, run_by_values
from workflows.inference.onnx_file import quantises_by_batch
from workflows.inference.onnx_runtime import (
    Execution,
    Optimization,
    SessionChoices,
    choose_providers,
    fault_of,
    session_options_of,
    unloadable,
)
from workflows.inference.onnx_values import named_arrays
from workflows.inference.tensor_model import TensorModelWorkflow
from workflows.models.finding import ONNX_FILES, check_model, model_ref, resolve_model
from workflows.models.onnx_graph import check_onnx
from workflows.models.ref import ModelRef
from workflows.models.sources import ModelSources, sources_of
from workflows.tensors import Array

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["ONNXInferenceWorkflow"]

log = logging.getLogger(__name__)


class ONNXInferenceWorkflow(TensorModelWorkflow):
    """Run an ONNX model.

    Inputs are tensors by the graph's names; optional ones, and initializers that the graph lets callers override, may be
    left out. Nothing is cast. Maps and sequences, as scikit-learn exports give them, are answered as tensors: see
    `graph_signature.Output`. Tensors of bfloat16 go in and come out like all others, but not out of a graph that takes text
    or gives maps or sequences as well.

    Requests run together only where the graph's shapes say that their rows are independent (a free leading axis on every
    required input and wanted output) and the warm-up has seen it, or `batch` is true; otherwise each runs alone, as it
    came. A graph that quantises with one scale for all rows is never joined unless `batch` is true.

    Args:
        model: Path of the `.onnx` (or `.ort`) file under `root`, or an id where `root` is None, for example
            `huggingface/acme/digits:model.onnx`; see `workflows.models.finding.resolve_model`. An id without files is of
            a model that has a single graph, or one that is called `model.onnx`.
        root: A directory or `package:name`; None is the working directory.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        outputs: What a request gets that does not say; None is all.
        batch: Whether requests may be joined along the leading axis. None finds out in the warm-up.
        providers: onnxruntime's execution providers, best first; None is CUDA where `resources` has a GPU. CPU is added.
        threads: Threads within one operator; None takes `resources.threads`.
        graph_optimization: How far onnxruntime rewrites the graph; None leaves it to onnxruntime.
        execution: Whether operators that do not need each other run at once, in `inter_op_threads`.
        inter_op_threads: Threads for operators at once; None is one.
        memory_pattern: Plan memory ahead for shapes seen before; None leaves it to onnxruntime.
        memory_arena: Keep freed memory of the CPU for the next run; None leaves it to onnxruntime.
        session_options: onnxruntime's session configuration entries, for example
            `{"session.intra_op.allow_spinning": "0"}`. onnxruntime ignores entries that it does not know.
        warm_up: Run the model at setup on zeros, which must succeed, and then on a few rows alone and together.
        warm_up_sizes: Sizes of the graph's free axes in the warm-up, by the axis' name, or as `input.axis`, for example
            `x.1`; 1 for those not said.
        max_batch: Requests that may run together.
        max_rows: Rows that may run together; None is unlimited.
        on_demand: The models that requests may name beside this one; see `workflows.inference.on_demand.OnDemand`.
    """

    _session: onnxruntime.InferenceSession | None = None

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        outputs: Annotated[list[str], Field(min_length=1)] | None = None,
        batch: bool | None = None,
        providers: list[str] | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        graph_optimization: Optimization | None = None,
        execution: Execution = "sequential",
        inter_op_threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        memory_pattern: bool | None = None,
        memory_arena: bool | None = None,
        session_options: dict[str, str] | None = None,
        warm_up: bool = True,
        warm_up_sizes: dict[str, Annotated[int, Field(ge=1)]] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=4096)] = 32,
        max_rows: Annotated[int, Field(ge=1)] | None = None,
        on_demand: OnDemand | None = None,
    ) -> None:
        super().__init__(
            batch=batch,
            max_batch=max_batch,
            max_rows=max_rows,
            warm_up=warm_up,
            warm_up_sizes=warm_up_sizes,
            outputs=outputs,
            on_demand=on_demand,
        )
        self._model = model
        self._root = root
        self._sources = sources
        self._wanted_providers = providers
        self._choices = SessionChoices(
            threads=threads,
            graph_optimization=graph_optimization,
            execution=execution,
            inter_op_threads=inter_op_threads,
            memory_pattern=memory_pattern,
            memory_arena=memory_arena,
            entries=dict(session_options or {}),
        )

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        place = check_model(self._model, self._root, self._sources)
        if place is not None:
            _graph_file(place, self._model[:64])

    def do_setup(self) -> None:
        """Load the graph, from where `sources` says. Raises what `resolve_model` does, or InvalidInput naming the option
        that does not fit machine or model."""
        import onnxruntime

        path = self._found()
        self._file_bytes = check_onnx(path, self._model[:64])
        providers = choose_providers(self.resources, onnxruntime.get_available_providers(), self._wanted_providers)
        options = session_options_of(onnxruntime, self._choices, self.resources)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as cause:
            raise WorkflowError(unloadable(self._model[:64], type(cause).__name__)) from cause
        missing = {name for name, _ in providers} - set(session.get_providers())
        if missing:
            log.warning("model %s runs without %s: onnxruntime could not start it", self._model, ", ".join(missing))
        if self.resources.gpu_ids and self._wanted_providers is None and len(providers) == 1:
            log.warning("model %s: a GPU was given, but this onnxruntime has no CUDA: running on CPU", self._model)
        self._quiet = onnxruntime.RunOptions()
        self._quiet.log_severity_level = 4  # a refused input is the caller's to hear of, not the log's
        self._by_batch = quantises_by_batch(str(path))
        self._session = session
        graph = read_signature(session.get_inputs(), session.get_outputs(), session.get_overridable_initializers())
        self._values = onnxruntime if has_bfloat16(graph) else None
        self._know(givable(graph))

    def do_teardown(self) -> None:
        super().do_teardown()
        self._session = None

    # ---- other models ----------------------------------------------------------------------------------------------

    def ref(self) -> ModelRef | None:
        return model_ref(self._model, self._root, sources_of(self._sources))

    def fetch(self) -> int:
        return check_onnx(self._found(), self._model[:64])

    def _found(self) -> Path:
        return _graph_file(resolve_model(self._model, self._root, self._sources, ONNX_FILES), self._model[:64])

    def taken_bytes(self) -> int:
        """onnxruntime keeps the weights once, wherever they lie: of 40 MB files it takes 41 to 49 MB."""
        return self._file_bytes

    def _choose(self, model: str) -> None:
        self._model, self._root = model, None

    # ---- the graph -------------------------------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Array], selection: Selection) -> dict[str, Array]:
        assert self._session is not None
        if self._values is None:
            return named_arrays(self._session.run(selection.fetch, feeds, self._quiet), selection)
        return named_arrays(run_by_values(self._values, self._session, feeds, selection, self._quiet), selection)

    def fault_of(self, cause: Exception) -> WorkflowError | None:
        return fault_of(type(cause).__name__, str(cause))

    def name(self) -> str:
        return self._model

    def _probe(self) -> str | None:
        return "it quantises with one scale for all rows" if self._by_batch else super()._probe()

    def _remedy(self) -> str:
        free = [name for spec in self._graph.required for name in spec.free_sizes()]
        sizes = f"give warm_up_sizes ({', '.join(name[:64] for name in free[:8])}), or " if free else ""
        return sizes + "turn warm_up off"


def _graph_file(place: Path, name: str) -> Path:
    """The file with the graph: `place` itself, or the one in this directory that can be meant."""
    if place.is_dir():
        graphs = sorted(path for path in place.rglob("*.onnx") if path.is_file())
        if not graphs:
            raise ModelNotFound(f"model {name!r} is not a regular file, and holds no graph")
        called = [path for path in graphs if path.name == "model.onnx"]
        if len(graphs) != 1 and len(called) != 1:
            raise InvalidInput(f"{name!r} has {len(graphs)} graphs: name the file after a colon", param="model")
        return (called if len(called) == 1 else graphs)[0]
    if not stat.S_ISREG(place.stat().st_mode):
        raise ModelNotFound(f"model {name!r} is not a regular file")
    return place
