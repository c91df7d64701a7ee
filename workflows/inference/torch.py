"""PyTorch modules as workflows: a class with safetensors weights, a TorchScript file, or a torch.export program.

Knows how requests are checked, joined and run. How files become modules stands in `torch_loading`, what may be loaded
at all in `torch_files`.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Signature, TensorSpec
from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.graph_signature import GraphSignature, Input
from workflows.inference.merging import bucket_of, cost_of, merge, rows_of
from workflows.inference.row_probe import rows_stand_alone, sample
from workflows.inference.torch_device import Dtype, prepare_device
from workflows.inference.torch_files import checked_pin, read_program, read_weights
from workflows.inference.torch_loading import Program, from_class, from_exported, from_torchscript
from workflows.inference.torch_values import check_dtype, to_arrays, to_tensors
from workflows.models.local import resolve
from workflows.tensors import DTYPES, Array, dtype_name
from workflows.types import Tensors, TensorsResult

__all__ = ["TorchInferenceWorkflow"]

log = logging.getLogger(__name__)

_WARM_UP_ROWS = 2


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request; `joins` says that its arrays share a leading axis that has rows."""

    feeds: dict[str, Array]
    wanted: tuple[str, ...] | None
    joins: bool


class TorchInferenceWorkflow(BaseInferenceWorkflow[Tensors, TensorsResult]):
    """Run a PyTorch model.

    Give either `module` and `weights`, or `model`. Inputs are passed to `forward` by name, or by position in the order of
    `input_names`; nothing is cast but floats, where `dtype` says so. Outputs are called by the keys of the mapping that
    the module returns, else by `output_names`, else `output_0`, `output_1`, ...

    Requests run together only where their rows are known to be independent: the signature has a free leading axis on
    every input (and output, where it knows them) and the warm-up did not disprove it, or `batch` is true.

    Args:
        module: `package.module:ClassName` of a `torch.nn.Module`.
        module_options: Its constructor's keyword arguments.
        weights: Its state dict as a safetensors file under `root`.
        model: A TorchScript file or torch.export program under `root`. Both run code when they are loaded, so `sha256`
            is required.
        root: A directory or `package:name`; None is the working directory.
        sha256: The file's hash: nothing else is loaded.
        inputs: Name, dtype and shape (-1 is free) of every input, against which requests are checked before the model
            runs. A torch.export program brings its own.
        input_names: Inputs that `forward` takes by position.
        output_names: Names for a tuple's members; of a mapping, the members to give.
        batch: Whether requests may be joined along the leading axis. None asks the signature.
        dtype: Number format of weights and float inputs; None leaves it. Outputs in bfloat16 become float32.
        threads: CPU threads of this process; None takes `resources.threads`.
        compile_backend: Compile with this backend of torch.compile, for example `inductor`; None runs the module as it is.
        warm_up: Run the model at setup on zeros, which must succeed. Only possible where the signature is known.
        max_batch: Requests that may run together.
        max_rows: Rows that may run together; None is unlimited.
    """

    retry_safe = True
    _program: Program | None = None

    def __init__(
        self,
        *,
        module: str | None = None,
        module_options: dict[str, Any] | None = None,
        weights: str | None = None,
        model: str | None = None,
        root: str | None = None,
        sha256: str | None = None,
        inputs: list[TensorSpec] | None = None,
        input_names: list[str] | None = None,
        output_names: list[str] | None = None,
        batch: bool | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        compile_backend: str | None = None,
        warm_up: bool = True,
        max_batch: Annotated[int, Field(ge=1, le=4096)] = 32,
        max_rows: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        if (model is None) == (module is None) or (module is None) != (weights is None):
            raise InvalidInput("give either `module` with `weights`, or `model`")
        self._module = module
        self._module_options = dict(module_options or {})
        self._file = model or weights or ""
        self._root = root
        self._pin = checked_pin(sha256)
        self._specs = None if inputs is None else [TensorSpec.model_validate(spec) for spec in inputs]
        self._input_names = None if input_names is None else tuple(input_names)
        self._output_names = output_names
        self._batch = batch
        self._dtype = dtype
        self._threads = threads
        self._compile_backend = compile_backend
        self._warm_up = warm_up
        self._batching = Batching(max_size=max_batch, max_cost=max_rows)

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        resolve(self._file, self._root)

    def do_setup(self) -> None:
        """Load the model. Raises ModelNotFound, InvalidInput naming the option that is wrong, or WorkflowError."""
        import safetensors.torch
        import torch
        from torch.export.passes import move_to_device_pass

        self._torch = torch
        self._device = prepare_device(torch, self.resources, self._threads)
        path = resolve(self._file, self._root)
        if self._module is not None:
            content = read_weights(path, self._pin)
            loaded = self._placed(from_class(torch, safetensors.torch, self._module, self._module_options, content))
        else:
            kind, content = read_program(path, self._pin)
            if kind == "torchscript":
                loaded = self._placed(from_torchscript(torch, content))
            else:
                self._refuse_for_exported()
                loaded = from_exported(torch, move_to_device_pass, content, self._device, self._output_names)
        if self._compile_backend is not None:
            if not isinstance(loaded.module, torch.nn.Module) or isinstance(loaded.module, torch.jit.ScriptModule):
                raise InvalidInput("a TorchScript module cannot be compiled", param="compile_backend")
            loaded = replace(loaded, module=torch.compile(loaded.module, backend=self._compile_backend))
        self._signature = loaded.signature or self._declared(loaded)
        self._outputs: tuple[str, ...] | None = None
        self._output_specs: list[TensorSpec] = []
        if loaded.signature is not None:
            self._outputs = tuple(name for output in loaded.signature.outputs for name in output.names)
            self._output_specs = loaded.signature.for_card(self._outputs).outputs
        self._merges = self._may_merge(loaded)
        self._program = loaded

    def do_warm_up(self) -> None:
        """Run on zeros, then see whether rows really stand alone."""
        if not self._warm_up or self._signature is None:
            return
        specs = self._signature.for_card(()).inputs
        try:
            answer = self._run(sample(specs, _WARM_UP_ROWS))
        except Exception as cause:
            raise WorkflowError(
                "the model failed on its warm-up input of zeros: turn warm_up off if that is right"
            ) from cause
        if self._merges and self._batch is None and not self._stand_alone(specs):
            log.warning("the model's answer for a row depends on the other rows; requests run one by one")
            self._merges = False
        self._learn_outputs(answer, specs)

    def do_teardown(self) -> None:
        self._program = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    # ---- requests --------------------------------------------------------------------------------------------------

    def do_preprocessing(self, input_data: Tensors) -> _Request:
        """Check a request. Raises InvalidInput whose `param` is the tensor's name, or `outputs`, or the parameter."""
        for key in input_data.parameters:
            raise InvalidInput(f"parameter {key[:64]!r} is unknown", param=f"parameters.{key[:64]}")
        wanted = None if input_data.outputs is None else tuple(input_data.outputs)
        if wanted is not None:
            if len(set(wanted)) < len(wanted):
                raise InvalidInput("an output is asked for twice", param="outputs")
            _check_outputs(wanted, self._outputs)
        if self._signature is not None:
            feeds = self._signature.check(input_data.inputs)
        else:
            feeds = dict(input_data.inputs)
            self._check_names(feeds)
            for name, array in feeds.items():
                check_dtype(name, array)
        return _Request(feeds, wanted, joins=bool(rows_of(feeds)))

    def do_run_batch(self, batch: list[_Request]) -> list[dict[str, Array] | WorkflowError]:
        """Run what can be joined as one; a joined run that raises is for the caller to halve."""
        joining = [request for request in batch if request.joins] if self._merges else []
        together = self._together(joining) if len(joining) > 1 else None
        if together is None:
            return [self._alone(request) for request in batch]
        parts = iter(together)
        return [_chosen(request, next(parts)) if request.joins else self._alone(request) for request in batch]

    def do_postprocessing(self, input_data: Tensors, output_data: dict[str, Array]) -> TensorsResult:
        return TensorsResult.model_construct(outputs=output_data, parameters={})

    def cost(self, input_data: Tensors) -> float:
        """Rows."""
        return cost_of(input_data.inputs)

    def bucket(self, input_data: Tensors) -> Hashable:
        """Names, dtypes, trailing shapes and the outputs asked for."""
        return bucket_of(input_data.inputs), input_data.outputs and tuple(input_data.outputs)

    @property
    def limits(self) -> Batching:
        """One by one where requests cannot be joined."""
        if self._program is None:
            return self._batching
        if not self._merges:
            return Batching(max_size=1)
        most = [rows for rows in (self._batching.max_cost, self._program.max_rows) if rows is not None]
        return self._batching.model_copy(update={"max_cost": min(most, default=None)})

    def signature(self) -> Signature | None:
        if self._program is None or self._signature is None:
            return None
        return Signature(inputs=self._signature.for_card(()).inputs, outputs=self._output_specs)

    # ---- running ---------------------------------------------------------------------------------------------------

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the module. Raises what the module raises, and BadOutput."""
        assert self._program is not None
        torch, program = self._torch, self._program
        dtypes = dict.fromkeys(feeds, getattr(torch, self._dtype)) if self._dtype else program.dtypes
        tensors = to_tensors(torch, feeds, self._device, dtypes)
        by_position = [tensors.pop(name) for name in program.positional]
        with torch.inference_mode():
            return to_arrays(torch, program.module(*by_position, **tensors), self._output_names)

    def _alone(self, request: _Request) -> dict[str, Array] | WorkflowError:
        try:
            return _chosen(request, self._run(request.feeds))
        except WorkflowError as error:
            return error
        except Exception as cause:
            fault = self._fault_of(cause)
            if fault is None:
                raise
            log.warning("the model refused an input", exc_info=cause)
            fault.__cause__ = cause
            return fault

    def _together(self, requests: list[_Request]) -> list[dict[str, Array]] | None:
        """All requests in one run; None where they cannot be joined, or the answer cannot be cut apart."""
        merged = merge([request.feeds for request in requests])
        if merged is None:
            return None
        parts = merged.split(self._run(merged.inputs))
        if parts is None:
            log.warning("an output does not follow the rows; requests run one by one now")
            self._merges = False
        return parts

    def _fault_of(self, cause: Exception) -> WorkflowError | None:
        """What to tell the caller whose input alone made the module raise; None for a fault of the device."""
        text = str(cause).lower()
        out_of_memory = (
            isinstance(cause, (MemoryError, self._torch.OutOfMemoryError)) or "can't allocate memory" in text
        )
        if out_of_memory:
            return WorkflowError("the model ran out of memory on this input", may_have_run=True)
        if isinstance(cause, self._torch.AcceleratorError) or "cuda error" in text:
            return None
        return InvalidInput("the model refused this input")

    # ---- what is known of the model --------------------------------------------------------------------------------

    def _placed(self, program: Program) -> Program:
        """On the device, in the wanted format, its inputs called as the options say."""
        module = program.module.to(
            device=self._device, dtype=getattr(self._torch, self._dtype) if self._dtype else None
        )
        if self._input_names is None:
            return replace(program, module=module)
        names = self._input_names
        return replace(program, module=module, accepts=names, requires=names, positional=names)

    def _refuse_for_exported(self) -> None:
        """A program's inputs and number formats were fixed when it was exported."""
        for option, value in (("inputs", self._specs), ("input_names", self._input_names), ("dtype", self._dtype)):
            if value is not None:
                raise InvalidInput(f"a torch.export program brings its own {option}: leave this out", param=option)

    def _declared(self, program: Program) -> GraphSignature | None:
        """The signature that the options declare, in the same terms as one that a file brings."""
        if self._specs is None:
            if program.accepts is None:
                raise InvalidInput(
                    "forward takes any input: declare them with `inputs` or `input_names`", param="inputs"
                )
            return None
        declared = {}
        for spec in self._specs:
            if spec.dtype not in DTYPES or spec.dtype == "string":
                raise InvalidInput(f"input {spec.name[:64]!r} has no dtype of torch's", param="inputs")
            if program.accepts is not None and spec.name not in program.accepts:
                raise InvalidInput(f"forward takes no input {spec.name[:64]!r}", param="inputs")
            declared[spec.name] = Input(spec.name, spec.dtype, tuple(None if size < 0 else size for size in spec.shape))
        absent = [name for name in program.requires if name not in declared]
        if absent:
            raise InvalidInput(f"forward needs the input {absent[0][:64]!r}", param="inputs")
        return GraphSignature(declared, ())

    def _may_merge(self, program: Program) -> bool:
        if self._batch is False:
            return False
        if self._signature is None:
            return self._batch is True
        mergeable = self._signature.select(None).mergeable
        if self._batch and not mergeable:
            raise InvalidInput("the signature has no free leading axis on every input and output", param="batch")
        return mergeable

    def _stand_alone(self, specs: list[TensorSpec]) -> bool:
        try:
            return rows_stand_alone(self._run, specs)
        except Exception as cause:  # made-up values prove nothing where the model refuses them
            log.info("the model's rows could not be probed", exc_info=cause)
            return True

    def _learn_outputs(self, answer: Mapping[str, Array], specs: list[TensorSpec]) -> None:
        """Names and shapes of outputs that nobody declared, from the warm-up."""
        if self._outputs is not None:
            return
        self._outputs = tuple(answer)
        fixed_behind = all(size >= 0 for spec in specs for size in spec.shape[1:])
        for name, array in answer.items():
            sizes = list(array.shape) if fixed_behind else [-1] * array.ndim
            shape = [-1, *sizes[1:]] if self._merges and sizes else sizes
            self._output_specs.append(TensorSpec(name=name, dtype=dtype_name(array), shape=shape))

    def _check_names(self, feeds: Mapping[str, Array]) -> None:
        assert self._program is not None
        for name in feeds:
            if name not in (self._program.accepts or ()):
                raise InvalidInput(f"input {name[:64]!r} is unknown", param=name[:64])
        for name in self._program.requires:
            if name not in feeds:
                raise InvalidInput(f"input {name[:64]!r} is missing", param=name[:64])


def _check_outputs(wanted: tuple[str, ...], known: tuple[str, ...] | None) -> None:
    for name in wanted:
        if known is not None and name not in known:
            raise InvalidInput(f"output {name[:64]!r} is unknown", param="outputs")


def _chosen(request: _Request, answer: dict[str, Array]) -> dict[str, Array] | WorkflowError:
    """What the request asked for; an outcome, so that asking for too much hurts nobody else."""
    if request.wanted is None:
        return answer
    try:
        _check_outputs(request.wanted, tuple(answer))
    except InvalidInput as error:
        return error
    return {name: answer[name] for name in request.wanted}
