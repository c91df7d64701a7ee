"""Models that a request names, beside the one that a workflow was set up with: allowed, loaded, leased and run.

Each is a workflow of the same class with the same options, set up by the memory of models and never shown to anybody. Knows
no runtime. How memory is shared out stands in `workflows.models.memory`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from workflows.context import current_call
from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.inference.merging import cost_of
from workflows.models.loaded import Loaded, MakeRoom, Size
from workflows.models.memory import ModelMemory
from workflows.models.ref import AllowList, ModelRef, parse_ref
from workflows.prerequisite import Prerequisite
from workflows.tensors import Array
from workflows.types import Tensors

if TYPE_CHECKING:
    from workflows.inference.tensor_model import Request, TensorModelWorkflow

__all__ = ["PARAMETER", "ModelsOnDemand", "NamedRequest", "OnDemand"]

PARAMETER: Final = "model"
_PARAM: Final = f"parameters.{PARAMETER}"
# For each second that nothing came of, so many in which nobody waits for what was never seen: ids that lead nowhere may cost
# a fifth of a workflow's time, and no more.
_PAID_BACK: Final = 4.0


class OnDemand(BaseModel):
    """Which models requests may name, and what these may take.

    Attributes:
        allowed: Ids, or patterns of ids, see `workflows.models.ref.AllowList`. Everything else is not found.
        memory_bytes: What they may take together, on the CPU; the workflow's own model comes on top.
        gpu_memory_bytes: The same on a GPU; None is as on the CPU.
        swap: Load a model before others make room for it, so that for a moment one more is there than the budget allows.
        loads: Models that are loaded at once.
        wait_s: How long requests wait for a load, from its beginning; who is not served by then is told when to come back.
            Used without a deployment, the workflow does nothing else as long; then, after waiting in vain, nobody waits for
            new models for a while.
        refuse_s: How long an id that could not be loaded is not tried again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    allowed: Annotated[list[str], Field(min_length=1)]
    memory_bytes: int = Field(default=4 << 30, ge=1)
    gpu_memory_bytes: int | None = Field(default=None, ge=1)
    swap: bool = True
    loads: int = Field(default=2, ge=1, le=64)
    wait_s: float = Field(default=5.0, ge=0, le=600)
    refuse_s: float = Field(default=30.0, ge=0, le=3600)

    @field_validator("allowed")
    @classmethod
    def _are_patterns(cls, allowed: list[str]) -> list[str]:
        try:
            AllowList(allowed)
        except InvalidInput as error:
            raise ValueError(error.message) from error
        return allowed


@dataclass(frozen=True, slots=True)
class NamedRequest:
    """A request that was checked against the model that it names, as that was loaded then."""

    ref: ModelRef
    input_data: Tensors
    request: Request
    model: weakref.ref[TensorModelWorkflow]


class ModelsOnDemand:
    """Used by one thread at a time, like the workflow that it belongs to, but for `prerequisite`.

    Args:
        own: The workflow's own model, where that has an id: whoever names it needs no other.
        another: Makes a workflow, not set up, for an id.
        on_gpu: Where models lie.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        options: OnDemand,
        own: ModelRef | None,
        another: Callable[[str], TensorModelWorkflow],
        *,
        on_gpu: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = AllowList(options.allowed)
        self._own = own
        self._another = another
        self._on_gpu = on_gpu
        self._clock = clock
        self._hurried_until = 0.0
        self.memory = ModelMemory["TensorModelWorkflow"](
            Size(options.memory_bytes, options.gpu_memory_bytes or options.memory_bytes),
            swap=options.swap,
            loads=options.loads,
            patience_s=options.wait_s,
            refuse_s=options.refuse_s,
        )

    def named(self, parameters: Mapping[str, Any]) -> ModelRef | None:
        """The model that a request names, None for the workflow's own.

        Raises ModelNotFound, before anybody is asked, for all that are not allowed.
        """
        if PARAMETER not in parameters:
            return None
        said = parameters[PARAMETER]
        if not isinstance(said, str):
            raise InvalidInput("the model must be an id", param=_PARAM)
        try:
            ref = parse_ref(said)
        except InvalidInput:
            ref = None
        if ref is not None and ref == self._own:
            return None
        if ref is None or not self._allowed.allows(ref):
            raise ModelNotFound(param=_PARAM)
        return ref

    def prerequisite(self, parameters: Mapping[str, Any]) -> Prerequisite | None:
        """The loading of the model that a request names, which begins with this. In any thread. Raises Overloaded."""
        try:
            ref = self.named(parameters)
        except WorkflowError:
            return None  # `prepare` says so
        return None if ref is None else self.memory.loading(ref, partial(self._load, ref))

    def prepare(self, ref: ModelRef, input_data: Tensors) -> NamedRequest:
        """Check a request against its model, which is loaded for that. Raises NotReady, what the load or the check raises."""
        unnamed = input_data.model_copy(update={"parameters": {}})
        began = self._clock()
        hurried = began < self._hurried_until and not self.memory.has_loaded(ref)
        wait_s = 0.0 if hurried else current_call().seconds_left()
        try:
            with self.memory.lease(ref, partial(self._load, ref), wait_s=wait_s) as model:
                return NamedRequest(ref, unnamed, model.check(unnamed), weakref.ref(model))
        except WorkflowError:
            now = self._clock()
            self._hurried_until = max(self._hurried_until, now + _PAID_BACK * (now - began))
            raise

    def run(self, batch: Sequence[NamedRequest]) -> list[dict[str, Array] | WorkflowError]:
        """Run requests that name the same model; it was there a moment ago, and is loaded again if need be."""
        ref = batch[0].ref
        outcomes: list[dict[str, Array] | WorkflowError] = []
        try:
            with self.memory.lease(ref, partial(self._load, ref)) as model:
                for group in _within(model.limits.max_cost, batch):
                    outcomes += model.run_own([_request_for(model, named) for named in group])
        except WorkflowError as error:
            return [error] * len(batch)
        return outcomes

    def close(self) -> None:
        self.memory.close()

    def _load(self, ref: ModelRef, make_room: MakeRoom) -> Loaded[TensorModelWorkflow]:
        model = self._another(str(ref))
        try:
            make_room(self._size(model.fetch()))
            model.setup()
        except WorkflowError as error:
            error.param = _PARAM
            raise
        return Loaded(model, self._size(model.taken_bytes()), model.teardown)

    def _size(self, taken: int) -> Size:
        return Size(gpu=taken) if self._on_gpu else Size(host=taken)


def _request_for(model: TensorModelWorkflow, named: NamedRequest) -> Request:
    return named.request if named.model() is model else model.check(named.input_data)


def _within(max_cost: float | None, batch: Sequence[NamedRequest]) -> Iterator[list[NamedRequest]]:
    """The batch, cut where a model takes only so many rows: its limits need not be those of the workflow's own."""
    group: list[NamedRequest] = []
    rows = 0.0
    for named in batch:
        more = cost_of(named.input_data.inputs)
        if group and max_cost is not None and rows + more > max_cost:
            yield group
            group, rows = [], 0.0
        group.append(named)
        rows += more
    yield group
