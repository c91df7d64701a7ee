"""onnxruntime's side of things: what a session is given, and whose fault a failed run is. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from workflows.errors import InvalidInput, WorkflowError
from workflows.resources import Resources

__all__ = [
    "CPU",
    "CUDA",
    "Execution",
    "Optimization",
    "Provider",
    "SessionChoices",
    "choose_providers",
    "fault_of",
    "session_options_of",
    "unloadable",
]

Provider = tuple[str, dict[str, str]]
Optimization = Literal["off", "basic", "extended", "layout", "all"]
Execution = Literal["sequential", "parallel"]

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_ON_GPU: Final = frozenset(
    {
        CUDA,
        "TensorrtExecutionProvider",
        "NvTensorRTRTXExecutionProvider",
        "ROCMExecutionProvider",
        "MIGraphXExecutionProvider",
    }
)
# What onnxruntime raises when a node refuses the values it was given; the same kinds carry faults of memory and device,
# which only the text tells apart.
_REFUSALS: Final = frozenset({"InvalidArgument", "Fail", "RuntimeException"})
_NO_MEMORY: Final = ("failed to allocate", "out of memory", "bad_alloc", "bad allocation")
_DEVICE: Final = ("cuda failure", "cuda error", "cublas failure", "cudnn failure", "cufft failure", "hip failure")


@dataclass(frozen=True, slots=True)
class SessionChoices:
    """What an operator chose for a session, as the options of `ONNXInferenceWorkflow` say it."""

    threads: int | None = None
    graph_optimization: Optimization | None = None
    execution: Execution = "sequential"
    inter_op_threads: int | None = None
    memory_pattern: bool | None = None
    memory_arena: bool | None = None
    entries: Mapping[str, str] = field(default_factory=dict)


def session_options_of(onnxruntime: Any, choices: SessionChoices, resources: Resources) -> Any:
    """The `onnxruntime.SessionOptions` for these choices. Raises InvalidInput for an entry that cannot be one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = choices.threads or resources.threads
    options.inter_op_num_threads = choices.inter_op_threads or 1
    options.log_severity_level = 3
    if choices.graph_optimization is not None:
        level = "DISABLE_ALL" if choices.graph_optimization == "off" else f"ENABLE_{choices.graph_optimization.upper()}"
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    options.execution_mode = getattr(onnxruntime.ExecutionMode, f"ORT_{choices.execution.upper()}")
    if choices.memory_pattern is not None:
        options.enable_mem_pattern = choices.memory_pattern
    if choices.memory_arena is not None:
        options.enable_cpu_mem_arena = choices.memory_arena
    for key, value in choices.entries.items():
        try:
            options.add_session_config_entry(key, value)
        except Exception as cause:
            raise InvalidInput(f"{key[:64]!r} is no session entry", param="session_options") from cause
    return options


def choose_providers(
    resources: Resources, available: Sequence[str], wanted: Sequence[str] | None = None
) -> list[Provider]:
    """The providers of a session, best first; the CPU always comes last, for what the others cannot run.

    Without a GPU in `resources` none is used, even where CUDA is visible.

    Args:
        available: What this build of onnxruntime has.
        wanted: The operator's own choice; None takes CUDA where there is a GPU.

    Raises:
        InvalidInput: A wanted provider is not in this build, or needs a GPU where none was given.
    """
    names = [CUDA] if wanted is None and resources.gpu_ids and CUDA in available else list(wanted or ())
    for name in names:
        if name not in available:
            raise InvalidInput(
                f"this onnxruntime has no {name[:64]!r}; it has {', '.join(available)}", param="providers"
            )
        if name in _ON_GPU and not resources.gpu_ids:
            raise InvalidInput(f"{name} needs a GPU, and this workflow was given none", param="providers")
    return [(name, _options(name, resources)) for name in dict.fromkeys((*names, CPU))]


def unloadable(model: str, kind: str) -> str:
    """What to tell the operator of a model that no session could be made of, by the exception's class name."""
    if kind == "NotImplemented":
        return (
            f"{model!r} has an operator that this onnxruntime cannot run, or not in the number format it is used with"
        )
    return f"{model!r} is not an ONNX model that this onnxruntime can load"


def fault_of(kind: str, text: str) -> WorkflowError | None:
    """What to tell the caller of a run that raised; None for a fault that is ours, to be logged as it is.

    Args:
        kind: The exception's class name in onnxruntime.
        text: Its message, which never reaches the caller.
    """
    lowered = text.lower()
    if any(word in lowered for word in _NO_MEMORY):
        return WorkflowError("the model ran out of memory on this input", may_have_run=True)
    if kind == "UnicodeEncodeError":
        return InvalidInput("the input holds text that is not Unicode")
    if kind in _REFUSALS and not any(word in lowered for word in _DEVICE):
        return InvalidInput("the model refused this input")
    return None


def _options(name: str, resources: Resources) -> dict[str, str]:
    if name not in _ON_GPU:
        return {}
    options = {"device_id": str(resources.gpu_ordinals[0])}
    if name == CUDA and resources.gpu_fraction < 1:
        # The default arena doubles what it takes each time and would crowd out those who share this GPU.
        options["arena_extend_strategy"] = "kSameAsRequested"
    return options
