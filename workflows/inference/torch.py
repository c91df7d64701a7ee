"""PyTorch modules as workflows: a class with safetensors weights, a TorchScript file, or a torch.export program.

Knows how a module is called. How requests are checked and joined stands in `tensor_model`, how files become modules in
`torch_loading`, what may be loaded at all in `torch_files`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from workflows.card import Batching, TensorSpec
from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.graph_signature import GraphSignature, Input, Output, Selection
from workflows.inference.on_demand import OnDemand
from workflows.inference.tensor_model import Request, TensorModelWorkflow
from workflows.inference.torch_device import Dtype, prepare_device
from workflows.inference.torch_files import checked_pin, read_program, read_weights
from workflows.inference.torch_loading import Program, from_class, from_exported, from_torchscript
from workflows.inference.torch_values import check_dtype, named_outputs, to_arrays, to_tensors
from workflows.models.finding import check_model, model_ref, resolve_model
from workflows.models.ref import ModelRef
from workflows.models.sources import ModelSources, sources_of
from workflows.tensors import DTYPES, Array, dtype_name
from workflows.types import Tensors

__all__ = ["TorchInferenceWorkflow"]

log = logging.getLogger(__name__)


class TorchInferenceWorkflow(TensorModelWorkflow):
    """Run a PyTorch model.

    Give either `module` and `weights`, or `model`. Inputs are passed to `forward` by name, or by position in the order of
    `input_names`; nothing is cast but floats, where `dtype` says so. Outputs are called by the keys of the mapping that
    the module returns, else by `output_names`, else `output_0`, `output_1`, ...

    Requests run together only where their rows are known to be independent: the signature has a free leading axis on
    every input (and output, where it knows them) and the warm-up has seen it, or `batch` is true.

    Args:
        module: `package.module:ClassName` of a `torch.nn.Module`.
        module_options: Its constructor's keyword arguments.
        weights: Its state dict as a safetensors file under `root`, or an id where `root` is None, for example
            `huggingface/acme/digits:model.safetensors`; see `workflows.models.finding.resolve_model`.
        model: A TorchScript file or torch.export program, likewise. Both run code when they are loaded, so `sha256` is
            required, or the hash is one of the sources' `code_sha256`.
        root: A directory or `package:name`; None is the working directory.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        sha256: The file's hash: nothing else is loaded.
        inputs: Name, dtype and shape (-1 is free) of every input, against which requests are checked before the model
            runs. A torch.export program brings its own.
        input_names: Inputs that `forward` takes by position.
        output_names: Names for a tuple's members; of a mapping, the members to give, so that others need be no tensors.
        batch: Whether requests may be joined along the leading axis. None asks the signature and the warm-up.
        dtype: Number format of weights and float inputs; None leaves it. What the module then gives is answered in
            its own format.
        threads: CPU threads of this process; None takes `resources.threads`.
        compile_backend: Compile with this backend of torch.compile, for example `inductor`; None runs the module as it is.
        warm_up: Run the model at setup on zeros, which must succeed, and then on a few rows alone and together. Only
            possible where the signature is known.
        max_batch: Requests that may run together.
        max_rows: Rows that may run together; None is unlimited.
        on_demand: The models that requests may name beside this one, weights for `module` or else programs; see
            `workflows.inference.on_demand.OnDemand`. `sha256` is this one's only.
    """

    sample_size = 2  # exported programs often leave no room for 1
    _program: Program | None = None

    def __init__(
        self,
        *,
        module: str | None = None,
        module_options: dict[str, Any] | None = None,
        weights: str | None = None,
        model: str | None = None,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        sha256: str | None = None,
        inputs: list[TensorSpec] | None = None,
        input_names: list[str] | None = None,
        output_names: Annotated[list[str], Field(min_length=1)] | None = None,
        batch: bool | None = None,
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        compile_backend: str | None = None,
        warm_up: bool = True,
        max_batch: Annotated[int, Field(ge=1, le=4096)] = 32,
        max_rows: Annotated[int, Field(ge=1)] | None = None,
        on_demand: OnDemand | None = None,
    ) -> None:
        if (model is None) == (module is None) or (module is None) != (weights is None):
            raise InvalidInput("give either `module` with `weights`, or `model`")
        if output_names is not None and not output_names:
            raise InvalidInput("name at least one output, or leave `output_names` out for all", param="output_names")
        super().__init__(batch=batch, max_batch=max_batch, max_rows=max_rows, warm_up=warm_up, on_demand=on_demand)
        self._module = module
        self._module_options = dict(module_options or {})
        self._file = model or weights or ""
        self._root = root
        self._sources = sources
        self._pin = checked_pin(sha256)
        self._specs = None if inputs is None else [TensorSpec.model_validate(spec) for spec in inputs]
        self._input_names = None if input_names is None else tuple(input_names)
        self._output_names = output_names
        self._dtype = dtype
        self._threads = threads
        self._compile_backend = compile_backend

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        check_model(self._file, self._root, self._sources)

    def do_setup(self) -> None:
        """Load the model. Raises ModelNotFound, InvalidInput naming the option that is wrong, or WorkflowError."""
        import safetensors.torch
        import torch
        from torch.export.passes import move_to_device_pass

        self._torch = torch
        self._device = prepare_device(torch, self.resources, self._threads)
        path = resolve_model(self._file, self._root, self._trusted())
        if self._module is not None:
            content = read_weights(path, self._pin)
            loaded = self._placed(from_class(torch, safetensors.torch, self._module, self._module_options, content))
        else:
            kind, content = read_program(path, self._pin, self._trusted().code_sha256)
            if kind == "torchscript":
                loaded = self._placed(from_torchscript(torch, content))
            else:
                self._refuse_for_exported()
                loaded = from_exported(torch, move_to_device_pass, content, self._device, self._output_names)
        if self._compile_backend is not None:
            if not isinstance(loaded.module, torch.nn.Module) or isinstance(loaded.module, torch.jit.ScriptModule):
                raise InvalidInput("a TorchScript module cannot be compiled", param="compile_backend")
            loaded = replace(loaded, module=torch.compile(loaded.module, backend=self._compile_backend))
        self._program = loaded
        self._know(loaded.signature or self._declared(loaded))

    def do_teardown(self) -> None:
        super().do_teardown()
        self._program = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _trusted(self) -> ModelSources:
        """The sources, which may give what this workflow's own hash allows as well."""
        said = sources_of(self._sources)
        return said if self._pin is None else said.model_copy(update={"code_sha256": said.code_sha256 | {self._pin}})

    # ---- other models ----------------------------------------------------------------------------------------------

    def ref(self) -> ModelRef | None:
        return model_ref(self._file, self._root, sources_of(self._sources))

    def fetch(self) -> int:
        return resolve_model(self._file, self._root, self._sources).stat().st_size

    def taken_bytes(self) -> int:
        """Of parameters and buffers, each once."""
        assert self._program is not None
        module = self._program.module
        return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))

    def _choose(self, model: str) -> None:
        self._file, self._root, self._pin = model, None, None

    # ---- requests --------------------------------------------------------------------------------------------------

    def check(self, input_data: Tensors) -> Request:
        """As for every tensor model; also refuses what torch has no tensors of."""
        request = super().check(input_data)
        for name, array in request.feeds.items():
            check_dtype(name, array)
        return request

    @property
    def limits(self) -> Batching:
        """One by one where requests cannot be joined; never more rows than an exported program takes."""
        limits = super().limits
        if limits.max_size == 1 or self._program is None:
            return limits
        most = [rows for rows in (limits.max_cost, self._program.max_rows) if rows is not None]
        return limits.model_copy(update={"max_cost": min(most, default=None)})

    # ---- running ---------------------------------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Array], selection: Selection) -> dict[str, Array]:
        assert self._program is not None
        torch, program = self._torch, self._program
        dtypes = dict.fromkeys(feeds, getattr(torch, self._dtype)) if self._dtype else program.dtypes
        tensors = to_tensors(torch, feeds, self._device, dtypes)
        by_position = [tensors.pop(name) for name in program.positional]
        with torch.inference_mode():
            given = named_outputs(program.module(*by_position, **tensors), self._output_names)
            return to_arrays(torch, given, None if selection is self._default else selection.wanted)

    def fault_of(self, cause: Exception) -> WorkflowError | None:
        text = str(cause).lower()
        out_of_memory = (
            isinstance(cause, (MemoryError, self._torch.OutOfMemoryError)) or "can't allocate memory" in text
        )
        if out_of_memory:
            return WorkflowError("the model ran out of memory on this input", may_have_run=True)
        if isinstance(cause, self._torch.AcceleratorError) or "cuda error" in text:
            return None
        return InvalidInput("the model refused this input")

    def _alone(self, request: Request) -> dict[str, Array] | WorkflowError:
        outcome = super()._alone(request)
        if isinstance(outcome, WorkflowError) and outcome.__cause__ is not None:
            log.warning("the model refused an input", exc_info=outcome.__cause__)
        return outcome

    def name(self) -> str:
        return self._module or self._file

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

    def _declared(self, program: Program) -> GraphSignature:
        """The signature that the options declare, in the same terms as one that a file brings."""
        if self._specs is None:
            if program.accepts is None:
                raise InvalidInput(
                    "forward takes any input: declare them with `inputs` or `input_names`", param="inputs"
                )
            undeclared = [Input(name, None, None, name in program.requires) for name in program.accepts]
            return GraphSignature({spec.name: spec for spec in undeclared}, None)
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
        return GraphSignature(declared, None)

    def _learn(self, answer: Mapping[str, Array]) -> None:
        """Names and shapes of outputs that nobody declared."""
        if self._graph.outputs is not None:
            return
        required = self._graph.required
        fixed_behind = all(isinstance(dim, int) for spec in required for dim in (spec.dims or ())[1:])
        outputs = []
        for name, array in answer.items():
            dims = [size if fixed_behind else None for size in array.shape]
            if dims and self._default.mergeable and array.shape[0] == self.sample_size:
                dims[0] = None
            outputs.append(Output(name, "tensor", dtype_name(array), tuple(dims)))
        self._declare(replace(self._graph, outputs=tuple(outputs)))
