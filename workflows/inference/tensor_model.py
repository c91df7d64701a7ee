"""What all workflows of tensor models share: requests are checked, joined where that is known to be right, and cut apart.

Knows signatures, rows and batches; no runtime. A subclass brings `run`, and what the model says of itself.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Signature
from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.graph_signature import GraphSignature, Selection
from workflows.inference.merging import bucket_of, cost_of, merge, rows_of
from workflows.inference.on_demand import PARAMETER, ModelsOnDemand, NamedRequest, OnDemand
from workflows.inference.row_probe import Fill, mixed_outputs, sample
from workflows.models.ref import ModelRef
from workflows.prerequisite import Prerequisite
from workflows.tensors import Array
from workflows.types import Tensors, TensorsResult

__all__ = ["Request", "TensorModelWorkflow"]

log = logging.getLogger(__name__)

MAX_SELECTIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. `joins`: it may run with others, and its arrays share a leading axis that has rows."""

    feeds: dict[str, Array]
    selection: Selection
    joins: bool


class TensorModelWorkflow(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Runs requests together whose rows are known to be independent, each other one alone, as it came.

    They are known to be so where the declared shapes allow it, and the probe of the warm-up has seen it or the operator
    has said it (`batch`). What turns out to say something about the whole batch after all runs alone from then on.

    Args:
        batch: None probes; True joins unprobed; False never joins.
        on_demand: The models that requests may name by the parameter `model`, under the same options; None is none.
    """

    retry_safe = True
    sample_size: ClassVar[int] = 1
    _graph: GraphSignature
    _loaded = False
    _others: ModelsOnDemand | None = None

    def __init__(
        self,
        *,
        batch: bool | None,
        max_batch: int,
        max_rows: int | None,
        warm_up: bool,
        warm_up_sizes: Mapping[str, int] | None = None,
        outputs: list[str] | None = None,
        on_demand: OnDemand | None = None,
    ) -> None:
        if outputs is not None and not outputs:
            raise InvalidInput("name at least one output, or leave `outputs` out for all", param="outputs")
        self._batch = batch
        self._batching = Batching(max_size=max_batch, max_cost=max_rows)
        self._warm_up = warm_up
        self._warm_up_sizes = dict(warm_up_sizes or {})
        self._default_outputs = outputs
        self._on_demand = on_demand

    # ---- what a runtime brings -------------------------------------------------------------------------------------

    @abstractmethod
    def run(self, feeds: Mapping[str, Array], selection: Selection) -> dict[str, Array]:
        """One run of the model on exactly these arrays. Raises WorkflowError, or what the runtime raises."""

    @abstractmethod
    def fault_of(self, cause: Exception) -> WorkflowError | None:
        """What to tell the caller whose input alone made `run` raise; None for a fault of ours, or of the device."""

    def name(self) -> str:
        """What the log calls the model."""
        return type(self).__name__

    def ref(self) -> ModelRef | None:
        """The model's id, where it has one."""
        return None

    def fetch(self) -> int:
        """For `on_demand`: make sure that the model is on this machine and may be loaded, without loading it.

        Returns: about how many bytes it will take.
        """
        raise NotImplementedError

    def taken_bytes(self) -> int:
        """For `on_demand`: the bytes that the loaded model takes, where it lies."""
        raise NotImplementedError

    def _choose(self, model: str) -> None:
        """For `on_demand`: this workflow, not set up, is to load the model of this id and no other."""
        raise NotImplementedError

    # ---- life ------------------------------------------------------------------------------------------------------

    def _know(self, graph: GraphSignature) -> None:
        """For `do_setup`: the model is loaded, and this is its signature. Raises InvalidInput naming a wrong option."""
        self._declare(graph)
        self._whole_batch: set[str] = set()
        self._joined = self._batch is True
        if self._batch and not self._default.mergeable:
            raise InvalidInput("the signature has no free leading axis on every input and output", param="batch")
        known = [name for spec in graph.inputs.values() for name in spec.free_sizes()]
        for name in self._warm_up_sizes:
            if name not in known:
                raise InvalidInput(f"no free axis is called {name[:64]!r}; {_called(known)}", param="warm_up_sizes")
        self._loaded = True
        if self._on_demand is not None:
            self._others = ModelsOnDemand(
                self._on_demand, self.ref(), self._another, on_gpu=bool(self.resources.gpu_ids)
            )

    def do_warm_up(self) -> None:
        """Run on zeros, then find out which outputs depend on the company that a row keeps."""
        if not self._graph.declared:
            return
        if self._warm_up:
            try:
                answer = self.run(self._draw("zeros", None), self._default)
            except Exception as cause:
                raise WorkflowError(f"the model failed on its warm-up input of zeros: {self._remedy()}") from cause
            self._learn(answer)
        if self._batch is None and self._batching.max_size > 1:
            unknown = self._probe() if self._warm_up else "it was not warmed up"
            if unknown and self._default.mergeable:
                log.warning("model %s: requests run one by one: %s; see the option batch", self.name(), unknown)

    def do_teardown(self) -> None:
        self._loaded = False
        if self._others is not None:
            self._others.close()
            self._others = None

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Tensors) -> Request | NamedRequest:
        """Check a request. Raises InvalidInput whose `param` is the tensor's name, or `outputs`, or the parameter; and for
        one that names a model ModelNotFound, NotReady, or what loading it raises."""
        for key in input_data.parameters:
            if key != PARAMETER or self._others is None:
                raise InvalidInput(f"parameter {key[:64]!r} is unknown", param=f"parameters.{key[:64]}")
        if self._others is not None and (ref := self._others.named(input_data.parameters)) is not None:
            return self._others.prepare(ref, input_data)
        return self.check(input_data)

    def check(self, input_data: Tensors) -> Request:
        """A request to this workflow's own model."""
        selection = self._default if input_data.outputs is None else self._select(tuple(input_data.outputs))
        feeds = self._graph.check(input_data.inputs)
        joins = self._joins(selection) and self._graph.joinable(feeds) and bool(rows_of(feeds))
        return Request(feeds, selection, joins)

    def do_run_batch(self, batch: list[Request] | list[NamedRequest]) -> list[dict[str, Array] | WorkflowError]:
        """Run what can be joined as one; a joined run that raises is for the caller to halve.

        One request alone is exactly one run of the model on its own arrays.
        """
        named = [request for request in batch if isinstance(request, NamedRequest)]
        if named and self._others is not None:  # then all are, and name the same: see `bucket`
            return self._others.run(named)
        return self.run_own([request for request in batch if isinstance(request, Request)])

    def run_own(self, batch: list[Request]) -> list[dict[str, Array] | WorkflowError]:
        """`do_run_batch` on this workflow's own model."""
        joining = [request for request in batch if request.joins]
        together = self._together(joining) if len(joining) > 1 else None
        if together is None:
            return [self._alone(request) for request in batch]
        parts = iter(together)
        return [next(parts) if request.joins else self._alone(request) for request in batch]

    def do_postprocessing(self, input_data: Tensors, output_data: dict[str, Array]) -> TensorsResult:
        return TensorsResult.model_construct(outputs=output_data, parameters={})

    def prerequisite(self, input_data: Tensors) -> Prerequisite | None:
        others = self._others  # which another thread may take away
        return None if others is None or not input_data.parameters else others.prerequisite(input_data.parameters)

    def cost(self, input_data: Tensors) -> float:
        """Rows."""
        return cost_of(input_data.inputs)

    def bucket(self, input_data: Tensors) -> Hashable:
        """Names, dtypes, trailing shapes, the outputs asked for, and the model."""
        outputs = input_data.outputs and tuple(input_data.outputs)
        model = input_data.parameters.get(PARAMETER) if input_data.parameters else None
        return bucket_of(input_data.inputs), outputs, model if isinstance(model, str) else None

    @property
    def limits(self) -> Batching:
        """One by one where requests cannot be joined, unless they may name a model where they can."""
        joins = not self._loaded or self._others is not None or self._joins(self._default)
        return self._batching if joins else Batching(max_size=1)

    def signature(self) -> Signature | None:
        return self._graph.for_card(self._default.wanted) if self._loaded and self._graph.declared else None

    # ---- running ---------------------------------------------------------------------------------------------------

    def _another(self, model: str) -> Self:
        """A workflow with these options for another model, not set up: its life begins anew."""
        made = type(self).__new__(type(self))
        for option, value in vars(self).items():
            vars(made).setdefault(option, value)
        made.resources = self.resources
        made._loaded, made._on_demand, made._others = False, None, None
        made._choose(model)
        return made

    def _alone(self, request: Request) -> dict[str, Array] | WorkflowError:
        try:
            return self._judged(request.feeds, request.selection)
        except WorkflowError as error:
            return error

    def _judged(self, feeds: Mapping[str, Array], selection: Selection) -> dict[str, Array]:
        """`run`, whose input is to blame for what it raises; what no input can be blamed for is raised as it is."""
        try:
            return self.run(feeds, selection)
        except WorkflowError:
            raise
        except Exception as cause:
            fault = self.fault_of(cause)
            if fault is None:
                raise
            raise fault from cause

    def _together(self, requests: list[Request]) -> list[dict[str, Array]] | None:
        """All requests, of one bucket, in one run; None where they cannot be joined, or the answer cannot be cut apart."""
        selection = requests[0].selection
        merged = merge([request.feeds for request in requests])
        if merged is None or not self._joins(selection):
            return None
        outputs = self.run(merged.inputs, selection)
        parts = merged.split(outputs, selection.shared)
        if parts is None:
            log.warning("model %s: an output does not follow the rows; requests run one by one now", self.name())
            self._whole_batch |= merged.unfit(outputs, selection.shared)
        return parts

    # ---- what is known of the model --------------------------------------------------------------------------------

    def _joins(self, selection: Selection) -> bool:
        # Outputs whose names nobody knows may be any of those that were found out.
        names = selection.fetch or self._whole_batch
        return self._joined and selection.mergeable and self._whole_batch.isdisjoint(names)

    def _declare(self, graph: GraphSignature) -> None:
        self._graph = graph
        self._default = graph.select(self._default_outputs)
        self._selections: dict[tuple[str, ...], Selection] = {}

    def _select(self, wanted: tuple[str, ...]) -> Selection:
        found = self._selections.get(wanted)
        if found is None:
            found = self._graph.select(wanted)
            if len(self._selections) >= MAX_SELECTIONS:  # callers choose the keys
                self._selections.clear()
            self._selections[wanted] = found
        return found

    def _learn(self, answer: Mapping[str, Array]) -> None:
        """For models that do not say what they give: the answer to a warm-up input of zeros."""

    def _remedy(self) -> str:
        """What the operator may do where the model refuses zeros."""
        return "turn warm_up off if that is right"

    def _probe(self) -> str | None:
        """See for every output that can be asked for whether a row gets the same alone and in company.

        Returns why that could not be seen, if so.
        """
        graph = self._graph
        selection = graph.select(None if graph.outputs is None else graph.mergeable_outputs())
        if not selection.mergeable or (graph.outputs is not None and not selection.wanted):
            return None
        try:
            mixed = mixed_outputs(lambda feeds: self._judged(feeds, selection), self._draw)
        except WorkflowError as cause:
            log.info("model %s was not probed", self.name(), exc_info=cause)
            return "it refuses rows that are made up"
        except Exception as cause:
            raise WorkflowError("the device failed on rows that are made up: the option batch spares them") from cause
        if mixed:
            log.warning("model %s: %s depend on the whole batch; no merging", self.name(), ", ".join(sorted(mixed)))
        self._whole_batch |= mixed
        self._joined = True
        return None

    def _draw(self, fill: Fill, rows: int | None) -> dict[str, Array]:
        return sample(self._graph.required, fill, rows, self._warm_up_sizes, self.sample_size)


def _called(names: list[str]) -> str:
    shown = ", ".join(repr(name[:64]) for name in names[:8])
    return f"there are {shown}" if names else "there is none"
